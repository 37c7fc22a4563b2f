"""Small charts as inline SVG.  Their colours come from the style sheet of the page."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from .parts import html, join

DOT = 3.5  # px, radius
HIGHEST = 5  # dots above the lowest; more lie on the last
STEPS = (1, 2, 2.5, 5, 10)
CLOCKS = (  # least seconds, seconds in one, unit
    (7200.0, 3600.0, "h"),
    (300.0, 60.0, "min"),
    (0.0, 1.0, "s"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """Maps [low, high] to [left, right] px."""

    low: float
    high: float
    left: float
    right: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low or 1.0
        return round(self.left + (self.right - self.left) * (value - self.low) / span, 2)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers within [low, high]."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * x for x in STEPS if power * x >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 10) for k in range(first, last + 1)]


def clock(seconds: float) -> tuple[float, str]:
    """The unit in which `seconds` read well on an axis: seconds in one, and its name."""
    return next((size, unit) for least, size, unit in CLOCKS if seconds >= least)


def text(x: float, y: float, words: object, class_: str = "", anchor: str = "start") -> Markup:
    return html(
        '<text x="{}" y="{}" class="{}" text-anchor="{}">{}</text>', x, y, class_, anchor, words
    )


def rect(x: float, y: float, width: float, height: float, class_: str, title: str) -> Markup:
    return html(
        '<rect class="{}" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>',
        class_,
        x,
        round(y, 2),
        round(max(width, 0), 2),
        round(height, 2),
        title,
    )


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    return html('<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"/>', x1, y1, x2, y2, class_)


def path(course: str, class_: str) -> Markup:
    return html('<path d="{}" class="{}"/>', course, class_)


def canvas(width: float, height: float, label: str, *children: Markup) -> Markup:
    return html(
        '<svg viewBox="0 0 {:g} {:g}" role="img" aria-label="{}" width="100%">{}</svg>',
        width,
        height,
        label,
        join(children),
    )


def bottom(axis: Axis, y: float, unit: str) -> Markup:
    """Tick labels below a chart, the unit after the last one."""
    marks = ticks(axis.low, axis.high)
    labels = [text(axis(x), y, f"{x:,g}", "tick", "middle") for x in marks]
    return join([*labels, text(axis.right, y + 12, unit, "tick", "end")])


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One histogram of a chart; all rows have the same edges.  A few values are dots instead."""

    name: str
    counts: Sequence[int]
    median: float | None
    digits: int = 1
    class_: str = ""  # by default the name
    points: Sequence[float] | None = None


def histograms(edges: Sequence[float], rows: Sequence[Row], unit: str, label: str) -> Markup:
    """Histograms one below the other on one axis, each with its median."""
    width, height, left = 340, 64, 48
    axis = Axis(low=edges[0], high=edges[-1], left=left, right=width - 8)
    most = max(1, *(max(row.counts) for row in rows))
    drawn = [_row(row, edges, axis, (k * height, height), most) for k, row in enumerate(rows)]
    total = len(rows) * height
    medians = (f"{x.name} median {x.median:.{x.digits}f}" for x in rows if x.median is not None)
    words = ", ".join([label, *map(str.strip, medians)])
    return canvas(width, total + 32, words, *drawn, bottom(axis, total + 16, unit))


def _row(
    row: Row, edges: Sequence[float], axis: Axis, place: tuple[float, float], most: int
) -> Markup:
    top, height = place
    base = top + height - 2
    floor = line(axis.left, base, axis.right, base, "axis")
    name = text(0, base - 4, row.name, "name")
    marks = _dots(row, axis, base) if row.points else _bars(row, edges, axis, base, height, most)
    return join([floor, *marks, name, _median(row, axis, top, base)])


def _dots(row: Row, axis: Axis, base: float) -> Iterator[Markup]:
    """A dot for each value; one that would cover another stands above it."""
    places: list[tuple[float, int]] = []
    for value in sorted(row.points or ()):
        x = min(max(axis(value), axis.left), axis.right)
        near = {level for at, level in places if x - at < 2 * DOT}
        level = next(k for k in range(len(places) + 1) if k not in near)
        places.append((x, level))
        y = base - DOT - 1 - 2 * DOT * min(level, HIGHEST)
        yield html(
            '<circle class="{}" cx="{}" cy="{}" r="{}"><title>{:.4g}</title></circle>',
            row.class_ or row.name,
            x,
            y,
            DOT,
            value,
        )


def _bars(
    row: Row, edges: Sequence[float], axis: Axis, base: float, height: float, most: int
) -> list[Markup]:
    spans = zip(row.counts, edges, edges[1:], strict=False)
    return [
        rect(
            axis(low) + 0.5,
            base - (height - 20) * count / most,
            axis(high) - axis(low) - 1,
            (height - 20) * count / most,
            row.class_ or row.name,
            f"{low:.3g} to {high:.3g}: {count}",
        )
        for count, low, high in spans
        if count
    ]


def _median(row: Row, axis: Axis, top: float, base: float) -> Markup:
    if row.median is None:
        return html("")
    words = f"{row.median:.{row.digits}f}"
    x = min(max(axis(row.median), axis.left), axis.right)
    anchor = "end" if x > (axis.left + axis.right) / 2 else "start"
    mark = line(x, top + 4, x, base, "median")
    return mark + text(x + (-4 if anchor == "end" else 4), top + 12, words, "", anchor)


