"""A few small charts, drawn as inline SVG; colours come from the page's style sheet."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .markup import Html, element, joined

STEPS = (1, 2, 2.5, 5, 10)
CLOCKS = ((7200.0, 3600.0, "h"), (300.0, 60.0, "min"), (0.0, 1.0, "s"))  # from, s in one, unit


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
    """What to divide by, and the unit, so that `seconds` read well on an axis."""
    return next((size, unit) for least, size, unit in CLOCKS if seconds >= least)


def text(x: float, y: float, words: object, class_: str = "", anchor: str = "start") -> Html:
    return element("text", words, x=x, y=y, class_=class_ or None, text_anchor=anchor)


def rect(x: float, y: float, width: float, height: float, class_: str, title: str) -> Html:
    box = {"x": x, "y": round(y, 2), "width": round(max(width, 0), 2), "height": round(height, 2)}
    return element("rect", element("title", title), class_=class_, **box)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Html:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def canvas(width: float, height: float, label: str, *children: Html) -> Html:
    box = f"0 0 {width:g} {height:g}"
    return element("svg", *children, viewBox=box, role="img", aria_label=label, width="100%")


def bottom(axis: Axis, y: float, unit: str = "") -> Html:
    """Tick labels below a chart, the unit after the last one."""
    marks = ticks(axis.low, axis.high)
    labels = [text(axis(x), y, f"{x:,g}", "tick", "middle") for x in marks]
    return joined(*labels, text(axis.right, y + 12, unit, "tick", "end"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One histogram; its counts share their edges with those of the other rows."""

    name: str
    class_: str
    counts: Sequence[int]
    median: float | None
    digits: int = 1


def histograms(edges: Sequence[float], rows: Sequence[Row], unit: str) -> Html:
    """Histograms one below the other on one axis, each with its median."""
    width, height, left = 340, 64, 48
    axis = Axis(low=edges[0], high=edges[-1], left=left, right=width - 8)
    most = max(1, *(max(row.counts) for row in rows))
    drawn = [_bars(row, edges, axis, k * height, height, most) for k, row in enumerate(rows)]
    total = len(rows) * height
    return canvas(width, total + 32, "histogram", *drawn, bottom(axis, total + 16, unit))


def _bars(
    row: Row, edges: Sequence[float], axis: Axis, top: float, height: float, most: int
) -> Html:
    base = top + height - 2
    spans = zip(row.counts, edges, edges[1:], strict=False)
    bars = [
        rect(
            axis(low) + 0.5,
            base - (height - 20) * count / most,
            axis(high) - axis(low) - 1,
            (height - 20) * count / most,
            row.class_,
            f"{low:.3g} to {high:.3g}: {count}",
        )
        for count, low, high in spans
        if count
    ]
    floor = line(axis.left, base, axis.right, base, "axis")
    return joined(floor, *bars, text(0, base - 4, row.name, "name"), _median(row, axis, top, base))


def _median(row: Row, axis: Axis, top: float, base: float) -> Html:
    if row.median is None:
        return Html()
    words = f"{row.median:.{row.digits}f}"
    x = min(max(axis(row.median), axis.left), axis.right)
    anchor = "end" if x > (axis.left + axis.right) / 2 else "start"
    mark = line(x, top + 4, x, base, "median")
    return joined(mark, text(x + (-4 if anchor == "end" else 4), top + 12, words, "", anchor))


def curve(
    values: Sequence[float],
    end: float,
    marks: Sequence[float] = (),
    label: str = "throughput",
    size: tuple[float, float] = (900, 150),
) -> Html:
    """Steps over [0, end] s; `marks` are moments.  The upright axis begins at 0."""
    (width, height), left = size, 56
    unit_seconds, unit = clock(end)
    across = Axis(low=0, high=end / unit_seconds, left=left, right=width - 8)
    up = Axis(low=0, high=max(*values, 1e-9) * 1.08, left=height - 24, right=8)
    grid = [
        joined(
            line(left, up(y), width - 8, up(y), "grid"),
            text(left - 6, up(y) + 4, f"{y:,g}", "tick", "end"),
        )
        for y in ticks(0, up.high, 4)
    ]
    path = element("path", d=_steps(values, across, up), class_="area")
    resumed = [
        line(across(x / unit_seconds), 8, across(x / unit_seconds), height - 24, "mark")
        for x in marks
    ]
    foot = bottom(across, height - 8, unit)
    return canvas(width, height + 6, label, *grid, path, *resumed, foot)


