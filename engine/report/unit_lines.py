"""Reads `timings.jsonl`, which has a line for each unit that a run committed."""

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
class UnitLine:
    """When a unit was done and how long it took; times are seconds after its session began."""

    began: float  # of the session, on the wall clock
    at: float  # when the unit was committed
    device: str
    cases: int
    lanes: dict[str, dict[str, float]]  # seconds by lane and stage
    begin: float = 0.0  # of the model's work
    end: float = 0.0
    tail: float = 0.0  # of finishing, after the model's end
    gaps: tuple[tuple[str, float, float], ...] = ()  # the model's waits: cause, when, how long
    batches: "array[float]" = field(default_factory=_floats)  # seconds of each
    latencies: "array[float]" = field(default_factory=_floats)  # seconds of each case

    @property
    def model(self) -> dict[str, float]:
        """Seconds of the model by stage."""
        return self.lanes.get(MODEL, {})


def read_lines(out: Path) -> Iterator[UnitLine]:
    """In the order of commits; lines that are torn or foreign are left out."""
    for raw in json_lines(out / TIMINGS):
        with suppress(KeyError, TypeError, ValueError, AttributeError):
            yield _line(raw)


def _line(raw: Json) -> UnitLine:
    lanes = {
        clean(lane): {clean(k): float(v) for k, v in stages.items()}
        for lane, stages in raw["lanes"].items()
    }
    return UnitLine(
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
