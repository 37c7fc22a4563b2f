"""Which cases make a unit, and which units a selection of cases touches.  Pure arithmetic."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mcdiff_batch.engine.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """The commit unit: consecutive cases of the archive = one shard = one ledger record."""

    index: int
    first: int
    count: int

    @property
    def cases(self) -> range:
        return range(self.first, self.first + self.count)


def unit(index: int, cases: int, size: int) -> Unit:
    """Unit `index` of an archive of `cases`; only the last unit is shorter than `size`."""
    first = index * size
    return Unit(index=index, first=first, count=min(size, cases - first))


def units(cases: int, size: int) -> Iterator[Unit]:
    """All units of an archive: every case lies in exactly one."""
    return (unit(index, cases, size) for index in range(-(-cases // size)))


@dataclass(frozen=True, slots=True)
class Selection:
    """Cases as rising, disjoint, non-adjacent spans; `str` is its one spelling, "0,3,5-9"."""

    spans: tuple[range, ...]

    def __contains__(self, case: int) -> bool:
        at = bisect_right(self.spans, case, key=lambda span: span.start) - 1
        return at >= 0 and case in self.spans[at]

    def __len__(self) -> int:
        return sum(len(span) for span in self.spans)

    def __str__(self) -> str:
        return ",".join(
            str(span.start) if len(span) == 1 else f"{span.start}-{span.stop - 1}"
            for span in self.spans
        )

    def head(self, count: int) -> "Selection":
        """The first `count` cases."""
        kept = []
        for span in self.spans:
            kept.append(span[:count])
            count -= len(kept[-1])
        return Selection(tuple(span for span in kept if span))

    def units(self, size: int) -> list[int]:
        """Indices of the units that hold any selected case, rising."""
        touched = (range(s.start // size, (s.stop - 1) // size + 1) for s in self.spans)
        return sorted({index for indices in touched for index in indices})


def parse_selection(text: str, cases: int) -> Selection:
    """ "0,3,5-9" of an archive of `cases`, 0-based, ends included.  Raises UsageError."""
    return joined(_span(part, cases) for part in text.split(","))


def _span(part: str, cases: int) -> range:
    first, _, last = part.strip().partition("-")
    try:
        span = range(int(first), int(last or first) + 1)
    except ValueError:
        raise UsageError(
            f"--cases: {part!r} is no case or span; expected such as 0,3,5-9"
        ) from None
    if not span or not 0 <= span[0] <= span[-1] < cases:
        raise UsageError(f"--cases: {part!r} is not within 0-{cases - 1}, the archive's cases")
    return span


def joined(spans: Iterable[range]) -> Selection:
    """Spans in any order, overlapping or touching, as one selection."""
    merged: list[range] = []
    for span in sorted(spans, key=lambda x: x.start):
        if merged and span.start <= merged[-1].stop:
            last = merged.pop()
            span = range(last.start, max(last.stop, span.stop))
        merged.append(span)
    return Selection(tuple(merged))
