"""Summarises the spans of a unit: seconds by lane and stage, gaps and their causes, latencies.

A line of `timings.jsonl` holds the summary.
"""

from collections.abc import Iterable, Sequence

from mcdiff_batch.engine.files import Json

from .spans import FEEDING, FINISHING, IDLE, MODEL, TASK, WAIT, WAITS, Span

TIMINGS = "report/timings.jsonl"
STATS = "report/run_stats.json"
MOST_GAPS = 16  # the longest of a unit
LEAST_GAP = 0.001  # s; a shorter one is not listed


def summarise_spans(spans: Sequence[Span], epoch: float) -> Json:
    """The summary of a unit; times are seconds since `epoch`.

    lanes: lane -> stage -> seconds; from, to: first and last moment of the model's lane;
    tail: seconds of finishing after that; gaps: [cause, time, seconds] of the model's waits;
    batches, cases: seconds of each batch and case.
    """
    model = [x for x in spans if x.lane == MODEL]
    end = max((x.end for x in model), default=epoch)
    finishing = [x for x in spans if x.lane == FINISHING and x.stage != IDLE]
    return {
        "lanes": _lanes(spans),
        "from": _rounded(min((x.begin for x in model), default=epoch) - epoch),
        "to": _rounded(end - epoch),
        "tail": _rounded(union_seconds((max(x.begin, end), x.end) for x in finishing)),
        "gaps": [[cause, _rounded(at - epoch), _rounded(s)] for cause, at, s in find_gaps(spans)],
        "batches": [_rounded(x.end - x.begin) for x in model if x.stage == "batch"],
        "cases": [_rounded(x) for x in latencies(spans)],
    }


def _rounded(seconds: float) -> float:
    return round(seconds, 4)


def _lanes(spans: Iterable[Span]) -> dict[str, dict[str, float]]:
    """Seconds by lane and stage, each without the spans inside it."""
    out: dict[str, dict[str, float]] = {}
    for x in spans:
        stages = out.setdefault(x.lane.split()[0], {})
        stages[x.stage] = stages.get(x.stage, 0.0) + x.own
    return {lane: {k: round(v, 6) for k, v in stages.items()} for lane, stages in out.items()}


def union_seconds(parts: Iterable[tuple[float, float]]) -> float:
    """Seconds that at least one of the intervals (begin, end) covers."""
    total, until = 0.0, float("-inf")
    for begin, end in sorted(parts):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def find_gaps(spans: Sequence[Span]) -> list[tuple[str, float, float]]:
    """The model's waits, longest first: cause, begin, seconds.

    A wait for input has the cause TASK if for most of it there was no unit to read either.
    """
    waits = [x for x in spans if x.lane == MODEL and x.stage in WAITS]
    longest = sorted(waits, key=lambda x: x.begin - x.end)[:MOST_GAPS]
    feeding = [x for x in spans if x.lane == FEEDING]
    return [
        (_cause(x, feeding), x.begin, x.end - x.begin)
        for x in longest
        if x.end - x.begin >= LEAST_GAP
    ]


def _cause(wait: Span, feeding: Sequence[Span]) -> str:
    if wait.stage != WAIT:
        return wait.stage
    parts = ((max(x.begin, wait.begin), min(x.end, wait.end)) for x in feeding)
    return TASK if union_seconds(parts) > (wait.end - wait.begin) / 2 else WAIT


def latencies(spans: Iterable[Span]) -> list[float]:
    """Seconds from the first span of each finished case to the end of its last."""
    begins: dict[int, float] = {}
    ends: dict[int, float] = {}
    for x in spans:
        if x.case >= 0:
            begins[x.case] = min(x.begin, begins.get(x.case, x.begin))
            if x.lane == FINISHING:
                ends[x.case] = max(x.end, ends.get(x.case, x.end))
    return [ends[case] - begins[case] for case in sorted(ends)]
