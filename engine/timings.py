"""When the work was done: sessions, throughput and stage times, from what a run wrote down.

For display only.  A session is one run that committed units; a killed one has left its lines in
`timings.jsonl` and no summary in `run_stats.json`.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .books import STATS, TIMINGS
from .ledger import DONE, FAILED
from .markup import clean

MODEL = ("wait", "condition", "step", "relabel")  # one after the other in a device's model thread
BINS = 60
UNITS_PER_BIN = 4
Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A unit was committed `at` s after its run began."""

    at: float
    device: str
    cases: int
    seconds: dict[str, float]


def json_lines(path: Path) -> Iterator[Json]:
    """Objects of a JSON lines file, without what is torn; nothing where there is no file."""
    if not path.is_file():
        return
    with path.open(errors="replace") as file:
        for text in file:
            with suppress(ValueError):
                value = json.loads(text)
                if isinstance(value, dict):
                    yield value


def lines(out: Path) -> Iterator[Line]:
    for raw in json_lines(out / TIMINGS):
        with suppress(KeyError, TypeError, ValueError, AttributeError):
            yield Line(
                at=float(raw["at"]),
                device=clean(raw["device"]),
                cases=sum(int(raw["counts"][x]) for x in (DONE, FAILED)),
                seconds={clean(k): float(v) for k, v in raw["seconds"].items()},
            )


def ended_runs(out: Path) -> list[Json]:
    """What run_stats.json says of the runs that came to an end of their own."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return [x for x in json.loads((out / STATS).read_bytes())["runs"] if isinstance(x, dict)]
    return []


def segments(found: Sequence[Line]) -> list[list[Line]]:
    """Lines by run: the clock of each begins at 0."""
    out: list[list[Line]] = []
    for line in found:
        if not out or line.at < out[-1][-1].at:
            out.append([])
        out[-1].append(line)
    return out


def collect(out: Path) -> Json:
    """The parts `work`, `throughput` and `stages` of the report."""
    runs = ended_runs(out)
    parts = segments(list(lines(out)))
    spent = _spent(parts, [x for x in runs if x.get("units")])
    seconds, cases = sum(spent), sum(line.cases for part in parts for line in part)
    work = {
        "sessions": len(parts),
        "resumed": max(0, len(parts) - 1),
        "cases": cases,
        "seconds": round(seconds, 1),
        "cases_per_hour": round(3600 * cases / seconds, 1) if seconds else None,
        "last_ended": clean(runs[-1].get("ended", "")) if runs else None,
        "finished_at": clean(runs[-1].get("finished_at", "")) if runs else None,
    }
    return {"work": work, "throughput": _throughput(parts, spent), "stages": _stages(parts)}


def _spent(parts: Sequence[Sequence[Line]], runs: Sequence[Json]) -> list[float]:
    """Seconds of each session; of a killed one, until its last unit."""
    waiting, out = list(runs), []
    for part in parts:
        last = part[-1].at
        same = waiting and waiting[0]["units"] == len(part) and waiting[0]["seconds"] >= last
        out.append(float(waiting.pop(0)["seconds"]) if same else last)
    return out


def _throughput(parts: Sequence[Sequence[Line]], spent: Sequence[float]) -> Json | None:
    """Cases an hour over the working time; None where there are too few units for a curve."""
    units = sum(map(len, parts))
    count = min(BINS, units // UNITS_PER_BIN)
    if count < 4:
        return None
    starts = np.cumsum([0.0, *spent])
    times, done = [0.0], [0]
    for start, part in zip(starts, parts, strict=False):
        for line in part:
            times.append(float(start) + line.at)
            done.append(done[-1] + line.cases)
    edges = np.linspace(0, starts[-1], count + 1)
    rates = np.diff(np.interp(edges, times, done)) / (edges[1] - edges[0]) * 3600
    return {
        "seconds": round(float(starts[-1]), 1),
        "cases_per_hour": np.round(rates, 1).tolist(),
        "resumed_at": np.round(starts[1:-1], 1).tolist(),
    }


def _stages(parts: Sequence[Sequence[Line]]) -> list[Json]:
    """Seconds by device and stage.  Reading and finishing run beside the model."""
    spent: dict[str, Counter[str]] = {}
    cases: Counter[str] = Counter()
    for part in parts:
        for line in part:
            device = spent.setdefault(line.device, Counter())
            cases[line.device] += line.cases
            for stage, seconds in line.seconds.items():
                device[stage] += seconds  # type: ignore[assignment]
    return [_device(name, cases[name], spent[name]) for name in sorted(spent)]


def _device(name: str, cases: int, spent: dict[str, Any]) -> Json:
    model = sum(spent.get(x, 0.0) for x in MODEL)
    return {
        "device": name,
        "cases": cases,
        "seconds": {stage: round(s, 3) for stage, s in spent.items()},
        "ms_per_case": {x: round(1000 * s / cases, 2) for x, s in spent.items() if cases},
        "waiting_percent": round(100 * spent.get("wait", 0.0) / model, 1) if model else None,
    }
