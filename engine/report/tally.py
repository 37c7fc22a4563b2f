"""What the ledger says of all cases, gathered in one pass: counts, failures, quality columns."""

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mcdiff_batch.engine.image.gate import explain
from mcdiff_batch.engine.output import ledger
from mcdiff_batch.engine.output.ledger import DONE, FAILED, OPEN, DamagedRecord, Entry
from mcdiff_batch.engine.text import clean

MOST_ROWS = 200  # of a table
BINS = 32
TAIL = 0.5  # %: what lies beyond is counted in the outer bins
PAIRED = ("cnr_log10", "snr_log10")  # metrics that are there before and after, dB
READ = ("uca_thoracic", "uca_lumbar", "levels")  # likewise, but not to be raised: degrees, count
SINGLE = (
    *("label_agreement", "bone_share", "levels_lost", "levels_invented", "uca_confidence"),
    *("mean_spread", "depth_coverage"),
)
COLUMNS = (*(f"{x}_{when}" for x in PAIRED + READ for when in ("before", "after")), *SINGLE)
Floats = npt.NDArray[np.float64]
Json = dict[str, Any]


def _empty() -> dict[str, "array[float]"]:
    return {name: array("f") for name in COLUMNS}


@dataclass(slots=True, kw_only=True)
class Tally:
    """A few numbers per case, whatever the cases are."""

    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    bad: list[Json] = field(default_factory=list)  # failed and open, the first ones
    done: "array[int]" = field(default_factory=lambda: array("q"))
    flags: "array[int]" = field(default_factory=lambda: array("b"))  # how many, of those done
    kinds: Counter[str] = field(default_factory=Counter)  # of flags
    flagged: list[Json] = field(default_factory=list)  # the first ones
    columns: dict[str, "array[float]"] = field(default_factory=_empty)
    damaged: int = 0  # records

    def add(self, entry: Entry) -> None:
        self.counts[entry.status] += 1
        if entry.status == DONE:
            self._add_done(entry)
        elif entry.status in (FAILED, OPEN):
            self._add_bad(entry)

    def _add_done(self, entry: Entry) -> None:
        self.done.append(entry.case)
        for name, values in self.columns.items():
            value = entry.quality.get(name)
            values.append(float("nan") if value is None else value)
        self.flags.append(len(entry.flags))
        self.kinds.update(map(clean, entry.flags))
        if entry.flags and len(self.flagged) < MOST_ROWS:
            self.flagged.append({"case": entry.case, "why": explain(entry.flags, entry.quality)})

    def _add_bad(self, entry: Entry) -> None:
        reason = clean(entry.reason or entry.status)
        self.reasons[reason] += 1
        if len(self.bad) < MOST_ROWS:
            row = {"case": entry.case, "status": entry.status, "reason": reason}
            self.bad.append(row | {"detail": clean(entry.detail)})

    def column(self, name: str) -> Floats:
        return np.asarray(self.columns[name], np.float64)

    @property
    def cnr_gain(self) -> Floats:
        return self.column("cnr_log10_after") - self.column("cnr_log10_before")


def tally(out: Path) -> Tally:
    """Reads one record at a time; one that is damaged is counted, and its cases are open."""
    found = Tally()
    for unit in ledger.recorded(out):
        try:
            record = ledger.read(out, unit)
        except DamagedRecord:
            found.damaged += 1
            continue
        for entry in record.cases:
            found.add(entry)
    return found


def entries(out: Path, cases: set[int], unit_size: int) -> Iterator[Entry]:
    """The entries of a few cases, by index."""
    for unit in sorted({case // unit_size for case in cases}):
        yield from (x for x in ledger.read(out, unit).cases if x.case in cases)


def quality(found: Tally) -> Json:
    """Distributions over the cases that are done."""
    pairs = {name: _pair(found, name) for name in PAIRED}
    read = {name: _read(found, name) for name in READ}
    return pairs | read | {name: _single(found.column(name)) for name in SINGLE}


def _pair(found: Tally, name: str) -> Json:
    before, after = found.column(f"{name}_before"), found.column(f"{name}_after")
    gain = after - before
    return {
        "before": summary(before),
        "after": summary(after),
        "gain": summary(gain),
        "worse": int(np.count_nonzero(gain < 0)),
        "histogram": histogram({"before": before, "after": after}),
    }


def _read(found: Tally, name: str) -> Json:
    before, after = found.column(f"{name}_before"), found.column(f"{name}_after")
    return {
        "before": summary(before),
        "after": summary(after),
        "change": summary(after - before),
    }


def _single(values: Floats) -> Json:
    return {"after": summary(values), "histogram": histogram({"after": values})}


def summary(values: Floats) -> Json:
    """Percentiles of what is defined; only a count of 0 where nothing is."""
    known = values[np.isfinite(values)]
    if not len(known):
        return {"cases": 0}
    names = ("p5", "p25", "median", "p75", "p95")
    points = np.percentile(known, (5, 25, 50, 75, 95))
    rounded = {name: round(float(x), 4) for name, x in zip(names, points, strict=True)}
    return {"cases": len(known), "mean": round(float(known.mean()), 4), **rounded}


def histogram(columns: dict[str, Floats]) -> Json | None:
    """Counts of each column on common edges; None where nothing is defined."""
    known = {name: values[np.isfinite(values)] for name, values in columns.items()}
    whole = np.concatenate(list(known.values()))
    if not len(whole):
        return None
    low, high = np.percentile(whole, (TAIL, 100 - TAIL))
    count = _bins([len(x) for x in known.values()])
    edges = np.linspace(low, high if high > low else low + 0.1, count + 1)
    counts = {
        name: np.histogram(np.clip(x, edges[0], edges[-1]), edges)[0].tolist()
        for name, x in known.items()
    }
    return {"edges": np.round(edges, 4).tolist(), **counts}


def _bins(sizes: Sequence[int]) -> int:
    return int(np.clip(2 * np.sqrt(max(sizes)), 8, BINS))
