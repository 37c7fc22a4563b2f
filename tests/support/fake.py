"""A plan that needs no model: deterministic, cheap, and able to fail on demand.  For tests."""

import hashlib
import os
import resource
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from mcdiff_batch.bench.common.mean_plan import combined, estimate, labels, weighted_mean
from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.backends.cuda import CudaError
from mcdiff_batch.engine.image.frame import Image, Labels
from mcdiff_batch.engine.model.plan import Conditioned, Device, Plan, PlanMaker
from mcdiff_batch.engine.model.solver import Rung
from mcdiff_batch.engine.run import finisher, worker
from mcdiff_batch.engine.run.heartbeat import Pulse
from mcdiff_batch.engine.run.messages import Recipe, Task
from mcdiff_batch.engine.run.pool import Limits, Watcher

FOREVER = 3600.0  # s
FULL = 64  # bytes that a file may still have


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """`kind`: "kill", "exit", "hang", "memory", "error", "nan", "flat", "full" (a disk), "cuda" or
    "cuda memory" (errors of a GPU), while a case is conditioned; "load", while the plan is made;
    "lost": "cuda", and once `counter` is there no plan can be made."""

    kind: str
    case: str = ""  # `name` of its depths; nothing: any case
    device: str = ""  # such as "cuda:1"; nothing: any device
    times: int = 1 << 62  # how often it happens, over all processes; by `counter`
    counter: Path | None = None

    def strikes(self) -> bool:
        """Counts by appending a byte, which outlives the process."""
        if self.counter is None:
            return True
        with self.counter.open("ab") as file:
            file.write(b".")
        return self.counter.stat().st_size <= self.times


def name(depths: Image) -> str:
    """What a case's framed depths [D, H, W] are known by here."""
    return hashlib.blake2b(depths.tobytes(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    mean: Image  # [B, 1, H, W], weighted mean of the depths
    wrong: tuple[str, ...]  # a kind of fault per case, or nothing


@dataclass(slots=True, kw_only=True)
class FakePlan:
    """The mean plan of `bench`, slow or faulty on demand."""

    batch: int
    delay: float = 0.0  # s per step
    faults: tuple[Fault, ...] = ()

    def condition(self, depths: Image, weights: Image, strip: Image, scan: Image) -> Conditioned:
        assert len(depths) == len(weights) == len(strip) == len(scan) == self.batch
        wrong = tuple(self._fault(name(stack)) for stack in depths)
        mean = weighted_mean(depths, weights)
        return Conditioned(conditions=Held(mean=mean, wrong=wrong), label=labels(mean))

    def relabel(self, images: Image, strip: Image) -> Labels:
        return labels(images)

    def step(
        self, x: Image, previous: Image, rung: Rung, conditioned: Conditioned
    ) -> tuple[Image, Image]:
        time.sleep(self.delay)
        held = conditioned.conditions
        assert isinstance(held, Held)
        x0 = estimate(held.mean, x)
        for row, kind in enumerate(held.wrong):
            x0[row] = {"nan": np.nan, "flat": 0.0}.get(kind, x0[row])
        return combined(x, previous, x0, rung), x0

    def _fault(self, case: str) -> str:
        for fault in self.faults:
            if fault.kind != "load" and fault.case in ("", case) and fault.strikes():
                happen(fault.kind)
                return fault.kind
        return ""


def happen(kind: str) -> None:
    match kind:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(13)
        case "hang":
            time.sleep(FOREVER)
        case "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (FULL, FULL))
        case "memory":
            raise MemoryError
        case "cuda" | "lost":
            raise CudaError(
                "cudaStreamSynchronize: cudaErrorLaunchFailure, unspecified launch failure"
            )
        case "cuda memory":
            raise CudaError("cudaMalloc: cudaErrorMemoryAllocation, out of memory")
        case "error" | "load":
            raise RuntimeError(f"injected {kind}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeMaker:
    """A PlanMaker."""

    delay: float = 0.0
    faults: tuple[Fault, ...] = ()

    def __call__(self, device: Device, batch: int) -> Plan:
        mine = tuple(x for x in self.faults if x.device in ("", str(device)))
        for fault in mine:
            gone = fault.kind == "lost" and fault.counter is not None and fault.counter.exists()
            if gone or (fault.kind == "load" and fault.strikes()):
                happen("load")
        return FakePlan(batch=batch, delay=self.delay, faults=mine)


class InlinePool:
    """What Pool does, in this process and one case at a time: no spawning, for many short runs."""

    def __init__(
        self,
        recipe: Recipe,
        maker: PlanMaker,
        devices: Iterable[Device],
        limits: Limits,
        watcher: Watcher,
        *,
        lock: object = None,
        asked: Callable[[], int] = lambda: 0,
    ) -> None:
        self.recipe, self.maker, self.watcher, self.asked = recipe, maker, watcher, asked
        self.device = next(iter(devices))
        self.stopped = False

    def stop(self) -> None:
        self.stopped = True

    def run(self, tasks: Iterable[Task]) -> None:
        pulse = Pulse(get_context("spawn"))
        plan = self.maker(self.device, self.recipe.batch_size)
        archive = open_archive(self.recipe.archive)
        framed = worker.read(iter(tasks), archive, self.recipe, True, pulse)
        for work, batch in worker.compute(framed, lambda: plan, self.recipe, pulse):
            for done in batch:
                finisher.finish_case(work, done, self.recipe)
            if not batch:
                self.watcher.done(self.device, finisher.commit(work, self.recipe))
                self.watcher.tick({})
            if self.stopped or self.asked():
                return
