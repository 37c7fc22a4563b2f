"""Runs a whole job: enhances the cases that are pending and completes the output."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from mcdiff_batch.engine.archive.archive import Archive, open_archive
from mcdiff_batch.engine.cloud.objects import REQUESTS
from mcdiff_batch.engine.cloud.place import Url
from mcdiff_batch.engine.errors import CaseError, Drained, Exit, McdiffError, UsageError
from mcdiff_batch.engine.model.plan import PlanMaker
from mcdiff_batch.engine.output import durable, ledger, locks, manifest, runs
from mcdiff_batch.engine.output.ledger import DONE, FAILED, Incident
from mcdiff_batch.engine.output.repair import set_aside
from mcdiff_batch.engine.output.units import Part
from mcdiff_batch.engine.output.verify import Damage, find_damage
from mcdiff_batch.engine.signals import handling
from mcdiff_batch.engine.telemetry.machine import cores
from mcdiff_batch.engine.telemetry.sampling import load_nvml, sampling

from .job import Job, ResolvedJob, Survey, resolve, survey
from .pool import Pool
from .preflight import begin, check_space, copy_plan, metadata_files, open_output, try_output
from .process import Processes
from .protocol import Recipe, Task, WorkersMaker
from .tracker import Progress, Tracker, print_warning


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How a run ended.  It counts all cases of the output, or of the part, those of earlier runs
    too."""

    output: Path
    part: Part | None
    archive: Archive  # as it was at the end of the run
    cases: int  # selected
    archive_cases: int  # selected or not
    not_selected: int  # cases of the archive that are not part of the output
    counts: dict[str, int]  # by status; skipped: not selected, in a unit with selected cases
    flagged: int  # of the cases done
    units: int  # done by this run
    incidents: int
    seconds: float

    @property
    def unfinished(self) -> int:
        return self.cases - self.counts[DONE] - self.counts[FAILED]

    @property
    def exit_code(self) -> Exit:
        """A part has done what it should when all its units are done: who finishes the run says
        that cases have failed."""
        bad = self.unfinished or (self.counts[FAILED] and self.part is None)
        return Exit.FAILED_CASES if bad else Exit.DONE


def repair(job: Job) -> tuple[list[Damage], list[Damage]]:
    """Sets aside what is damaged in an output, or in a part of it, so that `enhance` does it again.

    Returns the damage that `enhance` repairs, and the damage that stays.  Raises McdiffError.
    """
    if not resolve(job).begun:
        return [], []
    with locks.lock(job.output, job.part):
        found = [x for x in find_damage(job.output) if x.unit is None or job.takes(x.unit)]
        if any(x.name.startswith(f"{runs.PLAN}/") for x in found):
            copy_plan(job)  # the compiled files that were found elsewhere have the right hashes
        return set_aside(job.output, found, lambda case: _readable(job.archive, case))


def _readable(archive: Archive, case: int) -> bool:
    try:
        archive.read(case)
    except (CaseError, OSError):
        return False
    return True


