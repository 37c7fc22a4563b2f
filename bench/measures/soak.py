"""The same work for a long time: whether the rate drifts, memory grows, the machine throttles.

One device in this process does what a worker does: read, frame, enhance, measure.  The cases
repeat, because this measures the machine.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from mcdiff_batch.bench.common.ceilings import surroundings
from mcdiff_batch.bench.common.workload import LocalWorker, Workload
from mcdiff_batch.engine.archive.archive import Case
from mcdiff_batch.engine.errors import UsageError
from mcdiff_batch.engine.model.batch import batches

WINDOWS = 30  # per soak
MIB = 1 << 20
Json = dict[str, Any]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What a stretch of a soak measured."""

    at_s: float  # its middle
    cases_per_hour: float
    memory_mib: float  # resident, at its end
    around: Json

    @property
    def throttled(self) -> bool | None:
        """Whether heat or power throttled a GPU; None if unknown, as for CPUs."""
        flags = [gpu["throttled"] for gpu in self.around["gpus"] if gpu["throttled"] is not None]
        return any(flags) if flags else None


def measure(workload: Workload, batch: int, minutes: float, say: Say) -> Json:
    """Measures windows of equal length; leaves out the first, which warms up."""
    local_worker, length = LocalWorker(workload, batch), 60 * minutes / WINDOWS
    start, windows = perf_counter(), list[Window]()
    begin, cases = start, 0
    for group in _repeat_cases(workload, batch):
        local_worker.process(group)
        cases, now = cases + len(group), perf_counter()
        if now - begin >= length:
            windows.append(
                Window(
                    at_s=(begin + now) / 2 - start,
                    cases_per_hour=3600 * cases / (now - begin),
                    memory_mib=resident_mib(),
                    around=surroundings(),
                )
            )
            say(f"{(now - start) / 60:.1f} min: {windows[-1].cases_per_hour:,.0f} cases/h")
            begin, cases = now, 0
        if now - start >= 60 * minutes:
            break
    if len(windows) < 4:
        raise UsageError(
            f"soak: {len(windows)} windows in {minutes:g} min are too few; give more --minutes"
        )
    return summarise(windows[1:])


def _repeat_cases(workload: Workload, batch: int) -> Iterator[list[Case]]:
    while True:
        yield from batches(workload.cases(), batch)


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / MIB, 1)


def summarise(windows: Sequence[Window]) -> Json:
    """The document of a soak; drifts are over the whole time, from the first window to the last."""
    hours = [x.at_s / 3600 for x in windows]
    rates = [x.cases_per_hour for x in windows]
    memory = [x.memory_mib for x in windows]
    clocks = [x.around["clock_mhz"] for x in windows if x.around["clock_mhz"] is not None]
    span = hours[-1] - hours[0]
    throttled = [x.throttled for x in windows if x.throttled is not None]
    return {
        "hours": round(span, 3),
        "windows": len(windows),
        "cases_per_hour": {"low": round(min(rates), 1), "high": round(max(rates), 1)},
        "rate_drift_percent": round(100 * span * slope(hours, rates) / float(np.mean(rates)), 2),
        "memory_mib": {"low": min(memory), "high": max(memory)},
        "memory_drift_mib": round(span * slope(hours, memory), 2),
        "clock_mhz": {"low": min(clocks), "high": max(clocks)} if clocks else None,
        "throttled_windows": sum(throttled) if throttled else None,
        "series": [
            {
                "at_s": round(x.at_s, 1),
                "cases_per_hour": round(x.cases_per_hour, 1),
                "memory_mib": x.memory_mib,
                "load": x.around["load"],
                "clock_mhz": x.around["clock_mhz"],
                "throttled": x.throttled,
            }
            for x in windows
        ],
    }


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The Theil-Sen slope: the median of the slopes of all pairs, robust against odd windows."""
    a, b = np.asarray(x), np.asarray(y)
    i, j = np.triu_indices(len(a), 1)
    return float(np.median((b[j] - b[i]) / (a[j] - a[i])))


def measures(document: Json) -> tuple[dict[str, float], dict[str, str]]:
    """None: how much drift is too much depends on the hours."""
    return {}, {}


def as_text(document: Json) -> list[str]:
    """The table, 80 columns."""
    rate, memory, clock = document["cases_per_hour"], document["memory_mib"], document["clock_mhz"]
    lines = [
        f"soak, {document['hours']:.2f} h     {'low':>10}{'high':>10}{'drift':>18}",
        f"{'cases/h':<17}{rate['low']:>10,.0f}{rate['high']:>10,.0f}"
        f"{document['rate_drift_percent']:>+14.2f} %",
        f"{'resident MiB':<17}{memory['low']:>10,.0f}{memory['high']:>10,.0f}"
        f"{document['memory_drift_mib']:>+14.2f} MiB",
    ]
    if clock is not None:
        lines.append(f"{'clock MHz':<17}{clock['low']:>10,.0f}{clock['high']:>10,.0f}")
    throttled = document["throttled_windows"]
    words = (
        "not known here"
        if throttled is None
        else f"in {throttled} of {document['windows']} windows"
    )
    return [*lines, f"  throttled by heat or power: {words}"]
