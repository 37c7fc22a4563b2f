"""Reads `timings.jsonl`, which has a line for each unit that a run committed.

Orders the sessions of several parts by time.
"""

from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from mcdiff_batch.engine.files import Json, json_lines
from mcdiff_batch.engine.output.ledger import DONE, FAILED
from mcdiff_batch.engine.telemetry.numbers import parse_count, parse_number, parse_seconds
from mcdiff_batch.engine.telemetry.spans import MODEL
from mcdiff_batch.engine.telemetry.timesheet import TIMINGS
from mcdiff_batch.engine.text import clean


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
    batches: "array[float]" = field(default_factory=lambda: array("f"))  # seconds of each
    latencies: "array[float]" = field(default_factory=lambda: array("f"))  # seconds of each case

    @property
    def model(self) -> dict[str, float]:
        """Seconds of the model by stage."""
        return self.lanes.get(MODEL, {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One start of a run, or of a part, that committed units."""

    journal: int  # number of the folder that its lines are in; 0: the run itself
    began: float
    seconds: float
    lines: Sequence[UnitLine]


@dataclass(slots=True, kw_only=True)
class Shift:
    """Sessions that were at work at one time, on one axis of time; usually one session."""

    sessions: list[Session]

    @property
    def began(self) -> float:
        return self.sessions[0].began

    @property
    def seconds(self) -> float:
        return max(x.began - self.began + x.seconds for x in self.sessions)

    def read_lines(self, journals: int) -> list[UnitLine]:
        """The lines of the first `journals` folders, in the order of commits."""
        lines = [
            _move(line, session.began - self.began)
            for session in self.sessions
            if session.journal < journals
            for line in session.lines
        ]
        return lines if len(self.sessions) == 1 else sorted(lines, key=lambda x: x.at)


def _move(line: UnitLine, seconds: float) -> UnitLine:
    return replace(
        line,
        at=line.at + seconds,
        begin=line.begin + seconds,
        end=line.end + seconds,
        gaps=tuple((cause, at + seconds, s) for cause, at, s in line.gaps),
    )


def find_shifts(sessions: Sequence[Session]) -> list[Shift]:
    """Groups sessions into shifts.

    Sessions of one folder follow each other, whatever the clock said.  Sessions of several folders
    share a shift if they overlap by the clock (P12).
    """
    if len({x.journal for x in sessions}) < 2:
        return [Shift(sessions=[x]) for x in sessions]
    shifts: list[Shift] = []
    for session in sorted(sessions, key=lambda x: x.began):
        if shifts and session.began < shifts[-1].began + shifts[-1].seconds:
            shifts[-1].sessions.append(session)
        else:
            shifts.append(Shift(sessions=[session]))
    return shifts


def read_lines(out: Path, prefix: str = "") -> Iterator[UnitLine]:
    """In the order of commits; lines that are torn or foreign are left out.

    prefix: of the names of devices.
    """
    for raw in json_lines(out / TIMINGS):
        with suppress(KeyError, TypeError, ValueError, AttributeError):
            yield _line(raw, prefix)


def _line(raw: Json, prefix: str) -> UnitLine:
    lanes = {
        clean(lane): {clean(k): parse_number(v) for k, v in stages.items()}
        for lane, stages in raw["lanes"].items()
    }
    return UnitLine(
        began=parse_number(raw["began"]),
        at=parse_seconds(raw["at"]),
        device=f"{prefix}{clean(raw['device'])}",
        cases=sum(parse_count(raw["counts"][x]) for x in (DONE, FAILED)),
        lanes=lanes,
        begin=parse_number(raw["from"]),
        end=parse_number(raw["to"]),
        tail=parse_seconds(raw["tail"]),
        gaps=tuple(
            (clean(cause), parse_number(at), parse_seconds(s)) for cause, at, s in raw["gaps"]
        ),
        batches=array("f", map(parse_seconds, raw["batches"])),
        latencies=array("f", map(parse_seconds, raw["cases"])),
    )
