"""Runs a whole job: enhances the cases that are pending and completes the output."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mcdiff_batch.engine.archive.archive import Archive, open_archive
from mcdiff_batch.engine.backends.backend import BUILD
from mcdiff_batch.engine.cloud.place import Url
from mcdiff_batch.engine.errors import CaseError, Drained, Exit, McdiffError, SpaceError, explain
from mcdiff_batch.engine.model.plan import PlanMaker
from mcdiff_batch.engine.output import arrays, durable, ledger, manifest, runs, shards
from mcdiff_batch.engine.output.ledger import DONE, FAILED, Incident
from mcdiff_batch.engine.output.repair import set_aside
from mcdiff_batch.engine.output.runs import Run
from mcdiff_batch.engine.output.units import make_unit
from mcdiff_batch.engine.output.verify import Damage, find_damage
from mcdiff_batch.engine.signals import handling
from mcdiff_batch.engine.telemetry import tracefile
from mcdiff_batch.engine.telemetry.machine import cores
from mcdiff_batch.engine.telemetry.sampling import load_nvml, sampling
from mcdiff_batch.engine.text import format_bytes

from .job import Job, ResolvedJob, Survey, bytes_needed, resolve, survey
from .pool import Pool
from .process import Processes
from .protocol import Recipe, Task, WorkersMaker
from .tracker import Progress, Tracker, print_warning

STORE_READERS = 16  # requests at a time, for a device; at 20 ms each, 800 cases/s


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How a run ended.  It counts all cases of the output, those of earlier runs too."""

    output: Path
    archive: Archive  # as it was at the end of the run
    cases: int  # selected
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
        bad = self.counts[FAILED] or self.unfinished
        return Exit.FAILED_CASES if bad else Exit.DONE


def repair(job: Job) -> tuple[list[Damage], list[Damage]]:
    """Sets aside what is damaged in an output, so that `enhance` does it again.

    Returns the damage that `enhance` repairs, and the damage that stays.  Raises McdiffError.
    """
    if not resolve(job).begun:
        return [], []
    with runs.lock(job.output):
        found = list(find_damage(job.output))
        if any(x.name.startswith(f"{runs.PLAN}/") for x in found):
            _copy_plan(job)  # the compiled files that were found elsewhere have the right hashes
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
    maker: PlanMaker,
    progress: Callable[[Progress], None] = lambda _: None,
    workers: WorkersMaker = Processes,
    warn: Callable[[str], None] = print_warning,
) -> Summary:
    """Processes what is pending and completes the output.  Raises McdiffError.

    Called again with the same job it goes on where the last run ended, whatever ended it (P1).
    """
    resolve(job)  # a wrong input or option ends the run before anything is written
    signals = StopSignals()
    with runs.lock(job.output) as lock, handling(signals.add):
        resolved = resolve(job)
        todo = survey(resolved)
        check_space(resolved, len(todo.pending))
        _try_output(job.output, warn)
        with durable.explain_errors(job.output):
            _prepare(resolved, todo)
        cases = len(resolved.selection)
        tracker = Tracker(job.output, cases, todo.counts, job.max_failures, progress, warn)
        with _closing(tracker):
            if todo.pending:
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
                with sampling(job.output, *start, load_nvml()) as tracker.telemetry:
                    pool.run(_task(resolved, index) for index in todo.pending)
            summary = _complete(resolved, todo, tracker, signals)
            tracker.exit_code = summary.exit_code
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


def _try_output(root: Path, warn: Callable[[str], None]) -> None:
    """Says what the output's file system cannot promise; clears what a killed run left there.

    Raises UsageError where `root` cannot be written to, SpaceError, McdiffError.
    """
    try:
        weakness = durable.find_weakness(root)
    except OSError as error:
        raise explain(error, root) from error
    if weakness:
        warn(f"{root}: {weakness}")
    durable.clear_scratch(root)


def check_space(resolved: ResolvedJob, units: int) -> None:
    """Raises SpaceError if `units` more may not fit on the disk."""
    folder = resolved.job.output
    while not folder.exists():
        folder = folder.parent
    free, needed = shutil.disk_usage(folder).free, bytes_needed(resolved, units)
    if free < needed:
        raise SpaceError(
            f"{resolved.job.output}: {format_bytes(free)} are free, up to {format_bytes(needed)} "
            "are needed; make room, or use an --output elsewhere"
        )


