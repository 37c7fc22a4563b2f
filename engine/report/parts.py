"""Reads how far the parts of a run are, and finds the files that they and the run have left."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from heapq import merge
from pathlib import Path
from typing import Any

from mcdiff_batch.engine.files import json_lines
from mcdiff_batch.engine.output import ledger, locks, runs
from mcdiff_batch.engine.output.units import Part, parse_selection

DONE, RUNNING, STOPPED, NEVER = "done", "running", "stopped", "never started"
STATES = (DONE, RUNNING, STOPPED, NEVER)
MOST_SHOWN = 32  # parts whose own measurements are in the report; sums count all of them


@dataclass(frozen=True, slots=True, kw_only=True)
class PartState:
    """How far a part is."""

    part: Part
    state: str  # one of STATES; "done" if nothing is left, whoever did it
    left: int  # units without a record, or with open cases


def read_parts(root: Path) -> list[PartState]:
    """The parts that have begun, and those of the same division that have units left; in order.

    Empty where the run was never divided.  Raises UsageError where `root` holds no run.
    """
    begun = locks.find_parts(root)
    if not begun:
        return []
    settings = runs.load_existing(root).settings
    units = parse_selection(settings.cases, 1 << 62).units(settings.unit_size)
    heads = ledger.read_heads(root)
    finished = {x.unit for x in heads if not x.counts[ledger.OPEN]}
    left = [x for x in units if x not in finished]
    living = set(locks.find_living(root))
    states: list[PartState] = []
    for count in sorted({part.count for part in begun}):
        states += _divide(count, {x for x in begun if x.count == count}, living, left)
    return states


def _divide(
    count: int, begun: set[Part], living: set[Part], left: Iterable[int]
) -> Iterator[PartState]:
    units = Counter(unit % count + 1 for unit in left)
    for number in sorted({*units, *(part.number for part in begun)}):
        part, own = Part(number=number, count=count), units[number]
        yield PartState(part=part, state=_state(part, begun, living, own), left=own)


def _state(part: Part, begun: set[Part], living: set[Part], left: int) -> str:
    if part in living:
        return RUNNING
    if not left:
        return DONE
    return STOPPED if part in begun else NEVER


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """A folder with the incidents, timings, spans and samples of a run, or of one of its parts."""

    folder: Path
    prefix: str = ""  # of the names of its devices; empty: the run itself


def find_journals(root: Path) -> list[Journal]:
    """That of the run itself, then those of its parts."""
    parts = locks.find_parts(root)
    own = [Journal(folder=locks.part_folder(root, x), prefix=f"part{x.number}/") for x in parts]
    return [Journal(folder=root), *own]


def read_incidents(root: Path) -> Iterator[dict[str, Any]]:
    """The lines of all files of incidents, in the order of time; the clock is for display (P12)."""
    return merge(*map(_read_incidents, find_journals(root)), key=lambda row: str(row.get("at")))


def _read_incidents(journal: Journal) -> Iterator[dict[str, Any]]:
    for row in json_lines(journal.folder / ledger.INCIDENTS):
        named = journal.prefix and row.get("device")
        yield row | {"device": f"{journal.prefix}{row['device']}"} if named else row
