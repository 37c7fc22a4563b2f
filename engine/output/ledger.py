"""The ledger: one record per unit, written after the unit's shards are durable.

A record is a JSON document.  Its first line is the head, which is all that resume and status read;
each line after it is a case.  Equal records have equal bytes: they contain no time, host, device,
attempt or number of workers (P1).  Failures that depend on these go to `incidents.jsonl`, and the
next run tries again.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mcdiff_batch.engine.files import append_json, from_json

from . import durable

FOLDER = "ledger"
INCIDENTS = "incidents.jsonl"
DONE, FAILED, SKIPPED, OPEN = "done", "failed", "skipped", "open"
STATUSES = (DONE, FAILED, SKIPPED, OPEN)
KEPT = "kept"  # kind of an incident: the archive has lost a case that is done, so its record stays


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The result of one case.  `open`: it failed, but not because of its data; a run retries it."""

    case: int
    status: str
    reason: str = ""  # a word, for failed and skipped cases
    detail: str = ""
    pixels: str = ""  # SHA-256 of the stored pixels: enhanced, label, and spread if there is one
    extent: tuple[int, int] | None = None  # (y, x) px of the input
    optimal: int | None = None  # index of the optimal depth
    quality: dict[str, int | float | None] = field(default_factory=dict)  # None: undefined
    flags: tuple[str, ...] = ()  # checks of the gate that it fails


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """The file of one image array and unit."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The first line of a record.  There are no shards if no case of the unit is done."""

    unit: int
    first: int
    count: int
    shards: dict[str, Shard]
    counts: dict[str, int]  # of cases, by status
    flagged: int = 0  # cases with flags


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What the ledger says about one unit."""

    unit: int
    first: int
    count: int
    shards: dict[str, Shard]
    cases: tuple[Entry, ...]

    @property
    def head(self) -> Head:
        counts = Counter(entry.status for entry in self.cases)
        return Head(
            unit=self.unit,
            first=self.first,
            count=self.count,
            shards=self.shards,
            counts={status: counts[status] for status in STATUSES},
            flagged=sum(bool(entry.flags) for entry in self.cases),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """An event that the data did not cause: a kill, a hang, an I/O error, NaN from the model."""

    kind: str
    detail: str
    unit: int | None = None
    case: int | None = None
    device: str = ""


class DamagedRecord(Exception):
    """A file of the ledger is not a record.  Its unit counts as not done."""


def file_name(unit: int) -> str:
    """Name of a record in the output."""
    return f"{FOLDER}/{unit:06d}.json"


def unit_of(name: str) -> int:
    """The unit of a record with this name."""
    return int(name.removeprefix(f"{FOLDER}/").removesuffix(".json"))


def _line(value: Any) -> str:
    """JSON with sorted keys and no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def encode(record: Record) -> bytes:
    head = _line(asdict(record.head))
    cases = ",\n".join(_line(asdict(entry)) for entry in record.cases)
    return f'{head[:-1]},\n"cases":[\n{cases}\n]}}\n'.encode()


def decode(data: bytes) -> Record:
    """A record from its bytes.  Raises DamagedRecord."""
    try:
        raw = from_json(json.loads(data), dict[str, Any])
        cases = from_json(raw.pop("cases", None), tuple[Entry, ...])
        head = from_json(raw, Head)
    except ValueError as error:
        raise DamagedRecord(str(error)) from error
    return Record(
        unit=head.unit, first=head.first, count=head.count, shards=head.shards, cases=cases
    )


def read(root: Path, unit: int) -> Record:
    """The record of a unit.  Raises DamagedRecord, FileNotFoundError."""
    return decode(durable.files(root).read(file_name(unit)))


def write(root: Path, record: Record) -> None:
    durable.files(root).write(file_name(record.unit), encode(record))


def read_all(root: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of all records, in order."""
    return durable.files(root).read_all(file_name(x) for x in list_units(root))


def decode_head(line: bytes) -> Head:
    """A head from the first line of a record.  Raises DamagedRecord."""
    try:
        return from_json(json.loads(line.rstrip(b",\n") + b"}"), Head)
    except ValueError as error:
        raise DamagedRecord(str(error)) from error


def list_units(root: Path) -> list[int]:
    """Indices of the units that have a record, in order."""
    names = durable.files(root).list(FOLDER)
    stems = (x.removesuffix(".json") for x in names if x.endswith(".json"))
    return sorted(int(stem) for stem in stems if stem.isdecimal())


def read_heads(root: Path) -> Iterator[Head]:
    """The heads of all records, in order; damaged records are skipped."""
    names = (file_name(unit) for unit in list_units(root))
    for _, line in durable.files(root).read_heads(names):
        with suppress(DamagedRecord):
            yield decode_head(line)


def append_incident(root: Path, incident: Incident) -> None:
    """Adds a line to incidents.jsonl.  Raises SpaceError, McdiffError."""
    fields = {key: value for key, value in asdict(incident).items() if value not in (None, "")}
    fields["at"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    with durable.explain_errors(root):
        append_json(root / INCIDENTS, dict(sorted(fields.items())))
