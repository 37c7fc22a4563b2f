"""Reads the ledger once and sums up its cases: counts, failures, quality columns."""

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mcdiff_batch.engine.image.columns import (
    AGREEMENT,
    CNR,
    COLUMNS,
    KEYS,
    Better,
    Column,
    lacks_spacing,
)
from mcdiff_batch.engine.image.gate import explain
from mcdiff_batch.engine.output import ledger
from mcdiff_batch.engine.output.ledger import DONE, FAILED, OPEN, DamagedRecord, Entry
from mcdiff_batch.engine.text import clean

from .document import (
    Change,
    Distribution,
    FailedCase,
    FlaggedCase,
    Gain,
    Histogram,
    Single,
    Summary,
)

MOST_ROWS = 200  # of a table
BINS = 32  # at most
FEW = 20  # values or more make a histogram; fewer are shown one by one
TAIL = 0.5  # %; values beyond are counted in the outer bins
Floats = npt.NDArray[np.float64]


@dataclass(slots=True, kw_only=True)
class Tally:
    """What the ledger says of all cases: a few numbers of each, and the first rows of each table.

    So memory stays small however many cases there are (P8).
    """

    counts: Counter[str] = field(default_factory=Counter)  # by status
    reasons: Counter[str] = field(default_factory=Counter)  # of failed and open cases
    failures: list[FailedCase] = field(default_factory=list)
    done: "array[int]" = field(default_factory=lambda: array("q"))  # index of each case
    flags: "array[int]" = field(default_factory=lambda: array("b"))  # count, of each done case
    kinds: Counter[str] = field(default_factory=Counter)  # of flags
    flagged: list[FlaggedCase] = field(default_factory=list)
    columns: dict[str, "array[float]"] = field(
        default_factory=lambda: {key: array("f") for key in KEYS}
    )
    damaged: int = 0  # records
    without_spacing: int = 0  # done cases whose columns that need mm are blank

    def add(self, entry: Entry) -> None:
        self.counts[entry.status] += 1
        if entry.status == DONE:
            self._add_done(entry)
        elif entry.status in (FAILED, OPEN):
            self._add_failure(entry)

    def _add_done(self, entry: Entry) -> None:
        self.done.append(entry.case)
        self.without_spacing += lacks_spacing(entry.quality)
        for key, values in self.columns.items():
            value = entry.quality.get(key)
            values.append(float("nan") if value is None else value)
        self.flags.append(len(entry.flags))
        self.kinds.update(map(clean, entry.flags))
        if entry.flags and len(self.flagged) < MOST_ROWS:
            why, flags = explain(entry.flags, entry.quality), list(map(clean, entry.flags))
            self.flagged.append(FlaggedCase(case=entry.case, why=why, flags=flags))

    def _add_failure(self, entry: Entry) -> None:
        reason, detail = clean(entry.reason or entry.status), clean(entry.detail)
        self.reasons[reason] += 1
        if len(self.failures) < MOST_ROWS:
            row = FailedCase(case=entry.case, status=entry.status, reason=reason, detail=detail)
            self.failures.append(row)

    def values(self, key: str) -> Floats:
        """[done cases], NaN where undefined."""
        return np.asarray(self.columns[key], np.float64)

    @property
    def agreement(self) -> Floats:
        return self.values(AGREEMENT.name)

    @property
    def cnr_gain(self) -> Floats:
        return self.values(CNR.after) - self.values(CNR.before)


def count_cases(out: Path) -> Tally:
    """Reads one record at a time.  A damaged record is counted, and its cases are open."""
    tally = Tally()
    for _, data in ledger.read_all(out):
        try:
            record = ledger.decode(data)
        except DamagedRecord:
            tally.damaged += 1
            continue
        for entry in record.cases:
            tally.add(entry)
    return tally


def read_entries(out: Path, cases: set[int], unit_size: int) -> Iterator[Entry]:
    """The entries of a few cases, given by index."""
    for unit in sorted({case // unit_size for case in cases}):
        yield from (x for x in ledger.read(out, unit).cases if x.case in cases)


def summarise_quality(tally: Tally) -> dict[str, Distribution]:
    """The distribution of every column over the cases that are done."""
    return {column.name: _distribution(tally, column) for column in COLUMNS}


def _distribution(tally: Tally, column: Column) -> Distribution:
    if not column.paired:
        values = tally.values(column.name)
        return Single(after=summarise(values), histogram=count_bins(after=values))
    before, after = tally.values(column.before), tally.values(column.after)
    change = after - before
    if column.better is Better.NEITHER:
        return Change(before=summarise(before), after=summarise(after), change=summarise(change))
    return Gain(
        before=summarise(before),
        after=summarise(after),
        gain=summarise(change),
        worse=int(np.count_nonzero(column.better * change < 0)),
        histogram=count_bins(before=before, after=after),
    )


def summarise(values: Floats) -> Summary:
    """Percentiles of the defined values; only a count of 0 where there are none."""
    defined = values[np.isfinite(values)]
    if not len(defined):
        return Summary(cases=0)
    names = ("p5", "p25", "median", "p75", "p95")
    points = np.percentile(defined, (5, 25, 50, 75, 95))
    rounded = {name: round(float(x), 4) for name, x in zip(names, points, strict=True)}
    return Summary(cases=len(defined), mean=round(float(defined.mean()), 4), **rounded)


def count_bins(**columns: Floats) -> Histogram | None:
    """Histogram of each column on common edges; None where no value is defined.

    Where every column has fewer than FEW values, the values are there too.
    """
    defined = {name: values[np.isfinite(values)] for name, values in columns.items()}
    whole = np.concatenate(list(defined.values()))
    if not len(whole):
        return None
    most = max(len(x) for x in defined.values())
    few, bins = most < FEW, int(np.clip(2 * np.sqrt(most), 8, BINS))
    low, high = np.percentile(whole, (0, 100) if few else (TAIL, 100 - TAIL))
    edges = np.linspace(low, high if high > low else low + 0.1, bins + 1)
    counts = {
        name: np.histogram(np.clip(x, edges[0], edges[-1]), edges)[0].tolist()
        for name, x in defined.items()
    }
    points = {name: np.round(x, 4).tolist() for name, x in defined.items()}
    return Histogram(edges=np.round(edges, 4).tolist(), **counts, points=points if few else None)
