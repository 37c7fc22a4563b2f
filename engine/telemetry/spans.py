"""Spans: what each thread of a worker did, from when to when.  All stage times come from them.

Times are `time.monotonic()`, one clock for all processes of a machine.  Each unit has a log of its
spans; nothing of it reaches images, ledger or manifest (P1).
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import NamedTuple

FEEDING, READING, MODEL, FINISHING = LANES = ("feeding", "reading", "model", "finishing")
START, LOAD, WAIT, BLOCKED = WAITS = ("start", "load", "wait", "blocked")  # of the model's lane
TASK, IDLE = "task", "idle"  # feeding waits for a unit; finishing waits for a result


class Span(NamedTuple):
    """A stage of work, or a wait."""

    stage: str
    lane: str  # one of LANES; "reading" has a thread's number behind it
    begin: float  # s
    end: float  # s
    own: float  # s, without the spans inside it
    case: int = -1  # -1: of no single case


class Count(NamedTuple):
    """The length of a queue at a moment."""

    name: str
    at: float  # s
    value: int


@dataclass(slots=True)
class SpanLog:
    """Spans and counts of one unit, from all threads that work on it, in the order they end."""

    spans: list[Span] = field(default_factory=list)
    counts: list[Count] = field(default_factory=list)

    def add_wait(self, stage: str, lane: str, begin: float) -> float:
        """Adds a wait from `begin` until now.  Returns now, where the next span may begin."""
        end = monotonic()
        self.spans.append(Span(stage, lane, begin, end, end - begin))
        return end

    def take_spans(self) -> list[Span]:
        """Removes the spans and returns them."""
        spans, self.spans = self.spans, []
        return spans

    def add_count(self, name: str, value: int) -> None:
        self.counts.append(Count(name, monotonic(), value))


class _Current(threading.local):
    """Where the spans of this thread go."""

    log: SpanLog | None = None
    lane = ""
    case = -1
    inner = 0.0  # s of the spans that ended inside the open one


_current = _Current()


@contextmanager
def recording(log: SpanLog, lane: str, case: int = -1) -> Iterator[None]:
    """Adds the spans of this thread to `log`.  Do not use it around a `yield`, after which the
    thread may work for another unit."""
    before = _current.log, _current.lane, _current.case
    _current.log, _current.lane, _current.case = log, lane, case
    try:
        yield
    finally:
        _current.log, _current.lane, _current.case = before


class span:
    """`with span("encode"):` records a stage.  Spans may lie inside spans.  One costs about a
    microsecond, and less where nothing is recording."""

    __slots__ = ("begin", "outer", "stage")

    def __init__(self, stage: str) -> None:
        self.stage = stage

    def __enter__(self) -> None:
        self.outer, _current.inner = _current.inner, 0.0
        self.begin = monotonic()

    def __exit__(self, *_: object) -> None:
        end = monotonic()
        spent = end - self.begin
        if _current.log is not None:
            own = spent - _current.inner
            done = Span(self.stage, _current.lane, self.begin, end, own, _current.case)
            _current.log.spans.append(done)
        _current.inner = self.outer + spent
