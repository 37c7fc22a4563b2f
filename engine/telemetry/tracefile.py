"""Keeps spans on disk and exports them as a trace that Perfetto and chrome://tracing open.

The files hold the first FIRST units of an output, and the last LAST to 2 x LAST, however many there
are.  `timings.jsonl` has the sums of all units.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mcdiff_batch.engine.files import Json, append_json, json_lines
from mcdiff_batch.engine.text import clean, natural_order

from .numbers import parse_count, parse_number
from .sampling import GPU_FIELDS, read_samples
from .spans import FEEDING, FINISHING, LANES, MODEL, READING, Span, SpanLog

FOLDER = "report/spans"
FILES = tuple(f"{FOLDER}/{x}.jsonl" for x in ("first", "older", "last"))  # in the order of time
FIRST_FILE, OLDER_FILE, LAST_FILE = FILES
FIRST, LAST = 32, 32  # units
MOST = 4000  # spans of a unit; if there are more, solver steps are left out, then the last spans
STEP = "step"
MICROSECONDS = 1e6
THREADS = {FEEDING: 1, READING: 10, MODEL: 2, FINISHING: 3}  # order of a device's lanes


class TraceLog:
    """Adds units to the files; memory and disk do not grow with their number (P8)."""

    def __init__(self, root: Path) -> None:
        self.root, self.first, self.last = root, 0, 0
        with suppress(OSError):  # another user's, for example
            count = lambda name: sum(1 for _ in json_lines(root / name))
            self.first, self.last = count(FIRST_FILE), count(LAST_FILE)

    def add(self, head: Mapping[str, Any], log: SpanLog, epoch: float) -> None:
        """Adds the log of the unit that `head` names.  Raises OSError."""
        if self.first < FIRST:
            name, self.first = FIRST_FILE, self.first + 1
        else:
            if self.last == LAST:
                (self.root / LAST_FILE).replace(self.root / OLDER_FILE)
                self.last = 0
            name, self.last = LAST_FILE, self.last + 1
        line = {**head, "spans": _spans(log.spans, epoch), "counts": _counts(log, epoch)}
        append_json(self.root / name, line)


def _spans(spans: Sequence[Span], epoch: float) -> list[list[object]]:
    if len(spans) > MOST:
        spans = [x for x in spans if x.stage != STEP][:MOST]
    return [
        [x.stage, x.lane, round(x.begin - epoch, 6), round(x.end - epoch, 6), x.case] for x in spans
    ]


def _counts(log: SpanLog, epoch: float) -> list[list[object]]:
    return [[x.name, round(x.at - epoch, 6), x.value] for x in log.counts[:MOST]]


def export_trace(*folders: tuple[str, Path]) -> Json:
    """The trace in Chrome's JSON format: a process per device, a thread per lane, counter tracks.

    folders: of a run and of its parts, each behind a prefix of the names of its devices.
    https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
    The runs of an output stand at their times of the wall clock.
    """
    units = [x for prefix, folder in folders for x in _units(folder, prefix)]
    sampled = [(prefix, x) for prefix, folder in folders for x in read_samples(folder)]
    start = min((x["began"] for x in [*units, *(y for _, y in sampled)]), default=0.0)
    names = sorted({x["device"] for x in units}, key=natural_order)
    devices = {name: pid for pid, name in enumerate(names, 1)}
    events = list(_names(devices, units))
    for unit in units:
        events += _unit_events(unit, devices[unit["device"]], start)
    for prefix, sample in sampled:
        events += _sample_events(sample, start, prefix)
    limits = {"units": len(units), "first": FIRST, "last": LAST}
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": limits}


def _units(out: Path, prefix: str) -> Iterator[Json]:
    """Units in the order of time; a line of another kind is left out."""
    for raw in (x for name in FILES for x in json_lines(out / name)):
        with suppress(AttributeError, KeyError, TypeError, ValueError):
            yield {
                "began": parse_number(raw["began"]),
                "device": f"{prefix}{clean(raw['device'])}",
                "unit": parse_count(raw["unit"]),
                "spans": [
                    (clean(stage), clean(lane), *map(parse_number, (begin, end)), parse_count(case))
                    for stage, lane, begin, end, case in raw["spans"]
                ],
                "counts": [
                    (clean(x), parse_number(at), parse_count(value))
                    for x, at, value in raw["counts"]
                ],
            }


def _names(devices: Mapping[str, int], units: Sequence[Json]) -> Iterator[Json]:
    for name, pid in {"machine": 0, **devices}.items():
        yield {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": name}}
    lanes = {(devices[x["device"]], span[1]) for x in units for span in x["spans"]}
    for pid, lane in sorted(lanes):
        place = {"pid": pid, "tid": _thread(lane)}
        yield {"ph": "M", "name": "thread_name", **place, "args": {"name": lane}}


def _thread(lane: str) -> int:
    name, _, number = lane.partition(" ")
    return THREADS.get(name, len(LANES)) + (int(number) if number.isdecimal() else 0)


def _unit_events(unit: Json, pid: int, start: float) -> Iterator[Json]:
    shift = unit["began"] - start
    for stage, lane, begin, end, case in unit["spans"]:
        yield {
            "ph": "X",
            "name": stage,
            "cat": lane.partition(" ")[0],
            "pid": pid,
            "tid": _thread(lane),
            "ts": _micro(begin + shift),
            "dur": _micro(end - begin),
            "args": {"unit": unit["unit"]} | ({"case": case} if case >= 0 else {}),
        }
    for name, at, value in unit["counts"]:
        yield _counter(name, pid, at + shift, value)


def _sample_events(sample: Mapping[str, Any], start: float, prefix: str) -> Iterator[Json]:
    at = float(sample["began"]) - start + float(sample["at"])
    for name in ("cpu_percent", "resident_mib"):
        yield _counter(f"{prefix}{name}", 0, at, sample[name])
    for gpu in sample["gpus"]:
        for name in (x for x in GPU_FIELDS if x in gpu):
            yield _counter(f"{prefix}gpu {gpu['index']} {name}", 0, at, gpu[name])


def _counter(name: str, pid: int, at: float, value: float) -> Json:
    event = {"ph": "C", "name": name, "pid": pid, "tid": 0, "ts": _micro(at)}
    return event | {"args": {name: value}}


def _micro(seconds: float) -> float:
    return round(seconds * MICROSECONDS, 1)
