"""What is known to be done: one record per unit, written after its shards are durable.

A record is JSON with one spelling: its head on the first line (all that resume and status read),
then one case a line.  It holds nothing of time, host, device, attempt or worker count (P1).
What those determine goes to `incidents.jsonl`, and the next run tries again.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mcdiff_batch.engine.files import from_json

from . import durable

FOLDER = "ledger"
INCIDENTS = "incidents.jsonl"
DONE, FAILED, SKIPPED, OPEN = "done", "failed", "skipped", "open"
STATUSES = (DONE, FAILED, SKIPPED, OPEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What became of one case.  `open`: not its data's fault; its unit is tried again."""

    case: int
    status: str
    reason: str = ""  # one word, of failed and skipped
    detail: str = ""
    pixels: str = ""  # SHA-256 of the stored pixels: enhanced, label, spread if there is one
    extent: tuple[int, int] | None = None  # (y, x) px of the input
    optimal: int | None = None  # 0-based depth
    quality: dict[str, int | float | None] = field(default_factory=dict)  # None: undefined
    flags: tuple[str, ...] = ()  # why the gate says to look at it first


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What is known of a unit without reading its cases; no shards: no case of it is done."""

    unit: int
    first: int
    count: int
    shards: dict[str, Shard]
    counts: dict[str, int]
    flagged: int = 0  # of those done


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
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
    """Something the data did not cause: a kill, a hang, an I/O error, a model's NaN."""

    kind: str
    detail: str
    unit: int | None = None
    case: int | None = None
    device: str = ""


class DamagedRecord(Exception):
    """A ledger file that is no record; the unit counts as not done."""


def name(unit: int) -> str:
    return f"{FOLDER}/{unit:06d}.json"


def _line(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def encode(record: Record) -> bytes:
    head = _line(asdict(record.head))
    cases = ",\n".join(_line(asdict(entry)) for entry in record.cases)
    return f'{head[:-1]},\n"cases":[\n{cases}\n]}}\n'.encode()


def decode(data: bytes) -> Record:
    """Raises DamagedRecord."""
    try:
        raw = from_json(json.loads(data), dict[str, Any])
        cases = from_json(raw.pop("cases", None), tuple[Entry, ...])
        head = from_json(raw, Head)
    except ValueError as error:
        raise DamagedRecord(str(error)) from error
    return Record(
        unit=head.unit, first=head.first, count=head.count, shards=head.shards, cases=cases
    )


def write(root: Path, record: Record) -> None:
    durable.write(root, name(record.unit), encode(record))


def read(root: Path, unit: int) -> Record:
    """Raises DamagedRecord, FileNotFoundError."""
    return decode((root / name(unit)).read_bytes())


def read_head(root: Path, unit: int) -> Head:
    """The first line of a record.  Raises DamagedRecord, FileNotFoundError."""
    with (root / name(unit)).open("rb") as file:
        line = file.readline()
    try:
        return from_json(json.loads(line.rstrip(b",\n") + b"}"), Head)
    except ValueError as error:
        raise DamagedRecord(str(error)) from error


def recorded(root: Path) -> list[int]:
    """Units that have a record, rising."""
    folder = root / FOLDER
    names = (path.stem for path in folder.glob("*.json")) if folder.is_dir() else ()
    return sorted(int(stem) for stem in names if stem.isdecimal())


def heads(root: Path) -> Iterator[Head]:
    """Heads of all readable records."""
    for unit in recorded(root):
        try:
            yield read_head(root, unit)
        except DamagedRecord:
            continue


def report(root: Path, incident: Incident) -> None:
    """Appends to incidents.jsonl.  Raises SpaceError, McdiffError."""
    told = {key: value for key, value in asdict(incident).items() if value not in (None, "")}
    told["at"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    with durable.writing(root), (root / INCIDENTS).open("a") as file:
        file.write(_line(told) + "\n")
