"""Divides the working time into columns: how long each device worked or waited, and for what."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mcdiff_batch.engine.telemetry.spans import BLOCKED, LOAD, START, TASK, WAIT, WAITS
from mcdiff_batch.engine.text import natural_order

from .unit_lines import UnitLine
from .usage import DeviceShares, Timeline, Wait

COLUMNS = 240
MOST_WAITS = 10  # in the list
SHORTEST_WAIT = 0.01  # s, in the list
WORK = "work"
CAUSES = (WORK, START, LOAD, WAIT, TASK, BLOCKED)
Floats = npt.NDArray[np.float64]


def draw_timeline(
    sessions: Sequence[Sequence[UnitLine]], seconds: Sequence[float]
) -> Timeline | None:
    """Divides the time of each device; None if there is none.

    sessions, seconds: the lines of each session, and how long it took.
    A share of a column that no cause has is lost: a worker died, or a device had no more to do.
    """
    total = float(sum(seconds))
    if not total:
        return None
    edges = np.linspace(0, total, COLUMNS + 1)
    names = sorted({x.device for session in sessions for x in session}, key=natural_order)
    spent = {name: {cause: np.zeros(COLUMNS) for cause in CAUSES} for name in names}
    waits: list[Wait] = []
    for offset, session in zip(np.cumsum([0.0, *seconds]), sessions, strict=False):
        for line in session:
            _add(spent[line.device], edges, line, float(offset))
            waits += _waits(line, float(offset))
        waits = sorted(waits, key=lambda x: -x.seconds)[:MOST_WAITS]
    width = total / COLUMNS
    devices = [
        DeviceShares(
            device=name, shares={k: np.round(x / width, 3).tolist() for k, x in by.items()}
        )
        for name, by in spent.items()
    ]
    return Timeline(seconds=round(total, 1), devices=devices, longest_waits=waits)


def _waits(line: UnitLine, offset: float) -> list[Wait]:
    return [
        Wait(device=line.device, cause=cause, at=round(at + offset, 2), seconds=round(seconds, 3))
        for cause, at, seconds in line.gaps
        if seconds >= SHORTEST_WAIT
    ]


def _add(into: dict[str, Floats], edges: Floats, line: UnitLine, offset: float) -> None:
    """Adds a unit: its recorded waits where they were, the rest of its time spread evenly."""
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
    """Seconds that [begin, end] has in common with each interval between edges."""
    common: Floats = np.minimum(edges[1:], end) - np.maximum(edges[:-1], begin)
    return np.maximum(common, 0)
