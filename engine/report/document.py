"""The schema of `report.json`, as types.  `collect` fills them, the page reads them.

A field with a default is left out of the JSON where it has that default.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from .usage import DeviceTimes, Machine, Throughput, Timeline

SCHEMA = 3


def as_json(value: Any) -> Any:
    """Like `dataclasses.asdict`, without the fields that have their default."""
    if is_dataclass(value):
        pairs = ((x, getattr(value, x.name)) for x in fields(value))
        return {x.name: as_json(own) for x, own in pairs if own != x.default}
    if isinstance(value, Mapping):
        return {key: as_json(own) for key, own in value.items()}
    return [as_json(x) for x in value] if isinstance(value, list | tuple) else value


# --- what was done


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    state: str  # "complete", "failures", "running" or "stopped"
    exit_code: int | None  # None where it is not known
    ended: str | None  # why the last session ended


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseCounts:
    selected: int
    done: int
    failed: int
    open: int  # selected, and neither done nor failed
    archive: int | None  # all cases of the archive; None where it is not known
    skipped: int | None  # not selected
    damaged_records: int  # of the ledger; their cases count as open
    without_spacing: int  # done, but columns that need the size of a px are blank


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A kind of failure, flag or incident: what it means, and what a person does about it."""

    kind: str  # the reason in the ledger, the name of a check, or the kind in incidents.jsonl
    total: int
    means: str
    todo: str
    command: str  # empty where no command helps


@dataclass(frozen=True, slots=True, kw_only=True)
class FlaggedCase:
    case: int
    why: list[str]  # a line for each of `flags`
    flags: list[str]
    id: str | None = None  # only with `show_ids` (P10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flagged:
    gate: bool  # whether the bundle has one
    total: int
    kinds: dict[str, int]
    rows: list[FlaggedCase]  # the first ones
    problems: list[Problem]


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedCase:
    """A case that failed or is open."""

    case: int
    status: str
    reason: str
    detail: str  # of an open case, the last incident that named it
    id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    total: int
    reasons: dict[str, int]
    rows: list[FailedCase]  # the first ones
    problems: list[Problem]


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentRow:
    """What a line of `incidents.jsonl` says; a damaged line may say less."""

    at: str = ""
    kind: str = ""
    detail: str = ""
    device: str = ""
    unit: int | None = None
    case: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Incidents:
    total: int
    kinds: dict[str, int]
    rows: list[IncidentRow]  # the last ones
    problems: list[Problem]


# --- how good it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Percentiles over the cases in which a value is defined."""

    cases: int
    mean: float | None = None
    p5: float | None = None
    p25: float | None = None
    median: float | None = None
    p75: float | None = None
    p95: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Counts between common edges, of one or two sets of values."""

    edges: list[float]
    before: list[int] | None = None
    after: list[int] | None = None
    all: list[int] | None = None
    points: dict[str, list[float]] | None = None  # the values, by set, where they are few


@dataclass(frozen=True, slots=True, kw_only=True)
class Single:
    """A column that has one value a case."""

    after: Summary
    histogram: Histogram | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """A paired column that has a better direction."""

    before: Summary
    after: Summary
    gain: Summary  # after - before
    worse: int  # cases that went the wrong way
    histogram: Histogram | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A paired column of which neither direction is better."""

    before: Summary
    after: Summary
    change: Summary  # after - before


Distribution = Single | Gain | Change


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A case of the gallery, which is done; `flag` says why it is shown, see `choice.Pick`."""

    case: int
    flag: str
    why: list[str]  # what its flags say
    reason: str  # empty, as `detail`: failed cases are in `failures`
    detail: str
    quality: dict[str, float | None]
    id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    draws: int
    before: str  # whether images before can be shown: "read", "gone" or "changed"
    cases: list[Card]


# --- where the time went; the rest is in `usage`


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A session is one start of the run that committed units."""

    sessions: int
    resumed: int
    cases: int
    seconds: float
    cases_per_hour: float | None
    last_ended: str | None  # why the last session ended
    finished_at: str | None  # None: not known, as after a kill
    started_at: str | None = None  # when the first session began


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Seconds; a percentile is None where too few samples lie beyond it."""

    count: int
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    max: float | None
    histogram: Histogram | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    batch: Latency  # from the conditioner to the label maps
    case: Latency  # from the start of reading to the compressed images, waits included


# --- what was run


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    settings: dict[str, str]
    bundle: dict[str, str]
    sampler: dict[str, Any]  # the one that the bundle recommends, with its figures
    nfe: int  # network evaluations a draw
    frame: dict[str, int]
    classes: list[str]
    sha256: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """The same figure of two runs."""

    this: float | None
    other: float | None
    ratio: float | None  # this / other; None for decibels
    difference: float | None = None  # this - other


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceWaits:
    device: str
    waiting_percent: float | None
    accounted_percent: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two runs; of each pair, this one is first and the other second."""

    finished_at: list[str]
    figures: dict[str, Figure]
    devices: list[list[DeviceWaits]]
    settings: dict[str, list[str]]  # those that differ
    names: list[str]  # last part of the path of each output


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The whole document."""

    schema: int
    written_at: str
    version: str
    outcome: Outcome
    cases: CaseCounts
    work: Work
    throughput: Throughput | None  # None where there are too few units for a curve
    stages: list[DeviceTimes]
    timeline: Timeline | None
    latency: Latencies
    machine: Machine
    flagged: Flagged
    failures: Failures
    incidents: Incidents
    quality: dict[str, Distribution]  # by the name of a column
    gallery: Gallery
    provenance: Provenance
    warnings: list[str]  # about the archive
    host: str | None = None  # where the report was written; only when asked for (P10)
    compared: Comparison | None = None
