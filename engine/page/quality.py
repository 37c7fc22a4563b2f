"""The report's section on quality: the distribution of every column over the cases."""

from collections.abc import Iterator, Mapping

from markupsafe import Markup

from mcdiff_batch.engine.image.columns import COLUMNS, Column
from mcdiff_batch.engine.report.document import (
    CaseCounts,
    Change,
    Distribution,
    Gain,
    Histogram,
    Single,
)

from . import svg
from .parts import DASH, NEEDS_SPACING, figure, html, join, measured, plural, table, titled

HEAD = ("median over the cases", "before", "after", "change", "5 to 95 % of changes", "cases worse")


def render(quality: Mapping[str, Distribution], cases: CaseCounts) -> Iterator[Markup]:
    blank = cases.without_spacing
    everywhere = 0 < blank == cases.done
    shown = [
        (column, quality[column.name])
        for column in COLUMNS
        if quality[column.name].after.cases or (column.needs_mm and everywhere)
    ]
    if not shown:
        yield html("<p>No case is done yet, so there is nothing to measure.</p>")
        return
    if blank:
        yield html(
            '<p class="muted">The size of a pixel is unknown, or fits no spine, in {} of {} {}. '
            "What needs it is blank there and counts nowhere.</p>",
            figure(blank),
            figure(cases.done),
            plural(cases.done, "case", "cases"),
        )
    panels = (_panel(column, x, x.histogram) for column, x in shown if isinstance(x, Single | Gain))
    yield html('<div class="panels">{}</div>', join(panels))
    yield table(HEAD, [_row(column, x) for column, x in shown], "numbers")


def _panel(column: Column, distribution: Single | Gain, histogram: Histogram | None) -> Markup:
    """A histogram of a headline column."""
    if histogram is None or not column.headline:
        return html("")
    return html(
        "<figure><figcaption><b>{}</b><br>{}</figcaption>{}</figure>",
        titled(column),
        column.about,
        svg.histograms(
            histogram.edges,
            list(_rows(column, distribution, histogram)),
            column.unit,
            f"{titled(column)}, by case",
        ),
    )


def _rows(column: Column, distribution: Single | Gain, histogram: Histogram) -> Iterator[svg.Row]:
    before = distribution.before if isinstance(distribution, Gain) else None
    for name, summary in (("before", before), ("after", distribution.after)):
        counts = getattr(histogram, name)
        if summary is not None and counts is not None:
            yield svg.Row(
                name=name,
                counts=counts,
                median=summary.median,
                digits=1 if column.unit else 2,
                points=(histogram.points or {}).get(name),
            )


def _row(column: Column, distribution: Distribution) -> tuple[object, ...]:
    title = html('<span title="{}">{}</span>', column.about, titled(column))
    if not distribution.after.cases:
        return title, "", NEEDS_SPACING, "", "", ""
    after = measured(column, distribution.after.median)
    if isinstance(distribution, Single):
        return title, "", after, "", "", ""
    change = distribution.change if isinstance(distribution, Change) else distribution.gain
    low, high = (measured(column, x, "+") for x in (change.p5, change.p95))
    return (
        title,
        measured(column, distribution.before.median),
        after,
        measured(column, change.median, "+"),
        html("{} to {}", low, high) if change.cases else DASH,
        html("{} of {}", figure(distribution.worse), figure(change.cases))
        if isinstance(distribution, Gain)
        else "",
    )