def curve(
    values: Sequence[float],
    end: float,
    marks: Sequence[float] = (),
    label: str = "throughput",
    size: tuple[float, float] = (900, 150),
) -> Markup:
    """A step curve over [0, end] s, with a dashed line at each of `marks`.

    The vertical axis begins at 0.
    """
    (width, height), left = size, 56
    unit_seconds, unit = clock(end)
    across = Axis(low=0, high=end / unit_seconds, left=left, right=width - 8)
    up = Axis(low=0, high=max(*values, 1e-9) * 1.08, left=height - 24, right=8)
    grid = [
        line(left, up(y), width - 8, up(y), "grid")
        + text(left - 6, up(y) + 4, f"{y:,g}", "tick", "end")
        for y in ticks(0, up.high, 4)
    ]
    area = path(_steps(values, across, up), "area")
    resumed = [
        line(across(x / unit_seconds), 8, across(x / unit_seconds), height - 24, "mark")
        for x in marks
    ]
    foot = bottom(across, height - 8, unit)
    return canvas(width, height + 6, label, *grid, area, *resumed, foot)


def _steps(values: Sequence[float], across: Axis, up: Axis) -> str:
    size = across.high / len(values)
    tops = [f"V{up(y)} H{across((k + 1) * size)}" for k, y in enumerate(values)]
    return f"M{across(0)} {up(0)} {' '.join(tops)} V{up(0)} Z"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """The work of one thread of a device."""

    device: str  # empty where it is that of the lane above
    name: str
    parts: Sequence[tuple[str, float]]  # stage, seconds


def lanes(rows: Sequence[Lane], wall: float) -> Markup:
    """A stacked bar per lane; the track behind each is the whole time, `wall` seconds."""
    width, height, left = 900, 22, 150
    longest = max([wall, *(sum(s for _, s in row.parts) for row in rows)]) or 1.0
    size, unit = clock(longest)
    axis = Axis(low=0, high=longest / size, left=left, right=width - 8)
    drawn, y = [], 0.0
    for row in rows:
        y += 10 if row.device else 0
        drawn.append(_lane(row, axis, (y, height - 6), wall, size))
        y += height
    return canvas(width, y + 34, "time by stage", *drawn, bottom(axis, y + 16, unit))


def _lane(row: Lane, axis: Axis, place: tuple[float, float], wall: float, size: float) -> Markup:
    y, height = place
    track = rect(axis.left, y, axis(wall / size) - axis.left, height, "track", f"{wall:.1f} s")
    names = (
        text(0, y + 12, row.device, "name"),
        text(axis.left - 8, y + 12, row.name, "tick", "end"),
    )
    return join([*names, track, *_parts(row.parts, axis, place, size)])


def _parts(
    parts: Sequence[tuple[str, float]], axis: Axis, place: tuple[float, float], size: float
) -> Iterator[Markup]:
    start = 0.0
    for stage, seconds in parts:
        left, right = axis(start / size), axis((start + seconds) / size)
        yield rect(left, place[0], right - left, place[1], f"stage {stage}", f"{seconds:.2f} s")
        start += seconds


def format_moment(seconds: float) -> str:
    """A moment of the working time, such as 1:02:03 or 25:00:00."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


Shares = Sequence[tuple[str, Sequence[float]]]  # class, share of each column in 0..1


def timelines(rows: Sequence[tuple[str, Shares]], seconds: float) -> Markup:
    """A strip per device over [0, seconds]; each column stacks its shares on a pale track."""
    width, height, left = 900, 40, 56
    size, unit = clock(seconds)
    axis = Axis(low=0, high=seconds / size, left=left, right=width - 8)
    pitch = height + 8
    drawn = [_strip(*row, axis, k * pitch, height) for k, row in enumerate(rows)]
    y = len(rows) * pitch + 8
    return canvas(width, y + 18, "devices over time", *drawn, bottom(axis, y, unit))


def _strip(name: str, shares: Shares, axis: Axis, top: float, height: float) -> Markup:
    track = rect(axis.left, top, axis.right - axis.left, height, "track", name)
    under = [0.0] * len(shares[0][1])
    paths = []
    for class_, values in shares:
        over = [min(1.0, x + y) for x, y in zip(under, values, strict=True)]
        if any(values):
            paths.append(_band(under, over, axis, top + height, height, class_))
        under = over
    return join([text(0, top + height / 2 + 4, name, "name"), track, *paths])


def _band(
    under: Sequence[float],
    over: Sequence[float],
    axis: Axis,
    base: float,
    height: float,
    class_: str,
) -> Markup:
    """The area between two step lines, as one path."""
    step = (axis.right - axis.left) / len(over)
    point = lambda y, k: f"V{base - y * height:.1f}H{axis.left + k * step:.1f}"
    there = "".join(point(y, k + 1) for k, y in enumerate(over))
    back = "".join(point(y, k) for k, y in reversed(list(enumerate(under))))
    start = f"M{axis.left:.1f} {base - under[0] * height:.1f}"
    return path(f"{start}{there}{back}Z", f"stage {class_}")
