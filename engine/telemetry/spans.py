"""Spans: what every thread of a worker did, from when to when.  The one source of stage times.

Times are `time.monotonic()`, one clock for all processes of a machine.  A span is noted for the
unit it was for; nothing of it reaches images, ledger or manifest (P1).
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import NamedTuple

FEEDING, READING, MODEL, FINISHING = LANES = ("feeding", "reading", "model", "finishing")
START, LOAD, WAIT, BLOCKED = WAITS = ("start", "load", "wait", "blocked")  # of the model
TASK, IDLE = "task", "idle"  # waits of feeding (for a unit) and finishing (for a result)


class Span(NamedTuple):
    """`lane`: one of LANES, and the number of the thread where there are several."""

    stage: str
    lane: str
    begin: float  # s
    end: float
    own: float  # s, without the spans inside it
    case: int = -1


class Count(NamedTuple):
    """How many of something there were at a moment."""

    name: str
    at: float  # s
    value: int


@dataclass(slots=True)
class Notes:
    """Of one unit, from all threads that work on it; in the order of their ends."""

    spans: list[Span] = field(default_factory=list)
    counts: list[Count] = field(default_factory=list)

    def waited(self, stage: str, lane: str, begin: float) -> float:
        """From `begin` until now, which is returned: where the next span may begin."""
        end = monotonic()
        self.spans.append(Span(stage, lane, begin, end, end - begin))
        return end

    def taken(self) -> list[Span]:
        """The spans, which are no longer here."""
        spans, self.spans = self.spans, []
        return spans

    def count(self, name: str, value: int) -> None:
        self.counts.append(Count(name, monotonic(), value))


class _Here(threading.local):
    notes: Notes | None = None
    lane = ""
    case = -1
    inner = 0.0  # s of the spans that ended inside the open one


_here = _Here()


@contextmanager
def noting(notes: Notes, lane: str, case: int = -1) -> Iterator[None]:
    """Spans of this thread go to `notes`.  Not around a `yield`: the thread is then another's."""
    before = _here.notes, _here.lane, _here.case
    _here.notes, _here.lane, _here.case = notes, lane, case
    try:
        yield
    finally:
        _here.notes, _here.lane, _here.case = before


class span:
    """`with span("encode"):`; may hold others.  Costs a microsecond, and less where none notes."""

    __slots__ = ("begin", "outer", "stage")

    def __init__(self, stage: str) -> None:
        self.stage = stage

    def __enter__(self) -> None:
        self.outer, _here.inner = _here.inner, 0.0
        self.begin = monotonic()

    def __exit__(self, *_: object) -> None:
        end = monotonic()
        spent = end - self.begin
        if _here.notes is not None:
            own = spent - _here.inner
            noted = Span(self.stage, _here.lane, self.begin, end, own, _here.case)
            _here.notes.spans.append(noted)
        _here.inner = self.outer + spent
