"""What a worker does: takes units, enhances their cases on one device, and commits the units.

Three stages run side by side: one reads cases ahead, one computes batches, one finishes units.  A
worker that runs `alone` takes one case at a time through all three, so that its pulse names the
case that ends it.
"""

import faulthandler
import os
import re
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from threading import current_thread
from time import monotonic
from typing import cast

import numpy as np

from mcdiff_batch.engine.archive.archive import Archive, open_archive
from mcdiff_batch.engine.errors import (
    RAISE_LIMIT,
    ArchiveError,
    CaseError,
    McdiffError,
    lacks_threads,
)
from mcdiff_batch.engine.image.frame import Image
from mcdiff_batch.engine.model.batch import batches, condition, pad, strips
from mcdiff_batch.engine.model.canary import find_canary
from mcdiff_batch.engine.model.framing import Failure, FramedCase, LoadError, frame_case, prefetch
from mcdiff_batch.engine.model.noise import gaussian
from mcdiff_batch.engine.model.plan import Device, Plan, PlanMaker
from mcdiff_batch.engine.model.sampler import sample_draws
from mcdiff_batch.engine.signals import SIGNALS, end_with_parent
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
    SpanLog,
    recording,
    span,
)

from . import finisher
from .finisher import IO, Enhancement, Work
from .heartbeat import Pulse
from .protocol import REFUSED, Breakdown, Ready, Recipe, Task
from .stages import run_ahead

OUT_OF_MEMORY = (
    *("out of memory", "failed to allocate", "bad_alloc", "out_of_memory"),
    "alloc_failed",  # of cuBLAS and cuDNN
)
READ_AHEAD = 2  # batches
FINISH_BEHIND = 2  # batches

Batch = list[FramedCase]  # an empty one ends a unit


class OtherBitsError(Exception):
    """The plan's canary is not that of the run."""


def main(
    recipe: Recipe,
    maker: PlanMaker,
    device: Device,
    alone: bool,
    pipe: Connection,
    pulse: Pulse,
    parent: int,
    lock: object,
) -> None:
    """The whole life of a worker process.  While it holds `lock`, the output stays locked (P7)."""
    _guard(parent)
    code = 0
    try:
        _serve(recipe, maker, device, alone, pipe, pulse)
    except EOFError:
        code = 1  # the parent has ended
    except BaseException as error:
        with suppress(OSError):  # the parent has ended
            pipe.send(breakdown(error, recipe))
        code = 1
    with suppress(OSError, ValueError, AttributeError):  # a full disk, or no stderr at all
        sys.stderr.flush()
    os._exit(code)  # threads of the stages may wait for each other


