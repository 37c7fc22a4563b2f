"""The child process: one device, one plan, units in, committed units out.

Three stages run side by side: cases are read ahead, batches computed, units finished.  A worker
that runs `alone` takes one case at a time through all three, so that `pulse.case` names the one
that ends it.
"""

import ctypes
import faulthandler
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from threading import current_thread
from time import monotonic
from typing import cast

import numpy as np

from mcdiff_batch.engine.archive.archive import Archive, open_archive
from mcdiff_batch.engine.errors import ArchiveError, CaseError, McdiffError
from mcdiff_batch.engine.image.frame import Image
from mcdiff_batch.engine.model.batch import batches, condition, padded, strips
from mcdiff_batch.engine.model.framing import Failure, FramedCase, LoadError, frame_case, prefetched
from mcdiff_batch.engine.model.noise import gaussian
from mcdiff_batch.engine.model.plan import Device, Plan, PlanMaker
from mcdiff_batch.engine.model.sampler import draws
from mcdiff_batch.engine.telemetry.spans import (
    BLOCKED,
    FEEDING,
    FINISHING,
    IDLE,
    LOAD,
    MODEL,
    READING,
    START,
    TASK,
    WAIT,
    Notes,
    noting,
    span,
)

from . import finisher
from .finisher import IO, Sampled, Work
from .heartbeat import Pulse
from .messages import Broke, Ready, Recipe, Task
from .stages import ahead

OUT_OF_MEMORY = ("out of memory", "failed to allocate", "bad_alloc", "out_of_memory")
PR_SET_PDEATHSIG = 1
READ_AHEAD = 2  # batches
FINISH_BEHIND = 2

Batch = list[FramedCase]  # empty: the unit has no more


def main(
    recipe: Recipe,
    maker: PlanMaker,
    device: Device,
    alone: bool,
    line: Connection,
    pulse: Pulse,
    parent: int,
    lock: object,
) -> None:
    """Runs until told to end, or the parent is gone.  `lock` keeps the output's lock alive (P7)."""
    _guard(parent)
    code = 0
    try:
        _serve(recipe, maker, device, alone, line, pulse)
    except EOFError:
        code = 1  # the parent is gone
    except BaseException as error:
        line.send(told(error, recipe))
        code = 1
    sys.stderr.flush()
    os._exit(code)  # stages may be left waiting for each other


