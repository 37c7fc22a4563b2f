"""What the pool and its workers say to each other, and what the pool asks of any kind of worker."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from mcdiff_batch.engine.cloud.place import Place
from mcdiff_batch.engine.errors import McdiffError
from mcdiff_batch.engine.model.contract import Contract
from mcdiff_batch.engine.model.plan import Device, PlanMaker
from mcdiff_batch.engine.model.solver import Rung
from mcdiff_batch.engine.output.ledger import Incident
from mcdiff_batch.engine.output.shards import Layout
from mcdiff_batch.engine.output.units import Unit
from mcdiff_batch.engine.telemetry.spans import SpanLog

# --- messages; all of them can be pickled


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to process any unit of a run."""

    archive: Place
    identity: str  # of the archive when the run began
    output: Path
    contract: Contract
    rungs: tuple[Rung, ...]
    seed: int
    temperature: float
    draws: int
    batch_size: int
    layout: Layout
    canary: str = ""  # that a worker has to compute too (model/canary.py); empty: any
    readers: int = 1  # threads per worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A unit to process.  Cases of the unit in neither tuple were not selected."""

    unit: Unit
    cases: tuple[int, ...]
    poison: tuple[int, ...] = ()  # cases to leave open: each ended a worker that had no other


REFUSED = "refused"  # the worker must not have a part in this run


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker has loaded its plan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitDone:
    """The unit's record is durable."""

    unit: int
    counts: dict[str, int]  # cases by status
    incidents: tuple[Incident, ...]
    log: SpanLog = field(default_factory=SpanLog)


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakdown:
    """The worker ends because of an error.  With `error` the whole run ends with it; without, the
    pool tries the unit again."""

    kind: str  # "memory", "fault", "end" or REFUSED
    detail: str
    error: McdiffError | None = None
    resident: int = 0  # bytes, peak


@dataclass(frozen=True, slots=True)
class Sample:
    """What a worker's processes and GPU use on a host of a cluster; on this machine the parent
    takes samples itself (telemetry/sampling.py)."""

    figures: dict[str, float]


Message = Ready | UnitDone | Breakdown | Sample


# --- workers


class PulseReading(NamedTuple):
    """What a worker shows of itself between messages."""

    beats: int = 0  # grows with every sign of life
    unit: int = -1  # that the plan works on; -1: none
    case: int = -1  # in hand, exact for a worker that runs alone; -1: none
    cases: int = 0  # computed since the worker began


class Worker(Protocol):
    """One worker, from its start to its end, wherever it runs.  No method waits for it."""

    def send(self, task: Task) -> None:
        """Adds a task to the worker's queue.  A worker that has ended ignores it."""

    def dismiss(self) -> None:
        """Asks the worker to finish the unit under way, begin no other, and end."""

    def kill(self, *, dump: bool = False) -> None:
        """Ends the worker at once.  With `dump` it writes its threads' stacks to stderr first."""

    def messages(self) -> list[Message]:
        """Messages that have arrived since the last call."""
        ...

    @property
    def pulse(self) -> PulseReading: ...

    @property
    def exit_code(self) -> int | None:
        """None while the worker runs; negative: the number of the signal that killed it."""
        ...

    @property
    def host_lost(self) -> bool:
        """Whether the worker ended because its host did, for which no unit is to blame."""
        ...

    def close(self) -> None:
        """Frees what the parent holds of a worker that has ended or was killed."""


class Workers(Protocol):
    """Starts workers of one kind and waits for them."""

    def start(self, device: Device, *, alone: bool) -> Worker:
        """A new worker.  `alone`: it takes one case at a time, so that `pulse.case` is exact."""
        ...

    def newcomers(self) -> Sequence[Device]:
        """Devices that came since the last call; the run began with others."""
        ...

    def wait(self, workers: Sequence[Worker], seconds: float) -> None:
        """Returns once one of `workers` has a message or has ended, or after `seconds`."""


WorkersMaker = Callable[[Recipe, PlanMaker, object], Workers]
"""Makes Workers from a run's recipe, its plan maker and the lock of its output.

The lock can be pickled; a process that holds a copy keeps the output locked (P7).
"""