class StopSignals:
    """Counts the signals that have asked the run to stop."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, *_: object) -> None:
        self.count += 1


def enhance(
    job: Job,
    maker: PlanMaker | None,
    progress: Callable[[Progress], None] = lambda _: None,
    workers: WorkersMaker = Processes,
    warn: Callable[[str], None] = print_warning,
) -> Summary:
    """Processes what is pending and completes the output.  Raises McdiffError.

    Called again with the same job it goes on where the last run ended, whatever ended it (P1).
    A part only processes its units; a job that is to finish a run only completes it, and needs no
    `maker`.
    """
    resolve(job)  # a wrong input or option ends the run before anything is written
    signals = StopSignals()
    with locks.lock(job.output, job.part) as lock, handling(signals.add):
        resolved = resolve(job)
        if job.finish and not resolved.begun:
            raise UsageError(f"{job.output}: contains no run to finish; begin with --part k/n")
        todo = survey(resolved)
        check_space(resolved, 0 if job.finish else len(todo.pending))
        try_output(job, warn)
        with durable.explain_errors(job.output):
            if not resolved.begun:
                resolved = begin(resolved)
                todo = survey(resolved)
            open_output(resolved, todo)
        tracker = Tracker(
            resolved.journal,
            resolved.count_cases(),
            todo.counts,
            job.max_failures,
            progress,
            warn,
            archive_cases=resolved.archive.cases,
            not_selected=resolved.not_selected,
        )
        with _closing(tracker):
            if todo.pending and maker is not None and not job.finish:
                pool = Pool(
                    workers(_recipe(resolved), maker, lock),
                    job.devices,
                    job.limits,
                    tracker,
                    batch_size=resolved.settings.batch_size,
                    signals=lambda: signals.count,
                )
                tracker.stop = pool.stop
                start = tracker.began, tracker.start
                with sampling(resolved.journal, *start, load_nvml()) as tracker.telemetry:
                    pool.run(_task(resolved, index) for index in todo.pending)
            summary = _complete(resolved, todo, tracker, signals)
            tracker.exit_code = summary.exit_code
            tracker.whole = not summary.unfinished or durable.files(job.output).exists(
                runs.MANIFEST
            )
        return summary


@contextmanager
def _closing(tracker: Tracker) -> Iterator[None]:
    """Closes the tracker with the exit code of the run."""
    try:
        yield
    except McdiffError as error:
        tracker.exit_code = error.exit_code
        raise
    finally:
        tracker.close()


def _recipe(resolved: ResolvedJob) -> Recipe:
    job = resolved.job
    return Recipe(
        archive=job.archive.path,
        identity=job.archive.identity,
        output=job.output,
        contract=job.contract,
        rungs=tuple(resolved.rungs),
        seed=resolved.settings.seed,
        temperature=resolved.settings.temperature,
        draws=resolved.settings.draws,
        batch_size=resolved.settings.batch_size,
        layout=resolved.layout,
        canary=resolved.settings.canary or job.canary,
        readers=_count_readers(job),
    )


def _count_readers(job: Job) -> int:
    """Threads per worker.  Those that wait for an object store need no core."""
    if isinstance(job.archive.path, Url):
        return REQUESTS
    return max(1, min(4, cores() // len(job.devices) // 2))


def _task(resolved: ResolvedJob, index: int) -> Task:
    return Task(unit=resolved.make_unit(index), cases=resolved.select_cases(index))


def _complete(
    resolved: ResolvedJob, todo: Survey, tracker: Tracker, signals: StopSignals
) -> Summary:
    """Writes the columns and then the manifest, once every unit has its record; a part does not.

    Until that is done nobody else commits a unit: a part that was thought dead may try.
    """
    root, archive = resolved.job.output, open_archive(resolved.archive.path)
    with durable.explain_errors(root):
        if archive.identity != resolved.archive.identity:
            detail = "the archive was changed during the run"
            tracker.record_incident(Incident(kind="input", detail=detail))
        with nullcontext() if resolved.job.part else locks.units_locked(root):
            heads = durable.files(root).map(lambda x: runs.read_committed(root, x), todo.pending)
            left = [x for x, head in zip(todo.pending, heads, strict=True) if head is None]
            if not (left or resolved.job.part or durable.files(root).exists(runs.MANIFEST)):
                manifest.complete(root, resolved.layout, metadata_files(resolved))
    summary = _summary(resolved, archive, tracker)
    if left and signals.count:
        raise Drained(
            f"{root}: stopped on a signal, {summary.unfinished} cases are left; run the same "
            "command again"
        )
    return summary


def _summary(resolved: ResolvedJob, archive: Archive, tracker: Tracker) -> Summary:
    counts: Counter[str] = Counter(dict.fromkeys(ledger.STATUSES, 0))
    flagged = 0
    heads = ledger.read_heads(resolved.job.output)
    for head in (x for x in heads if resolved.job.takes(x.unit)):
        counts.update(head.counts)
        flagged += head.flagged
    return Summary(
        output=resolved.job.output,
        part=resolved.job.part,
        archive=archive,
        cases=resolved.count_cases(),
        archive_cases=resolved.archive.cases,
        not_selected=resolved.not_selected,
        counts=dict(counts),
        flagged=flagged,
        units=tracker.units,
        incidents=tracker.incidents,
        seconds=tracker.elapsed,
    )
