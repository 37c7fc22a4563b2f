"""A plan that needs no model and fails on demand, and workers that need no process."""

import hashlib
import os
import resource
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from mcdiff_batch.bench.common.mean_plan import combine, estimate, labels, weighted_mean
from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.backends.cuda import CudaError
from mcdiff_batch.engine.image.frame import Image, Labels
from mcdiff_batch.engine.model.plan import Conditioning, Device, Plan, PlanMaker
from mcdiff_batch.engine.model.solver import Rung
from mcdiff_batch.engine.run import finisher, worker
from mcdiff_batch.engine.run.heartbeat import Pulse
from mcdiff_batch.engine.run.protocol import Message, PulseReading, Ready, Recipe, Task

FOREVER = 3600.0  # s
FULL = 64  # bytes that a file may still have


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that goes wrong.

    While a case is conditioned: "kill", "exit", "hang", "memory", "error", "nan", "flat", "full" (a
    disk), "cuda" or "cuda memory" (errors of a GPU).  While the plan is made: "load".  "lost" is
    "cuda", after which no plan can be made once `counter` exists.
    """

    kind: str
    case: str = ""  # `name` of its depths; empty: any case
    device: str = ""  # such as "cuda:1"; empty: any device
    times: int = 1 << 62  # how often it happens, over all processes; needs `counter`
    counter: Path | None = None

    def strikes(self) -> bool:
        """Counts by appending a byte to a file, which outlives the process."""
        if self.counter is None:
            return True
        with self.counter.open("ab") as file:
            file.write(b".")
        return self.counter.stat().st_size <= self.times


def name(depths: Image) -> str:
    """A name for the framed depths [D, H, W] of a case."""
    return hashlib.blake2b(depths.tobytes(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    mean: Image  # [B, 1, H, W], weighted mean of the depths
    faults: tuple[str, ...]  # kind of fault per case, or empty


@dataclass(slots=True, kw_only=True)
class FakePlan:
    """The mean plan of `bench`, slow or faulty on demand."""

    batch: int
    delay: float = 0.0  # s per step
    faults: tuple[Fault, ...] = ()

    def condition(self, depths: Image, weights: Image, strip: Image, scan: Image) -> Conditioning:
        assert len(depths) == len(weights) == len(strip) == len(scan)
        assert len(depths) in (1, self.batch)  # one: the canary
        faults = tuple(self._fault(name(stack)) for stack in depths)
        mean = weighted_mean(depths, weights)
        return Conditioning(conditions=Conditions(mean=mean, faults=faults), label=labels(mean))

    def relabel(self, images: Image, strip: Image) -> Labels:
        return labels(images)

    def step(
        self, x: Image, previous: Image, rung: Rung, conditioned: Conditioning
    ) -> tuple[Image, Image]:
        time.sleep(self.delay)
        conditions = conditioned.conditions
        assert isinstance(conditions, Conditions)
        x0 = estimate(conditions.mean, x)
        for row, kind in enumerate(conditions.faults):
            x0[row] = {"nan": np.nan, "flat": 0.0}.get(kind, x0[row])
        return combine(x, previous, x0, rung), x0

    def _fault(self, case: str) -> str:
        for fault in self.faults:
            if fault.kind != "load" and fault.case in ("", case) and fault.strikes():
                happen(fault.kind)
                return fault.kind
        return ""


@dataclass(slots=True, kw_only=True)
class OtherPlan(FakePlan):
    """Differs in the last bit of a pixel, as another CPU may."""

    def step(self, x: Image, *rest: Any) -> tuple[Image, Image]:
        after, x0 = FakePlan.step(self, x, *rest)
        after[:, 0, 9, 9] = np.nextafter(after[:, 0, 9, 9], np.float32(2))
        return after, x0


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


class InlineWorker:
    """A Worker in this process: it processes a unit, one case at a time, when it is waited for.

    What a unit raises, its caller gets.
    """

    def __init__(self, recipe: Recipe, maker: PlanMaker, device: Device) -> None:
        self.recipe, self.shared = recipe, Pulse(get_context("spawn"))
        self.tasks: deque[Task] = deque()
        self.outbox: list[Message] = [Ready()]
        self.exit_code: int | None = None
        archive = open_archive(recipe.archive)
        batches = worker.read(self._tasks(), archive, recipe, True, self.shared)
        make = lambda: maker(device, recipe.batch_size)
        self.results = worker.compute(batches, make, recipe, self.shared)

    def _tasks(self) -> Iterator[Task]:
        while self.tasks:
            yield self.tasks.popleft()

    def send(self, task: Task) -> None:
        self.tasks.append(task)

    def dismiss(self) -> None:
        self.shared.drain()
        self.exit_code = 0

    def kill(self, *, dump: bool = False) -> None:
        self.exit_code = -signal.SIGKILL

    def messages(self) -> list[Message]:
        messages, self.outbox = self.outbox, []
        return messages

    @property
    def pulse(self) -> PulseReading:
        return self.shared.read()

    @property
    def host_lost(self) -> bool:
        return False

    def close(self) -> None:
        self.results.close()

    def work(self) -> None:
        for work, batch in self.results if self.tasks and self.exit_code is None else ():
            for done in batch:
                finisher.finish_case(work, done, self.recipe)
            if not batch:
                self.outbox.append(finisher.commit(work, self.recipe))
                return


class InlineWorkers:
    """Workers in this process: many short runs start quickly."""

    def __init__(self, recipe: Recipe, maker: PlanMaker, lock: object) -> None:
        self.recipe, self.maker = recipe, maker

    def start(self, device: Device, *, alone: bool) -> InlineWorker:
        return InlineWorker(self.recipe, self.maker, device)

    def newcomers(self) -> Sequence[Device]:
        return ()

    def wait(self, workers: Sequence[Any], seconds: float) -> None:
        for one in workers:
            one.work()