def _guard(parent: int) -> None:
    """Ends this process with its parent (P9), leaves signals to the parent, and prints the stacks
    of a crash or, on SIGUSR1, of a hang."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    end_with_parent(parent)


def _serve(
    recipe: Recipe,
    maker: PlanMaker,
    device: Device,
    alone: bool,
    pipe: Connection,
    pulse: Pulse,
) -> None:
    archive = open_archive(recipe.archive)
    if archive.identity != recipe.identity:
        raise ArchiveError(f"{recipe.archive}: was changed during the run; start a new output")
    source = read(tasks(pipe), archive, recipe, alone, pulse)
    batches_framed = run_ahead(source, 0 if alone else READ_AHEAD, _gauge("batches framed"))
    make = lambda: _ready(maker(device, recipe.batch_size), recipe, device, pipe)
    results = compute(batches_framed, make, recipe, pulse)
    computed = run_ahead(results, 0 if alone else FINISH_BEHIND, _gauge("batches computed"))
    moment = monotonic()
    for work, batch in computed:
        work.log.add_wait(IDLE, FINISHING, moment)
        for done in batch:
            finisher.finish_case(work, done, recipe)
            pulse.beat()
        if not batch:
            pulse.begin(-1)
            pipe.send(finisher.commit(work, recipe))
        moment = monotonic()


def _gauge(name: str) -> Callable[[tuple[Work, object], int], None]:
    return lambda item, ready: item[0].log.add_count(name, ready)


def _ready(plan: Plan, recipe: Recipe, device: Device, pipe: Connection) -> Plan:
    if recipe.canary:
        found = find_canary(plan, recipe.contract, device)
        if found != recipe.canary:
            raise OtherBitsError(
                "this host computes other bits than the one that began the run (canary "
                f"{found[:12]} against {recipe.canary[:12]}), so results would differ; leave it "
                "out or start a new output"
            )
    pipe.send(Ready())
    return plan


def tasks(pipe: Connection) -> Iterator[Task]:
    """Tasks from the parent, until it sends None."""
    while (task := cast(Task | None, pipe.recv())) is not None:
        yield task


def read(
    source: Iterator[Task], archive: Archive, recipe: Recipe, alone: bool, pulse: Pulse
) -> Iterator[tuple[Work, Batch]]:
    """Yields batches of framed cases (of one case, if alone), and an empty one after each unit."""
    ahead = 2 * max(recipe.batch_size, recipe.readers)
    size, lookahead = (1, 1) if alone else (recipe.batch_size, ahead)
    moment = monotonic()
    for task in source:
        work = Work(task=task)
        work.log.add_wait(TASK, FEEDING, moment)
        for case in task.poison:
            work.leave_open(case, "poison", "ended a worker that had only this case")
        load = make_loader(archive, recipe, work, pulse)
        framed = prefetch(task.cases, load, lookahead, recipe.readers)
        for batch in batches(_drop_failures(framed, work), size):
            yield work, batch
        yield work, []
        moment = monotonic()


def make_loader(
    archive: Archive, recipe: Recipe, work: Work, pulse: Pulse
) -> Callable[[int], FramedCase]:
    """A function that reads and frames a case.  It raises CaseError."""

    def load(index: int) -> FramedCase:
        pulse.begin(index)
        lane = f"{READING} {current_thread().name.rpartition('_')[2]}"
        try:
            with recording(work.log, lane, index):
                with span("read"):
                    case = archive.read(index)
                with span("frame"):
                    return frame_case(case, recipe.contract)
        except OSError as error:
            raise CaseError(
                IO, f"cannot be read now ({error.strerror or type(error).__name__})"
            ) from error

    return load


def _drop_failures(framed: Iterator[FramedCase | Failure], work: Work) -> Iterator[FramedCase]:
    for item in framed:
        if isinstance(item, Failure):
            finisher.add_failure(work, item)
        else:
            yield item


def compute(
    source: Iterator[tuple[Work, Batch]],
    make: Callable[[], Plan],
    recipe: Recipe,
    pulse: Pulse,
) -> Iterator[tuple[Work, list[Enhancement]]]:
    """Enhances batches.  The plan is made here, in the thread that uses it.

    Ends before the next unit when the pulse says that the worker is draining.
    """
    current, waits = None, SpanLog()
    moment = waits.add_wait(START, MODEL, pulse.born)
    plan = make()
    moment = waits.add_wait(LOAD, MODEL, moment)
    for work, batch in source:
        if work is not current and pulse.draining:
            return
        waits.add_wait(WAIT, MODEL, moment)
        work.log.spans += waits.take_spans()
        current = work
        pulse.begin_unit(work.task.unit.index)
        done = enhance_batch(plan, batch, work, recipe, pulse) if batch else []
        moment = monotonic()
        yield work, done
        moment = waits.add_wait(BLOCKED, MODEL, moment)  # in the next log: this may be committed


def enhance_batch(
    plan: Plan, batch: Batch, work: Work, recipe: Recipe, pulse: Pulse
) -> list[Enhancement]:
    """Conditions, samples and relabels a batch of one fixed, padded shape (P4)."""
    with recording(work.log, MODEL), span("batch"):
        return _enhance_batch(plan, batch, recipe, pulse)


def _enhance_batch(plan: Plan, batch: Batch, recipe: Recipe, pulse: Pulse) -> list[Enhancement]:
    full = pad(batch, plan.batch)
    with span("condition"):
        conditioned = condition(plan, full)
        pulse.beat()
    with span("sample"):
        noises = (noise(full, recipe, draw) for draw in range(recipe.draws))
        drawn = sample_draws(plan, noises, conditioned, recipe.rungs, tick=pulse.beat)
    with span("relabel"):
        strip = strips(full)
        images = np.where(strip > 0, drawn.mean, np.float32(-1))
        after = plan.relabel(images, strip)
    pulse.add_computed(len(batch))
    return [
        Enhancement(
            case=case,
            image=drawn.mean[row, 0],
            before=conditioned.label[row],
            after=after[row],
            spread=None if drawn.spread is None else drawn.spread[row, 0],
        )
        for row, case in enumerate(batch)
    ]


def noise(batch: Sequence[FramedCase], recipe: Recipe, draw: int) -> Image:
    """The starting noise x_T of each case, [B, 1, H, W]."""
    frame = recipe.contract.frame
    shape = (1, frame.height, frame.width)
    unscaled = np.stack([gaussian(recipe.seed, case.key, shape, draw) for case in batch])
    return np.float32(recipe.temperature) * unscaled


def breakdown(error: BaseException, recipe: Recipe) -> Breakdown:
    """What the parent is to know of an error that ends the worker, without paths and the name of
    the host (P10)."""
    if isinstance(error, McdiffError):
        return Breakdown(kind="end", detail=str(error), error=error)
    if isinstance(error, OtherBitsError):
        return Breakdown(kind=REFUSED, detail=str(error))
    cause = error.__cause__ if isinstance(error, LoadError) and error.__cause__ else error
    text = RAISE_LIMIT if lacks_threads(cause) else f"{type(cause).__name__}: {cause}"
    for path in (recipe.archive, recipe.output):
        text = text.replace(str(path), "...")
    text = re.sub(r"hostname=\S+", "hostname=...", text)  # in CUDA's errors by ONNX Runtime
    memory = isinstance(cause, MemoryError) or any(x in text.lower() for x in OUT_OF_MEMORY)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Breakdown(kind="memory" if memory else "fault", detail=text, resident=resident)
