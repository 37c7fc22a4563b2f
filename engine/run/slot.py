"""What the pool remembers of a device and of the worker that has it."""

import signal
from collections import deque
from dataclasses import dataclass, field

from mcdiff_batch.engine.model.plan import Device
from mcdiff_batch.engine.output.ledger import Incident

from .protocol import REFUSED, Breakdown, Task, Worker


@dataclass(slots=True, kw_only=True)
class Life:
    """One worker, from its start to its end."""

    worker: Worker
    alone: bool  # takes one case at a time, of units that ended workers
    ready: bool = False
    dismissed: bool = False
    hung: bool = False
    breakdown: Breakdown | None = None
    beats: int = 0
    idle: float = 0.0  # s since the last sign of life
    credited: int = 0  # cases that the worker computed and whose units are done

    def dismiss(self) -> None:
        self.dismissed = True
        self.worker.dismiss()

    def watch(self, elapsed: float, *, waiting: bool) -> float:
        """Seconds without a sign of life; a worker that waits for a task need not show any."""
        beats = self.worker.pulse.beats
        alive = beats != self.beats or waiting
        self.beats, self.idle = beats, 0.0 if alive else self.idle + elapsed
        return self.idle

    @property
    def uncredited(self) -> int:
        return max(0, self.worker.pulse.cases - self.credited)

    @property
    def case(self) -> int | None:
        """The case in hand, where that is certain."""
        case = self.worker.pulse.case
        return case if self.alone and case >= 0 else None

    @property
    def refused(self) -> bool:
        return self.breakdown is not None and self.breakdown.kind == REFUSED

    @property
    def out_of_memory(self) -> bool:
        return self.breakdown is not None and self.breakdown.kind == "memory"


@dataclass(slots=True, kw_only=True)
class Slot:
    """A device and its counts of failures in a row."""

    device: Device
    life: Life | None = None
    tasks: deque[Task] = field(default_factory=deque)  # sent and not done
    starts: int = 0  # workers that ended before their plan was ready
    shortages: int = 0  # workers that ran out of memory
    deaths: int = 0  # workers that ended without computing a case


def post_mortem(slot: Slot, life: Life, patience: float) -> Incident:
    """Why a worker was lost."""
    return Incident(
        kind=_kind(life),
        detail=_cause(life, patience),
        unit=slot.tasks[0].unit.index if slot.tasks else None,
        case=life.case,
        device=str(slot.device),
    )


def _kind(life: Life) -> str:
    if life.worker.host_lost:
        return "host"
    return "hang" if life.hung else life.breakdown.kind if life.breakdown else "killed"


def _cause(life: Life, patience: float) -> str:
    code = life.worker.exit_code
    if life.worker.host_lost:
        return "its host left the cluster, or does not answer"
    if life.hung:
        return f"no sign of life for {patience:g} s"
    if life.breakdown is not None and life.refused:
        return life.breakdown.detail
    if life.breakdown is not None:
        return f"{life.breakdown.detail} (peak {life.breakdown.resident >> 20} MiB resident)"
    if code == -signal.SIGKILL:
        return "killed by SIGKILL; if nobody did, the kernel ran out of memory (see dmesg)"
    if code is not None and code < 0:
        return f"killed by signal {-code} ({signal.strsignal(-code)})"
    return f"ended with exit code {code}"
