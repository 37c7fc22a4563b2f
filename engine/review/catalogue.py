"""The cases of an output that can be reviewed: those that are done, also while a run goes on."""

import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from mcdiff_batch.engine.output import ledger
from mcdiff_batch.engine.output.ledger import DONE, DamagedRecord, Entry

Stamp = tuple[int, int, int]  # inode, time and size of a record's file


@dataclass(frozen=True, slots=True)
class Row:
    """What the list shows of a case."""

    case: int
    flagged: bool
    pixels: str  # SHA-256


@dataclass(slots=True)
class Catalogue:
    """The rows of all cases that are done, by case.  Safe in threads."""

    out: Path
    rows: dict[int, Row] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)  # of cases, by status
    damaged: frozenset[int] = frozenset()  # units whose records cannot be read
    version: int = 0  # changes with the rows
    _units: dict[int, tuple[Stamp, list[Row], Counter[str]]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def refresh(self) -> None:
        """Reads the records that are new or were written again; damaged ones are left out."""
        with self._lock:
            present = ledger.list_units(self.out)
            changed = [x for x in present if self._read(x)]
            gone = self._units.keys() - set(present)
            for unit in gone:
                del self._units[unit]
            damaged = frozenset(present) - self._units.keys()
            if changed or gone or damaged != self.damaged:
                self.damaged = damaged
                known = [self._units[x] for x in sorted(self._units)]
                self.rows = {row.case: row for _, rows, _ in known for row in rows}
                self.counts = sum((x for _, _, x in known), Counter())
                self.version += 1

    def _read(self, unit: int) -> bool:
        """Whether the record of a unit has changed."""
        try:
            about = (self.out / ledger.file_name(unit)).stat()
            stamp = about.st_ino, about.st_mtime_ns, about.st_size
            if unit in self._units and self._units[unit][0] == stamp:
                return False
            cases = ledger.read(self.out, unit).cases
        except (OSError, DamagedRecord):
            return self._units.pop(unit, None) is not None
        rows = [Row(x.case, bool(x.flags), x.pixels) for x in cases if x.status == DONE]
        self._units[unit] = stamp, rows, Counter(x.status for x in cases)
        return True

    def entry(self, case: int, unit_size: int) -> Entry | None:
        """The entry of a case as the ledger has it now; None if the case is not done."""
        try:
            cases = ledger.read(self.out, case // unit_size).cases
        except (OSError, DamagedRecord):
            return None
        return next((x for x in cases if x.case == case and x.status == DONE), None)