def _prepare(resolved: ResolvedJob, todo: Survey) -> None:
    """Writes metadata, then run.json: where that exists, the metadata are complete."""
    root = resolved.job.output
    durable.make_folder(root, root / tracefile.FOLDER)
    durable.sync_again(root, [ledger.FOLDER, *shards.folders(resolved.layout, todo.pending)])
    if not resolved.begun:
        for name, data in _metadata(resolved).items():
            durable.write(root, name, data)
        for name in resolved.layout.images:
            durable.make_folder(root, root / shards.FOLDER / name / "c")
        durable.make_folder(root, root / ledger.FOLDER)
        _copy_plan(resolved.job)
        contract = asdict(resolved.job.contract)
        runs.save(root, Run(settings=resolved.settings, contract=contract))
    if todo.pending:
        durable.remove(root, runs.MANIFEST)


def _copy_plan(job: Job) -> None:
    """Keeps the compiled plan for a later run: compiling again would give other bytes."""
    if job.plan_folder is None:
        return
    for name in (*(job.plan_files or {}), BUILD):
        durable.write(job.output, f"{runs.PLAN}/{name}", (job.plan_folder / name).read_bytes())


def _metadata(resolved: ResolvedJob) -> arrays.Files:
    return arrays.metadata_files(resolved.layout, _attributes(resolved))


def _attributes(resolved: ResolvedJob) -> dict[str, Any]:
    """Attributes of images.zarr: all that a reader needs to know without this program."""
    draws = resolved.settings.draws
    spread = f"standard deviation (n - 1) of {draws} draws' results, grey levels of enhanced"
    return {
        "schema": 1,
        "grid": resolved.settings.grid,
        "frame": asdict(resolved.job.contract.frame),
        "classes": list(resolved.job.contract.classes),
        "intensity_range": [0, 255],
        "label": "label map of the enhanced image",
        "placement": "frame px = (top, left) + scale * input px",
        **({"spread": spread} if draws > 1 else {}),
    }


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
        return STORE_READERS
    return max(1, min(4, cores() // len(job.devices) // 2))


def _task(resolved: ResolvedJob, index: int) -> Task:
    whole = make_unit(index, resolved.archive.cases, resolved.settings.unit_size)
    return Task(unit=whole, cases=tuple(x for x in whole.cases if x in resolved.selection))


def _complete(
    resolved: ResolvedJob, todo: Survey, tracker: Tracker, signals: StopSignals
) -> Summary:
    """Writes the columns and then the manifest, once every unit has its record."""
    root, archive = resolved.job.output, open_archive(resolved.archive.path)
    with durable.explain_errors(root):
        if archive.identity != resolved.archive.identity:
            detail = "the archive was changed during the run"
            tracker.record_incident(Incident(kind="input", detail=detail))
        left = [index for index in todo.pending if not _has_record(root, index)]
        if not left and (todo.pending or not (root / runs.MANIFEST).is_file()):
            manifest.complete(root, resolved.layout, _metadata(resolved))
    summary = _summary(resolved, archive, tracker)
    if left and signals.count:
        raise Drained(
            f"{root}: stopped on a signal, {summary.unfinished} cases are left; run the same "
            "command again"
        )
    return summary


def _has_record(root: Path, unit: int) -> bool:
    """Whether a unit has a record that can be read: a damaged one counts as none."""
    try:
        ledger.read(root, unit)
    except (FileNotFoundError, ledger.DamagedRecord):
        return False
    return True


def _summary(resolved: ResolvedJob, archive: Archive, tracker: Tracker) -> Summary:
    counts: Counter[str] = Counter(dict.fromkeys(ledger.STATUSES, 0))
    flagged = 0
    for head in ledger.read_heads(resolved.job.output):
        counts.update(head.counts)
        flagged += head.flagged
    return Summary(
        output=resolved.job.output,
        archive=archive,
        cases=len(resolved.selection),
        counts=dict(counts),
        flagged=flagged,
        units=tracker.units,
        incidents=tracker.incidents,
        seconds=tracker.elapsed,
    )
