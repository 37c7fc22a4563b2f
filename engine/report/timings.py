"""When the work was done: sessions, throughput, stage times and waits, from what a run wrote down.

For display only.  A session is one run that committed units; a killed one has left its lines in
`timings.jsonl` and no summary in `run_stats.json`.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from mcdiff_batch.engine.telemetry.spans import MODEL, WAITS
from mcdiff_batch.engine.telemetry.timesheet import STATS
from mcdiff_batch.engine.text import clean

from . import machine, timeline
from .tally import Floats, histogram
from .unit_lines import Line, lines

BINS = 60
UNITS_PER_BIN = 4
PERCENTILES = (50, 90, 95, 99)
BEYOND = 3  # samples that a percentile must leave above it, or it is not told
Json = dict[str, Any]


def ended_runs(out: Path) -> list[Json]:
    """What run_stats.json says of the runs that came to an end of their own."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return [x for x in json.loads((out / STATS).read_bytes())["runs"] if isinstance(x, dict)]
    return []


def segments(found: Sequence[Line]) -> list[list[Line]]:
    """Lines by run."""
    return [list(part) for _, part in groupby(found, key=lambda line: line.began)]


def collect(out: Path) -> Json:
    """The parts of the report that tell of time."""
    runs = ended_runs(out)
    parts = segments(list(lines(out)))
    spent = _spent(parts, runs)
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
    return {
        "work": work,
        "throughput": _throughput(parts, spent),
        "stages": _stages(parts),
        "timeline": timeline.collect(parts, spent),
        "latency": _latency([line for part in parts for line in part]),
        "machine": machine.collect(out, _offsets(parts, spent), seconds),
    }


def _offsets(parts: Sequence[Sequence[Line]], spent: Sequence[float]) -> dict[float, float]:
    """When each session began, in seconds of work."""
    starts = np.cumsum([0.0, *spent]).tolist()
    return {part[0].began: start for part, start in zip(parts, starts, strict=False)}


def _spent(parts: Sequence[Sequence[Line]], runs: Sequence[Json]) -> list[float]:
    """Seconds of each session; of a killed one, until its last unit."""
    known = {x["began"]: x["seconds"] for x in runs if "began" in x and "seconds" in x}
    return [float(known.get(part[0].began, part[-1].at)) for part in parts]


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
    """Seconds by device, lane and stage.  Lanes run beside each other."""
    devices: dict[str, list[list[Line]]] = defaultdict(list)
    for part in parts:
        for name in sorted({line.device for line in part}):
            devices[name].append([line for line in part if line.device == name])
    return [_device(name, sessions) for name, sessions in sorted(devices.items())]


def _device(name: str, sessions: Sequence[Sequence[Line]]) -> Json:
    lanes: dict[str, Counter[str]] = {}
    cases = 0
    for line in (line for part in sessions for line in part):
        cases += line.cases
        for lane, stages in line.lanes.items():
            spent: Any = lanes.setdefault(lane, Counter())
            spent.update(stages)
    model = sum(lanes.get(MODEL, Counter()).values())
    waits = sum(lanes.get(MODEL, Counter())[x] for x in WAITS)
    wall, known = sum(part[-1].at for part in sessions), model + sum(x[-1].tail for x in sessions)
    return {
        "device": name,
        "cases": cases,
        "lanes": {x: {k: round(s, 3) for k, s in spent.items()} for x, spent in lanes.items()},
        "ms_per_case": {
            stage: round(1000 * s / cases, 2)
            for spent in lanes.values()
            for stage, s in spent.items()
            if cases
        },
        "waiting_percent": round(100 * waits / model, 1) if model else None,
        "wall_seconds": round(wall, 3),
        "accounted_percent": round(100 * known / wall, 2) if wall else None,
    }


def _latency(found: Sequence[Line]) -> Json:
    """Seconds: of a batch, from its conditioner to its labels; of a case, from the begin of its
    reading to its compressed images, with all its waits."""
    columns = {
        "batch": [x for line in found for x in line.batches],
        "case": [x for line in found for x in line.latencies],
    }
    return {name: _percentiles(np.asarray(x, np.float64)) for name, x in columns.items()}


def _percentiles(values: Floats) -> Json:
    """None where there are too few for it."""
    points = {
        f"p{q}": round(float(np.percentile(values, q)), 4)
        if len(values) * (100 - q) >= 100 * BEYOND
        else None
        for q in PERCENTILES
    }
    top = round(float(values.max()), 4) if len(values) else None
    return {"count": len(values), **points, "max": top, "histogram": histogram({"all": values})}
