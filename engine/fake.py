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

from . import finisher, worker
from .archive import open_archive
from .contract import Contract, Graph, Sampler
from .cuda import CudaError
from .frame import Frame, Image, Labels
from .plan import Conditioned, Device, Plan, PlanMaker
from .pool import Limits, Watcher
from .pulse import Pulse
from .schedule import Schedule, log_snr_ladder
from .solver import Rung
from .task import Recipe, Task

STEPS = 3
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
    """x0-hat is the weighted mean of the depths and a little of x: elementwise, so exact."""

    batch: int
    delay: float = 0.0  # s per step
    faults: tuple[Fault, ...] = ()

    def condition(self, depths: Image, weights: Image, strip: Image, scan: Image) -> Conditioned:
        assert len(depths) == len(weights) == len(strip) == len(scan) == self.batch
        wrong = tuple(self._fault(name(stack)) for stack in depths)
        mean = (depths * weights[:, :, None, None]).sum(axis=1, keepdims=True)
        return Conditioned(conditions=Held(mean=mean, wrong=wrong), label=labels(mean))

    def relabel(self, images: Image, strip: Image) -> Labels:
        return labels(images)

    def step(
        self, x: Image, previous: Image, rung: Rung, conditioned: Conditioned
    ) -> tuple[Image, Image]:
        time.sleep(self.delay)
        held = conditioned.conditions
        assert isinstance(held, Held)
        x0 = np.clip(held.mean + np.float32(0.02) * x, -1, 1)
        for row, kind in enumerate(held.wrong):
            x0[row] = {"nan": np.nan, "flat": 0.0}.get(kind, x0[row])
        after = np.float32(rung.a) * x + np.float32(rung.b) * x0 + np.float32(rung.c) * previous
        return after, x0

    def _fault(self, case: str) -> str:
        for fault in self.faults:
            if fault.kind != "load" and fault.case in ("", case) and fault.strikes():
                happen(fault.kind)
                return fault.kind
        return ""


def labels(images: Image) -> Labels:
    """Dark px are bone: 1, 2, 3 by brightness; [B, H, W] from [B, 1, H, W]."""
    found: Labels = np.digitize(-images[:, 0], [0.2, 0.4, 0.6, 0.8]).astype(np.uint8) % 4
    return found


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


def contract(frame: Frame, depths: int = 5) -> Contract:
    """A contract with no files behind it."""
    schedule = Schedule()
    ladder = log_snr_ladder(schedule, STEPS)
    none = Graph(file="", sha256="", inputs=(), outputs=())
    return Contract(
        name="fake",
        frame=frame,
        depth_weights=(1 / depths,) * depths,
        classes=("background", "process", "rib", "lump"),
        schedule=schedule,
        sampler=Sampler(
            solver="ddim", ladder=ladder, nfe=STEPS, psnr_median_db=0, psnr_min_db=0, cases=0
        ),
        conditioner=none,
        denoiser=none,
    )


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