def _guard(parent: int) -> None:
    """Die with the parent (P9), let it decide about signals, tell where a crash or hang was."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _serve(
    recipe: Recipe,
    maker: PlanMaker,
    device: Device,
    alone: bool,
    line: Connection,
    pulse: Pulse,
) -> None:
    archive = open_archive(recipe.archive)
    if archive.identity != recipe.identity:
        raise ArchiveError(f"{recipe.archive}: was changed during the run; start a new output")
    source = read(tasks(line), archive, recipe, alone, pulse)
    framed = ahead(source, 0 if alone else READ_AHEAD, _gauge("batches framed"))
    make = lambda: _ready(maker(device, recipe.batch_size), line)
    results = compute(framed, make, recipe, pulse)
    computed = ahead(results, 0 if alone else FINISH_BEHIND, _gauge("batches computed"))
    moment = monotonic()
    for work, batch in computed:
        work.notes.waited(IDLE, FINISHING, moment)
        for done in batch:
            finisher.finish_case(work, done, recipe)
            pulse.beat()
        if not batch:
            pulse.begin(-1)
            line.send(finisher.commit(work, recipe))
        moment = monotonic()


def _gauge(name: str) -> Callable[[tuple[Work, object], int], None]:
    return lambda item, ready: item[0].notes.count(name, ready)


def _ready(plan: Plan, line: Connection) -> Plan:
    line.send(Ready())
    return plan


def tasks(line: Connection) -> Iterator[Task]:
    """What the parent hands out, until it says that there is no more."""
    while (task := cast(Task | None, line.recv())) is not None:
        yield task


def read(
    source: Iterator[Task], archive: Archive, recipe: Recipe, alone: bool, pulse: Pulse
) -> Iterator[tuple[Work, Batch]]:
    """Batches of framed cases, alone of one; then an empty one for the end of a unit."""
    size, lookahead = (1, 1) if alone else (recipe.batch_size, 2 * recipe.batch_size)
    moment = monotonic()
    for task in source:
        work = Work(task=task)
        work.notes.waited(TASK, FEEDING, moment)
        for case in task.poison:
            work.leave_open(case, "poison", "ended a worker that had only this case")
        load = loader(archive, recipe, work, pulse)
        framed = prefetched(task.cases, load, lookahead, recipe.readers)
        for batch in batches(_good(framed, work), size):
            yield work, batch
        yield work, []
        moment = monotonic()


def loader(
    archive: Archive, recipe: Recipe, work: Work, pulse: Pulse
) -> Callable[[int], FramedCase]:
    def load(index: int) -> FramedCase:
        pulse.begin(index)
        lane = f"{READING} {current_thread().name.rpartition('_')[2]}"
        try:
            with noting(work.notes, lane, index):
                with span("read"):
                    case = archive.read(index)
                with span("frame"):
                    return frame_case(case, recipe.contract)
        except OSError as error:
            raise CaseError(IO, f"cannot be read now ({error.strerror})") from error

    return load


def _good(framed: Iterator[FramedCase | Failure], work: Work) -> Iterator[FramedCase]:
    for item in framed:
        if isinstance(item, Failure):
            finisher.fail(work, item)
        else:
            yield item


def compute(
    source: Iterator[tuple[Work, Batch]],
    make: Callable[[], Plan],
    recipe: Recipe,
    pulse: Pulse,
) -> Iterator[tuple[Work, list[Sampled]]]:
    """The plan is made here, in the thread that uses it.  Asked to drain, begins no new unit."""
    current, waits = None, Notes()
    moment = waits.waited(START, MODEL, pulse.born)
    plan = make()
    moment = waits.waited(LOAD, MODEL, moment)
    for work, batch in source:
        if work is not current and pulse.draining:
            return
        waits.waited(WAIT, MODEL, moment)
        work.notes.spans += waits.taken()
        current = work
        pulse.begin_unit(work.task.unit.index)
        done = enhanced(plan, batch, work, recipe, pulse) if batch else []
        moment = monotonic()
        yield work, done
        moment = waits.waited(BLOCKED, MODEL, moment)  # for the next unit: this may be committed


def enhanced(plan: Plan, batch: Batch, work: Work, recipe: Recipe, pulse: Pulse) -> list[Sampled]:
    """condition -> sample -> relabel, for a batch of one fixed, padded shape (P4)."""
    with noting(work.notes, MODEL), span("batch"):
        return _enhanced(plan, batch, recipe, pulse)


def _enhanced(plan: Plan, batch: Batch, recipe: Recipe, pulse: Pulse) -> list[Sampled]:
    full = padded(batch, plan.batch)
    with span("condition"):
        conditioned = condition(plan, full)
        pulse.beat()
    with span("sample"):
        noises = (noise(full, recipe, draw) for draw in range(recipe.draws))
        drawn = draws(plan, noises, conditioned, recipe.rungs, tick=pulse.beat)
    with span("relabel"):
        strip = strips(full)
        images = np.where(strip > 0, drawn.mean, np.float32(-1))
        after = plan.relabel(images, strip)
    pulse.computed(len(batch))
    return [
        Sampled(
            case=case,
            image=drawn.mean[row, 0],
            before=conditioned.label[row],
            after=after[row],
            spread=None if drawn.spread is None else drawn.spread[row, 0],
        )
        for row, case in enumerate(batch)
    ]


def noise(batch: Sequence[FramedCase], recipe: Recipe, draw: int) -> Image:
    """x_T, [B, 1, H, W]."""
    frame = recipe.contract.frame
    shape = (1, frame.height, frame.width)
    drawn = np.stack([gaussian(recipe.seed, case.key, shape, draw) for case in batch])
    return np.float32(recipe.temperature) * drawn


def told(error: BaseException, recipe: Recipe) -> Broke:
    """What the parent hears of an error that ends the worker; no path in it (P10)."""
    if isinstance(error, McdiffError):
        return Broke(kind="end", detail=str(error), error=error)
    cause = error.__cause__ if isinstance(error, LoadError) and error.__cause__ else error
    text = f"{type(cause).__name__}: {cause}"
    for path in (recipe.archive, recipe.output):
        text = text.replace(str(path), "...")
    memory = isinstance(cause, MemoryError) or any(x in text.lower() for x in OUT_OF_MEMORY)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Broke(kind="memory" if memory else "fault", detail=text, resident=resident)
