"""A device's night in columns: what share of each its model worked or waited, and for what."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mcdiff_batch.engine.telemetry.spans import BLOCKED, LOAD, START, TASK, WAIT, WAITS

from .unit_lines import Line

COLUMNS = 240
LONGEST = 10  # gaps that are listed
LEAST_LISTED = 0.01  # s
WORK = "work"
CAUSES = (WORK, START, LOAD, WAIT, TASK, BLOCKED)
Floats = npt.NDArray[np.float64]
Json = dict[str, Any]


def collect(parts: Sequence[Sequence[Line]], spent: Sequence[float]) -> Json | None:
    """`parts`: the lines of each session; `spent`: its seconds.

    What is in no cause is not known: a worker that was lost, or a device that had no more to do.
    """
    total = float(sum(spent))
    if not total:
        return None
    edges = np.linspace(0, total, COLUMNS + 1)
    names = sorted({line.device for part in parts for line in part})
    shares = {name: {cause: np.zeros(COLUMNS) for cause in CAUSES} for name in names}
    gaps: list[Json] = []
    for offset, part in zip(np.cumsum([0.0, *spent]), parts, strict=False):
        for line in part:
            _add(shares[line.device], edges, line, float(offset))
            listed = (gap for gap in line.gaps if gap[2] >= LEAST_LISTED)
            gaps += [_gap(line.device, gap, float(offset)) for gap in listed]
        gaps = sorted(gaps, key=lambda x: -x["seconds"])[:LONGEST]
    width = total / COLUMNS
    devices = [
        {"device": name, "shares": {k: np.round(x / width, 3).tolist() for k, x in found.items()}}
        for name, found in shares.items()
    ]
    return {"seconds": round(total, 1), "devices": devices, "longest_waits": gaps}


def _gap(device: str, gap: tuple[str, float, float], offset: float) -> Json:
    cause, at, seconds = gap
    return {
        "device": device,
        "cause": cause,
        "at": round(at + offset, 2),
        "seconds": round(seconds, 3),
    }


def _add(into: dict[str, Floats], edges: Floats, line: Line, offset: float) -> None:
    """Waits that are known go where they were; short ones and work over the rest of the unit."""
    first, last = np.searchsorted(edges, (line.begin + offset, line.end + offset))
    window = slice(max(0, int(first) - 1), min(COLUMNS, int(last)) or 1)
    near = edges[window.start : window.stop + 1]
    room = overlaps(near, line.begin + offset, line.end + offset)
    short = {name: line.model.get(name, 0.0) for name in WAITS}
    for cause, at, seconds in line.gaps:
        if cause in into:
            where = overlaps(near, at + offset, at + seconds + offset)
            into[cause][window] += where
            room = np.maximum(room - where, 0)
            short[WAIT if cause == TASK else cause] -= seconds
    work = sum(s for name, s in line.model.items() if name not in WAITS)
    for name, seconds in {WORK: work, **short}.items():
        if room.sum() > 0:
            into[name][window] += max(0.0, seconds) * room / room.sum()


def overlaps(edges: Floats, begin: float, end: float) -> Floats:
    """Seconds that [begin, end] shares with each interval between edges."""
    found: Floats = np.minimum(edges[1:], end) - np.maximum(edges[:-1], begin)
    return np.maximum(found, 0)
