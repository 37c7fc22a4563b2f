"""What a run wrote down of each unit it committed: a line of `timings.jsonl`."""

from array import array
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcdiff_batch.engine.files import json_lines
from mcdiff_batch.engine.output.ledger import DONE, FAILED
from mcdiff_batch.engine.telemetry.spans import MODEL
from mcdiff_batch.engine.telemetry.timesheet import TIMINGS
from mcdiff_batch.engine.text import clean

Json = dict[str, Any]


def _floats() -> "array[float]":
    return array("f")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A unit was committed `at` s after its run began; see timesheet.told."""

    began: float
    at: float
    device: str
    cases: int
    lanes: dict[str, dict[str, float]]  # lane -> stage -> s
    begin: float = 0.0  # of the model's lane, s
    end: float = 0.0
    tail: float = 0.0
    gaps: tuple[tuple[str, float, float], ...] = ()  # cause, when, s
    batches: "array[float]" = field(default_factory=_floats)
    latencies: "array[float]" = field(default_factory=_floats)

    @property
    def model(self) -> dict[str, float]:
        return self.lanes.get(MODEL, {})


def lines(out: Path) -> Iterator[Line]:
    for raw in json_lines(out / TIMINGS):
        with suppress(KeyError, TypeError, ValueError, AttributeError):
            yield _line(raw)


def _line(raw: Json) -> Line:
    lanes = {
        clean(lane): {clean(k): float(v) for k, v in stages.items()}
        for lane, stages in raw["lanes"].items()
    }
    return Line(
        began=float(raw["began"]),
        at=float(raw["at"]),
        device=clean(raw["device"]),
        cases=sum(int(raw["counts"][x]) for x in (DONE, FAILED)),
        lanes=lanes,
        begin=float(raw["from"]),
        end=float(raw["to"]),
        tail=float(raw["tail"]),
        gaps=tuple((clean(cause), float(at), float(s)) for cause, at, s in raw["gaps"]),
        batches=array("f", raw["batches"]),
        latencies=array("f", raw["cases"]),
    )
