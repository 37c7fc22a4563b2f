"""Summarises the time that a run took, from the files that it wrote: sessions, throughput, stages.

For display only (P12).  A session is one start of the run, or of a part, that committed units.
Parts that were at work at one time are a shift, which counts as one session.  A session that was
killed has its lines in `timings.jsonl`, but no summary in `run_stats.json`.
"""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from mcdiff_batch.engine.files import Json
from mcdiff_batch.engine.telemetry.numbers import parse_number, parse_seconds
from mcdiff_batch.engine.telemetry.spans import MODEL, WAITS
from mcdiff_batch.engine.telemetry.timesheet import STATS
from mcdiff_batch.engine.text import clean, natural_order

from . import machine
from .cases import count_bins
from .document import Latencies, Latency, Work
from .parts import MOST_SHOWN, Journal, find_journals
from .timeline import draw_timeline
from .unit_lines import Session, Shift, UnitLine, find_shifts, read_lines
from .usage import DeviceTimes, Machine, Throughput, Timeline

BINS = 60
UNITS_PER_BIN = 4
LEAST_BINS = 4
PERCENTILES = (50, 90, 95, 99)
BEYOND = 3  # samples that must lie beyond a percentile
Lines = Sequence[UnitLine]  # of a session


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """The parts of the report that concern time."""

    work: Work
    throughput: Throughput | None
    stages: list[DeviceTimes]
    timeline: Timeline | None
    latency: Latencies
    machine: Machine


def collect(out: Path) -> Times:
    journals = find_journals(out)
    ended = [ended_runs(x.folder) for x in journals]
    sessions = [
        session
        for number, journal in enumerate(journals)
        for session in _sessions(number, journal, ended[number])
    ]
    shifts = find_shifts(sessions)
    seconds = [x.seconds for x in shifts]
    shown = [x.read_lines(1 + MOST_SHOWN) for x in shifts]
    stages = _stages([x.lines for x in sessions if x.journal <= MOST_SHOWN])
    lines = [line for session in sessions for line in session.lines]
    on_gpus = any("cpu" not in x.device for x in stages)
    return Times(
        work=_work(shifts, ended),
        throughput=_throughput([x.read_lines(len(journals)) for x in shifts], seconds),
        stages=stages,
        timeline=draw_timeline(shown, seconds),
        latency=Latencies(
            batch=_latency([x for line in lines for x in line.batches]),
            case=_latency([x for line in lines for x in line.latencies]),
        ),
        machine=machine.collect(
            journals[: 1 + MOST_SHOWN], _offsets(shifts), sum(seconds), on_gpus
        ),
    )


def _sessions(number: int, journal: Journal, ended: Sequence[Json]) -> list[Session]:
    """A killed session counts until its last unit."""
    seconds = {x["began"]: x["seconds"] for x in ended}
    return [
        Session(
            journal=number,
            began=lines[0].began,
            seconds=seconds.get(lines[0].began, lines[-1].at),
            lines=lines,
        )
        for lines in split_sessions(read_lines(journal.folder, journal.prefix))
    ]


def ended_runs(out: Path) -> list[Json]:
    """What run_stats.json says of the sessions that ended by themselves; nothing if damaged."""
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        return list(_parse_ended(json.loads((out / STATS).read_bytes())["runs"]))
    return []


def _parse_ended(rows: Iterable[Json]) -> Iterator[Json]:
    """A row with a field of another type is left out."""
    for raw in rows:
        with suppress(KeyError, TypeError, ValueError):
            times = {"began": parse_number(raw["began"]), "seconds": parse_seconds(raw["seconds"])}
            yield {**raw, **times}


def split_sessions(lines: Iterable[UnitLine]) -> list[list[UnitLine]]:
    return [list(part) for _, part in groupby(lines, key=lambda line: line.began)]


def _offsets(shifts: Sequence[Shift]) -> dict[tuple[int, float], float]:
    """When each session began, in seconds of working time, by its folder and wall clock time."""
    starts = np.cumsum([0.0, *(x.seconds for x in shifts)]).tolist()
    return {
        (session.journal, session.began): start + session.began - shift.began
        for shift, start in zip(shifts, starts, strict=False)
        for session in shift.sessions
    }


