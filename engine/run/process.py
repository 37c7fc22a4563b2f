"""A device and the process that has it now: starting it, talking to it, saying how it ended."""

import os
import signal
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext, SpawnProcess
from time import sleep

from mcdiff_batch.engine.model.plan import Device, PlanMaker
from mcdiff_batch.engine.output.ledger import Incident
from mcdiff_batch.engine.signals import SIGNALS

from . import worker
from .heartbeat import Pulse
from .messages import Broke, Recipe, Task

DUMP_TIME = 0.25  # s


@dataclass(slots=True, kw_only=True)
class Life:
    """One process, from its start to its end."""

    process: SpawnProcess
    line: Connection
    pulse: Pulse
    alone: bool  # takes one case at a time, of units that ended workers
    ready: bool = False
    dismissed: bool = False
    hung: bool = False
    broke: Broke | None = None
    beats: int = 0
    idle: float = 0.0  # s since the last sign of life
    credited: int = 0  # cases of the pulse whose units are done

    def send(self, task: Task | None) -> None:
        """A worker that is gone is found out by its sentinel."""
        with suppress(OSError):
            self.line.send(task)

    def dismiss(self) -> None:
        self.dismissed = True
        self.send(None)

    def kill(self, *, dump: bool = False) -> None:
        if dump and self.ready and self.process.pid is not None:
            os.kill(self.process.pid, signal.SIGUSR1)  # its stacks, on stderr
            sleep(DUMP_TIME)
        self.process.kill()

    def watch(self, elapsed: float, waiting: bool) -> float:
        """Seconds without a sign of life; one that is waiting for work owes none."""
        moved = self.pulse.beats != self.beats or waiting
        self.beats, self.idle = self.pulse.beats, 0.0 if moved else self.idle + elapsed
        return self.idle

    @property
    def uncredited(self) -> int:
        return max(0, self.pulse.cases - self.credited)

    @property
    def case(self) -> int | None:
        """The case in hand, where that is certain."""
        return self.pulse.case if self.alone and self.pulse.case >= 0 else None

    @property
    def short_of_memory(self) -> bool:
        return self.broke is not None and self.broke.kind == "memory"


@dataclass(slots=True, kw_only=True)
class Slot:
    device: Device
    life: Life | None = None
    tasks: deque[Task] = field(default_factory=deque)
    starts: int = 0  # ends in a row before the plan was ready
    shortages: int = 0  # of memory, in a row
    deaths: int = 0  # in a row with no case computed


def begin(
    context: SpawnContext,
    recipe: Recipe,
    maker: PlanMaker,
    device: Device,
    alone: bool,
    lock: object,
) -> Life:
    """A new process for a device; signals stay blocked in it, the parent heeds them."""
    pulse = Pulse(context)
    ours, theirs = context.Pipe()
    args = (recipe, maker, device, alone, theirs, pulse, os.getpid(), lock)
    process = context.Process(target=worker.main, args=args)
    with blocked(), theirs:
        process.start()
    return Life(process=process, line=ours, pulse=pulse, alone=alone)


@contextmanager
def blocked() -> Iterator[None]:
    held = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def post_mortem(slot: Slot, life: Life, code: int | None, patience: float) -> Incident:
    return Incident(
        kind="hang" if life.hung else life.broke.kind if life.broke else "killed",
        detail=_cause(life, code, patience),
        unit=slot.tasks[0].unit.index if slot.tasks else None,
        case=life.case,
        device=str(slot.device),
    )


def _cause(life: Life, code: int | None, patience: float) -> str:
    if life.hung:
        return f"no sign of life for {patience:g} s"
    if life.broke is not None:
        return f"{life.broke.detail} (peak {life.broke.resident >> 20} MiB resident)"
    if code == -signal.SIGKILL:
        return "killed by SIGKILL; if nobody did, the kernel ran out of memory (see dmesg)"
    if code is not None and code < 0:
        return f"killed by signal {-code} ({signal.strsignal(-code)})"
    return f"ended with exit code {code}"
