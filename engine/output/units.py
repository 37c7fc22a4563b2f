"""Units of consecutive cases, selections of cases, and parts of a run.  Pure arithmetic."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mcdiff_batch.engine.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Consecutive cases that are committed together: one shard per image array, one record."""

    index: int
    first: int
    count: int

    @property
    def cases(self) -> range:
        return range(self.first, self.first + self.count)


def make_unit(index: int, cases: int, size: int) -> Unit:
    """Unit `index` of an archive of `cases`; only the last unit is shorter than `size`."""
    first = index * size
    return Unit(index=index, first=first, count=min(size, cases - first))


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Part `number` of `count` of a run's units: every `count`-th; the first part is 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def __contains__(self, unit: int) -> bool:
        return unit % self.count == self.number - 1


def parse_part(text: str, environment: Mapping[str, str]) -> Part:
    """Reads a part that is written k/n; "auto": the one that a scheduler names in `environment`.

    Raises UsageError.
    """
    if text == "auto":
        return _detect_part(environment)
    number, _, count = text.partition("/")
    digits = all(x.isascii() and x.isdecimal() and len(x) < 10 for x in (number, count))
    if not digits or not 1 <= int(number) <= int(count):
        raise UsageError(
            f"--part {text}: expected k/n with k from 1 to n, for example 1/8; or auto"
        )
    return Part(number=int(number), count=int(count))


def _detect_part(environment: Mapping[str, str]) -> Part:
    """The part of this task of a Slurm array or of an Indexed Job of Kubernetes."""
    if "SLURM_ARRAY_TASK_ID" in environment:
        names = [f"SLURM_ARRAY_TASK_{x}" for x in ("ID", "MIN", "MAX", "STEP", "COUNT")]
        task, first, last, step, count = (_read_number(environment, x) for x in names)
        if step < 1 or (last - first) // step + 1 != count or (task - first) % step:
            raise UsageError(
                f"--part auto: the {count} tasks of this Slurm array, {first} to {last} by {step}, "
                "are not evenly spaced, so none of them knows its part; use for example "
                "--array=1-8, or name the part with --part k/n"
            )
        return Part(number=(task - first) // step + 1, count=count)
    if "JOB_COMPLETION_INDEX" in environment:
        index = _read_number(environment, "JOB_COMPLETION_INDEX")
        if "JOB_COMPLETIONS" not in environment:
            raise UsageError(
                "--part auto: JOB_COMPLETIONS is not set, and Kubernetes tells a pod its index but "
                "not how many there are; set it in the manifest to the value of `completions`"
            )
        count = _read_number(environment, "JOB_COMPLETIONS")
        if not 0 <= index < count:
            raise UsageError(
                f"--part auto: JOB_COMPLETION_INDEX is {index}, expected 0 to {count - 1}, because "
                f"JOB_COMPLETIONS is {count}; set it to the value of `completions` of the Job"
            )
        return Part(number=index + 1, count=count)
    raise UsageError(
        "--part auto: found neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX in the "
        "environment; write the part, for example --part 1/8"
    )


def _read_number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        found = "is not set" if name not in environment else "is not a number"
        raise UsageError(f"--part auto: {name} {found}; write the part, for example --part 1/8")
    return int(text)


@dataclass(frozen=True, slots=True)
class Selection:
    """Some cases of an archive, as spans in rising order with gaps between them.

    `str` gives the only spelling of a selection, for example "0,3,5-9".
    """

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
        spans = []
        for span in self.spans:
            spans.append(span[:count])
            count -= len(spans[-1])
        return Selection(tuple(span for span in spans if span))

    def count_units(self, size: int) -> int:
        """At most so many units have a selected case: one that spans share counts for each."""
        return sum((s.stop - 1) // size - s.start // size + 1 for s in self.spans)

    def units(self, size: int) -> list[int]:
        """Indices of the units with a selected case, in order."""
        spans = (range(s.start // size, (s.stop - 1) // size + 1) for s in self.spans)
        return sorted({index for span in spans for index in span})


def parse_selection(text: str, cases: int) -> Selection:
    """Reads a selection such as "0,3,5-9" (0-based, with both ends) of an archive of `cases`.

    Raises UsageError.
    """
    return join(_parse_span(part, cases) for part in text.split(","))


def _parse_span(part: str, cases: int) -> range:
    first, _, last = part.strip().partition("-")
    part = part if len(part) < 50 else f"{part[:50]}..."
    try:
        span = range(int(first), int(last or first) + 1)
        if int(first) > int(last or first):
            raise UsageError(f"--cases: {part!r} counts down; write {last}-{first}")
    except ValueError:
        raise UsageError(
            f"--cases: {part!r} is not a case number or a range; write for example 0,3,5-9"
        ) from None
    if not span or not 0 <= span[0] <= span[-1] < cases:
        raise UsageError(
            f"--cases: {part!r} is out of range; the cases of the archive are 0-{cases - 1}"
        )
    return span


def join(spans: Iterable[range]) -> Selection:
    """The selection of all cases in `spans`, which may overlap and be in any order."""
    merged: list[range] = []
    for span in sorted(spans, key=lambda x: x.start):
        if merged and span.start <= merged[-1].stop:
            last = merged.pop()
            span = range(last.start, max(last.stop, span.stop))
        merged.append(span)
    return Selection(tuple(merged))
