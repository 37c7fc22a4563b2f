"""What a parent and its workers say to each other; all of it picklable."""

from dataclasses import dataclass, field
from pathlib import Path

from mcdiff_batch.engine.errors import McdiffError
from mcdiff_batch.engine.model.contract import Contract
from mcdiff_batch.engine.model.solver import Rung
from mcdiff_batch.engine.output.ledger import Incident
from mcdiff_batch.engine.output.shards import Layout
from mcdiff_batch.engine.output.units import Unit
from mcdiff_batch.engine.telemetry.spans import Notes


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How any unit of a run is to be done."""

    archive: Path
    identity: str  # of the archive, as the run found it
    output: Path
    contract: Contract
    rungs: tuple[Rung, ...]
    seed: int
    temperature: float
    draws: int
    batch_size: int
    layout: Layout
    readers: int = 1  # threads per worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A unit to be done.  Its cases in neither tuple were not selected."""

    unit: Unit
    cases: tuple[int, ...]
    poison: tuple[int, ...] = ()  # cases to be left open: they ended a worker that had only them


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker has its plan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitDone:
    """The unit's record is durable."""

    unit: int
    counts: dict[str, int]
    incidents: tuple[Incident, ...]
    notes: Notes = field(default_factory=Notes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Broke:
    """The worker ends.  `error`: the run ends with it; else the unit is tried again."""

    kind: str  # "memory", "fault" or "end"
    detail: str
    error: McdiffError | None = None
    resident: int = 0  # bytes, peak


Message = Ready | UnitDone | Broke