def _work(shifts: Sequence[Shift], ended: Sequence[Sequence[Json]]) -> Work:
    sessions = [x for shift in shifts for x in shift.sessions]
    total = sum(x.seconds for x in shifts)
    cases = sum(line.cases for session in sessions for line in session.lines)
    return Work(
        sessions=len(shifts),
        resumed=max(0, len(shifts) - 1),
        cases=cases,
        seconds=round(total, 1),
        cases_per_hour=round(3600 * cases / total, 1) if total else None,
        last_ended=_last_ended(ended),
        finished_at=_finished_at(shifts, ended),
        started_at=_moment(min((x.began for x in sessions), default=None)),
    )


def _last_ended(ended: Sequence[Sequence[Json]]) -> str | None:
    """Why the last session of the run itself ended; else that of the last part to end."""
    last = [own[-1] for own in ended if own]
    if not ended[0] and last:
        last = sorted(last, key=lambda x: x["began"] + x["seconds"])[-1:]
    return clean(last[0].get("ended", "")) if last else None


def _finished_at(shifts: Sequence[Shift], ended: Sequence[Sequence[Json]]) -> str | None:
    """When the last sessions ended; None if one of them was killed, since nothing recorded that."""
    if not shifts:
        return None
    moments = []
    for session in shifts[-1].sessions:
        own = {x.get("began"): clean(x.get("finished_at", "")) for x in ended[session.journal]}
        moments.append((session.began + session.seconds, own.get(session.began)))
    return None if any(x is None for _, x in moments) else max(moments)[1]


def _moment(seconds: float | None) -> str | None:
    """A moment of the wall clock, as a run writes them (P12: for display only)."""
    with suppress(ValueError, OverflowError, OSError):  # a damaged line
        if seconds is not None:
            return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))
    return None


def _throughput(sessions: Sequence[Lines], seconds: Sequence[float]) -> Throughput | None:
    """Cases per hour over the working time; None where there are too few units for a curve."""
    units = sum(map(len, sessions))
    bins = min(BINS, units // UNITS_PER_BIN)
    if bins < LEAST_BINS:
        return None
    starts = np.cumsum([0.0, *seconds])
    times, done = [0.0], [0]
    for start, session in zip(starts, sessions, strict=False):
        for line in session:
            times.append(float(start) + line.at)
            done.append(done[-1] + line.cases)
    edges = np.linspace(0, starts[-1], bins + 1)
    rates = np.diff(np.interp(edges, times, done)) / (edges[1] - edges[0]) * 3600
    return Throughput(
        seconds=round(float(starts[-1]), 1),
        cases_per_hour=np.round(rates, 1).tolist(),
        resumed_at=np.round(starts[1:-1], 1).tolist(),
    )


def _stages(sessions: Sequence[Lines]) -> list[DeviceTimes]:
    devices: dict[str, list[Lines]] = defaultdict(list)
    for session in sessions:
        for name in sorted({line.device for line in session}, key=natural_order):
            devices[name].append([line for line in session if line.device == name])
    return [
        _device(name, own)
        for name, own in sorted(devices.items(), key=lambda x: natural_order(x[0]))
    ]


def _device(name: str, sessions: Sequence[Lines]) -> DeviceTimes:
    lanes: dict[str, Counter[str]] = {}
    cases = 0
    for line in (line for session in sessions for line in session):
        cases += line.cases
        for lane, stages in line.lanes.items():
            spent: Any = lanes.setdefault(lane, Counter())
            spent.update(stages)
    model = sum(lanes.get(MODEL, Counter()).values())
    waits = sum(lanes.get(MODEL, Counter())[x] for x in WAITS)
    wall = sum(session[-1].at for session in sessions)
    accounted = model + sum(session[-1].tail for session in sessions)
    return DeviceTimes(
        device=name,
        cases=cases,
        lanes={x: {k: round(s, 3) for k, s in spent.items()} for x, spent in lanes.items()},
        ms_per_case={
            stage: round(1000 * s / cases, 2)
            for spent in lanes.values()
            for stage, s in spent.items()
            if cases
        },
        waiting_percent=round(100 * waits / model, 1) if model else None,
        wall_seconds=round(wall, 3),
        accounted_percent=round(100 * accounted / wall, 2) if wall else None,
    )


def _latency(seconds: Sequence[float]) -> Latency:
    values = np.asarray(seconds, np.float64)
    points = {
        f"p{q}": round(float(np.percentile(values, q)), 4)
        if len(values) * (100 - q) >= 100 * BEYOND
        else None
        for q in PERCENTILES
    }
    return Latency(
        count=len(values),
        **points,
        max=round(float(values.max()), 4) if len(values) else None,
        histogram=count_bins(all=values),
    )
