"""What is marked in a picture: a scale bar, and the lines that a curve angle is between."""

import math
from collections.abc import Iterator

from markupsafe import Markup

from mcdiff_batch.engine.report.gallery import Angle, Line, Marks

from .parts import html, join
from .svg import STEPS, line, text

LONGEST = 0.5  # of the width, for a scale bar
SIZE = 0.055  # of the width, for letters


def scale_bar(marks: Marks) -> tuple[float, str]:
    """The length of the bar in px, and in words: a round number of mm, or of the input's px."""
    step, unit = (marks.mm, "mm") if math.isfinite(marks.mm) and marks.mm > 0 else (marks.px, "px")
    room = LONGEST * marks.width * step
    power = 10.0 ** math.floor(math.log10(room))
    length = max(power * x for x in STEPS if x != 2.5 and power * x <= room * 1.001)
    return length / step, f"{length:,g} {unit}"


def draw_marks(marks: Marks, *, angles: bool = False) -> Markup:
    """An SVG of the size of the picture, to lay over it.  It says nothing to a screen reader:
    captions and tables have the words."""
    drawn = [*_bar(marks), *(x for y in marks.angles for x in _angle(y, marks) if angles)]
    return html(
        '<svg class="marks" viewBox="0 0 {} {}" preserveAspectRatio="none" aria-hidden="true" '
        'font-size="{:.3g}">{}</svg>',
        marks.width,
        marks.height,
        SIZE * marks.width,
        join(drawn),
    )


def _bar(marks: Marks) -> Iterator[Markup]:
    length, words = scale_bar(marks)
    left, y = 0.04 * marks.width, marks.height - 0.05 * marks.width
    yield _both(Line(x1=left, y1=y, x2=left + length, y2=y), "bar")
    yield text(round(left, 2), round(y - 0.03 * marks.width, 2), words)


def _angle(angle: Angle, marks: Marks) -> Iterator[Markup]:
    upper, lower = sorted(angle.lines, key=lambda x: x.y1 + x.y2)
    yield from (_both(x, "ray") for x in (upper, lower))
    right = max(upper.x1, lower.x1) > marks.width - max(upper.x2, lower.x2)
    x = 0.02 * marks.width if right else 0.98 * marks.width
    y = (upper.y1 + upper.y2 + lower.y1 + lower.y2) / 4
    words = f"{angle.degrees:.1f}°"
    yield text(round(x, 2), round(y, 2), words, "", "start" if right else "end")


def _both(place: Line, class_: str) -> Markup:
    """A line in white on a wider one in black, so that it shows on any image."""
    x1, y1, x2, y2 = (round(x, 2) for x in (place.x1, place.y1, place.x2, place.y2))
    return line(x1, y1, x2, y2, f"{class_} under") + line(x1, y1, x2, y2, class_)