def _steps(values: Sequence[float], across: Axis, up: Axis) -> str:
    size = across.high / len(values)
    tops = [f"V{up(y)} H{across((k + 1) * size)}" for k, y in enumerate(values)]
    return f"M{across(0)} {up(0)} {' '.join(tops)} V{up(0)} Z"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """Work of one thread of one device."""

    device: str  # empty: as above
    name: str
    parts: Sequence[tuple[str, float]]  # stage, s


def lanes(rows: Sequence[Lane], wall: float) -> Html:
    """A stacked bar per lane over [0, longest] s; the track behind it is the time there was."""
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


def _lane(row: Lane, axis: Axis, place: tuple[float, float], wall: float, size: float) -> Html:
    y, height = place
    track = rect(axis.left, y, axis(wall / size) - axis.left, height, "track", f"{wall:.1f} s")
    names = (
        text(0, y + 12, row.device, "name"),
        text(axis.left - 8, y + 12, row.name, "tick", "end"),
    )
    return joined(*names, track, *_parts(row.parts, axis, place, size))


def _parts(
    parts: Sequence[tuple[str, float]], axis: Axis, place: tuple[float, float], size: float
) -> Iterator[Html]:
    start = 0.0
    for stage, seconds in parts:
        left, right = axis(start / size), axis((start + seconds) / size)
        yield rect(left, place[0], right - left, place[1], f"stage {stage}", f"{seconds:.2f} s")
        start += seconds


def clocked(seconds: float) -> str:
    """A moment of a run, 1:02:03."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


Shares = Sequence[tuple[str, Sequence[float]]]  # class, share of each column in 0..1


def timelines(rows: Sequence[tuple[str, Shares]], seconds: float) -> Html:
    """A strip per device over [0, seconds]: columns of stacked shares on a pale track."""
    width, height, left = 900, 40, 56
    size, unit = clock(seconds)
    axis = Axis(low=0, high=seconds / size, left=left, right=width - 8)
    pitch = height + 8
    drawn = [_strip(*row, axis, k * pitch, height) for k, row in enumerate(rows)]
    y = len(rows) * pitch + 8
    return canvas(width, y + 18, "devices over time", *drawn, bottom(axis, y, unit))


def _strip(name: str, shares: Shares, axis: Axis, top: float, height: float) -> Html:
    track = rect(axis.left, top, axis.right - axis.left, height, "track", name)
    under = [0.0] * len(shares[0][1])
    paths = []
    for class_, values in shares:
        over = [min(1.0, x + y) for x, y in zip(under, values, strict=True)]
        if any(values):
            paths.append(_band(under, over, axis, top + height, height, class_))
        under = over
    return joined(text(0, top + height / 2 + 4, name, "name"), track, *paths)


def _band(
    under: Sequence[float],
    over: Sequence[float],
    axis: Axis,
    base: float,
    height: float,
    class_: str,
) -> Html:
    """The area between two step lines, as one path."""
    step = (axis.right - axis.left) / len(over)
    point = lambda y, k: f"V{base - y * height:.1f}H{axis.left + k * step:.1f}"
    there = "".join(point(y, k + 1) for k, y in enumerate(over))
    back = "".join(point(y, k) for k, y in reversed(list(enumerate(under))))
    start = f"M{axis.left:.1f} {base - under[0] * height:.1f}"
    return element("path", d=f"{start}{there}{back}Z", class_=f"stage {class_}")
