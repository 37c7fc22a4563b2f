"""The whole job: an archive in, an enhanced and accounted-for archive out."""

import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.backends.plan_cache import BUILD
from mcdiff_batch.engine.errors import Drained, Exit, McdiffError, SpaceError
from mcdiff_batch.engine.model.plan import PlanMaker
from mcdiff_batch.engine.output import arrays, durable, ledger, manifest, runs, shards
from mcdiff_batch.engine.output.ledger import DONE, FAILED, Incident
from mcdiff_batch.engine.output.units import unit
from mcdiff_batch.engine.signals import SIGNALS
from mcdiff_batch.engine.telemetry import tracefile
from mcdiff_batch.engine.telemetry.machine import cores
from mcdiff_batch.engine.telemetry.sampling import sampling

from .job import Job, Resolved, Survey, bytes_needed, resolve, survey
from .messages import Recipe, Task
from .pool import Pool
from .tracker import Books, Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How a run ended; counts over all its cases, those of earlier runs too."""

    output: Path
    cases: int  # selected
    counts: dict[str, int]  # by status; skipped: not selected, in units that were touched
    flagged: int  # of those done
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


class Asked:
    """How many signals have asked the run to stop."""

    def __init__(self) -> None:
        self.count = 0

    def _heard(self, *_: object) -> None:
        self.count += 1

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Python hears signals in the main thread only.  One that nohup ignores stays ignored."""
        main = threading.current_thread() is threading.main_thread()
        before = {number: signal.getsignal(number) for number in SIGNALS if main}
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, self._heard)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Runner(Protocol):
    """Pool, or what a test puts in its place."""

    def run(self, tasks: Iterable[Task]) -> None: ...

    def stop(self) -> None: ...


def enhance(
    job: Job,
    maker: PlanMaker,
    progress: Callable[[Progress], None] = lambda _: None,
    pool: Callable[..., Runner] = Pool,
    nvml: Any = None,  # NVIDIA's library; None: the one there is
) -> Summary:
    """Does what is pending and completes the output.  Raises McdiffError.

    With the same job again it goes on where it was stopped, whatever stopped it (P1).
    """
    resolve(job)  # what is wrong with the input or the options is said before anything is made
    asked = Asked()
    with runs.locked(job.output) as lock, asked.listening():
        resolved = resolve(job)
        todo = survey(resolved)
        check_space(resolved, len(todo.pending))
        durable.clean(job.output)
        with durable.writing(job.output):
            _prepare(resolved, todo)
        books = Books(job.output, len(resolved.selection), todo.counts, job.max_failures, progress)
        with _closing(books):
            if todo.pending:
                runner = pool(
                    _recipe(resolved),
                    maker,
                    job.devices,
                    job.limits,
                    books,
                    lock=lock,
                    asked=lambda: asked.count,
                )
                books.stop = runner.stop
                with sampling(job.output, books.began, books.start, nvml) as books.telemetry:
                    runner.run(_task(resolved, index) for index in todo.pending)
            return _completed(resolved, todo, books, asked)


@contextmanager
def _closing(books: Books) -> Iterator[None]:
    ended = "UNEXPECTED"
    try:
        yield
        ended = "COMPLETED"
    except McdiffError as error:
        ended = error.exit_code.name
        raise
    finally:
        books.close(ended)


def check_space(resolved: Resolved, units: int) -> None:
    """Raises SpaceError where what is still to be written may not fit."""
    folder = resolved.job.output
    while not folder.exists():
        folder = folder.parent
    free, needed = shutil.disk_usage(folder).free, bytes_needed(resolved, units)
    if free < needed:
        raise SpaceError(
            f"{resolved.job.output}: {free >> 20} MiB are free, up to {needed >> 20} MiB are "
            "needed; make room, or use an --output elsewhere"
        )


def _prepare(resolved: Resolved, todo: Survey) -> None:
    """Metadata first, then run.json, which says that they are there."""
    root = resolved.job.output
    durable.make_folder(root, root / tracefile.FOLDER)
    if not resolved.begun:
        for name, data in arrays.files(resolved.layout, _about(resolved)).items():
            durable.write(root, name, data)
        for name in resolved.layout.images:
            durable.make_folder(root, root / shards.FOLDER / name / "c")
        durable.make_folder(root, root / ledger.FOLDER)
        _keep_plan(resolved.job)
        runs.save(root, resolved.settings, {"contract": asdict(resolved.job.contract)})
    if todo.pending:
        durable.remove(root, runs.MANIFEST)


def _keep_plan(job: Job) -> None:
    """A compiled plan is not made twice with the same bytes: what a resume needs is kept."""
    if job.plan_folder is None:
        return
    for name in (*(job.plan_files or {}), BUILD):
        durable.write(job.output, f"{runs.PLAN}/{name}", (job.plan_folder / name).read_bytes())


def _about(resolved: Resolved) -> dict[str, Any]:
    """Attributes of images.zarr: all that is needed to read it without us."""
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


def _recipe(resolved: Resolved) -> Recipe:
    job = resolved.job
    return Recipe(
        archive=job.archive,
        identity=resolved.archive.identity,
        output=job.output,
        contract=job.contract,
        rungs=tuple(resolved.rungs),
        seed=resolved.settings.seed,
        temperature=resolved.settings.temperature,
        draws=resolved.settings.draws,
        batch_size=resolved.settings.batch_size,
        layout=resolved.layout,
        readers=max(1, min(4, cores() // len(job.devices) // 2)),
    )


def _task(resolved: Resolved, index: int) -> Task:
    found = unit(index, resolved.archive.cases, resolved.settings.unit_size)
    return Task(unit=found, cases=tuple(x for x in found.cases if x in resolved.selection))


def _completed(resolved: Resolved, todo: Survey, books: Books, asked: Asked) -> Summary:
    """The last act, unless units are left that have no record."""
    root = resolved.job.output
    with durable.writing(root):
        if open_archive(resolved.job.archive).identity != resolved.archive.identity:
            books.incident(Incident(kind="input", detail="the archive was changed during the run"))
        left = [index for index in todo.pending if not (root / ledger.name(index)).is_file()]
        if not left and (todo.pending or not (root / runs.MANIFEST).is_file()):
            manifest.complete(root, resolved.layout)
    summary = _summary(resolved, books)
    if left and asked.count:
        raise Drained(
            f"{root}: stopped on a signal, {summary.unfinished} cases are left; run the same "
            "command again"
        )
    return summary


def _summary(resolved: Resolved, books: Books) -> Summary:
    counts: Counter[str] = Counter(dict.fromkeys(ledger.STATUSES, 0))
    flagged = 0
    for head in ledger.heads(resolved.job.output):
        counts.update(head.counts)
        flagged += head.flagged
    return Summary(
        output=resolved.job.output,
        cases=len(resolved.selection),
        counts=dict(counts),
        flagged=flagged,
        units=books.units,
        incidents=books.incidents,
        seconds=books.elapsed,
    )
