"""Two runs side by side: the figures of each, and the settings that differ."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from markupsafe import Markup

from mcdiff_batch.engine.image.columns import COLUMNS, Column
from mcdiff_batch.engine.report.document import (
    Comparison,
    DeviceTimes,
    DeviceWaits,
    Figure,
    Report,
    Single,
)

from .parts import DASH, decibel, figure, html, join, moment, rounded, seconds, table, titled


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A figure that both runs have."""

    name: str
    read: Callable[[Report], float | None]
    show: Callable[[float], Markup] = rounded
    ratio: bool = True  # whether this / other means anything


def _quality_rows() -> Iterator[Row]:
    """Medians of the headline columns."""
    for column in (x for x in COLUMNS if x.headline):
        show, ratio = (decibel, False) if column.unit == "dB" else (rounded, True)
        for when in ("before", "after") if column.paired else ("",):
            words = f" {when}, median" if when else ", median"
            read = lambda report, column=column, when=when: _median(report, column, when)
            yield Row(name=titled(column, words), read=read, show=show, ratio=ratio)


def _median(report: Report, column: Column, when: str) -> float | None:
    distribution = report.quality[column.name]
    if when == "before" and not isinstance(distribution, Single):
        return distribution.before.median
    return distribution.after.median


ROWS = (
    Row(name="cases done", read=lambda x: x.cases.done),
    Row(name="failed", read=lambda x: x.cases.failed),
    Row(name="open", read=lambda x: x.cases.open),
    Row(name="flagged", read=lambda x: x.flagged.total),
    Row(name="incidents", read=lambda x: x.incidents.total),
    Row(name="of work", read=lambda x: x.work.seconds, show=seconds),
    Row(name="cases an hour", read=lambda x: x.work.cases_per_hour),
    Row(name="batch, p50, s", read=lambda x: x.latency.batch.p50),
    Row(name="batch, p95, s", read=lambda x: x.latency.batch.p95),
    Row(name="case, p50, s", read=lambda x: x.latency.case.p50),
    Row(
        name="most memory, MiB",
        read=lambda x: x.machine.resident_mib.max if x.machine.resident_mib else None,
    ),
    *_quality_rows(),
)


def compare(this: Report, other: Report) -> Comparison:
    own, others = this.provenance.settings, other.provenance.settings
    return Comparison(
        finished_at=[x.work.finished_at or "" for x in (this, other)],
        figures={row.name: _figure(row, this, other) for row in ROWS},
        devices=[[_waits(x) for x in report.stages] for report in (this, other)],
        settings={
            name: [own.get(name, ""), others.get(name, "")]
            for name in sorted({*own, *others})
            if own.get(name) != others.get(name)
        },
    )


def _figure(row: Row, this: Report, other: Report) -> Figure:
    first, second = row.read(this), row.read(other)
    divides = row.ratio and first is not None and second is not None and second > 0
    ratio = round(first / second, 3) if divides and first and second else None
    return Figure(this=first, other=second, ratio=ratio)


def _waits(device: DeviceTimes) -> DeviceWaits:
    return DeviceWaits(
        device=device.device,
        waiting_percent=device.waiting_percent,
        accounted_percent=device.accounted_percent,
    )


def render(comparison: Comparison) -> Iterator[Markup]:
    this, other = map(moment, comparison.finished_at)
    rows: list[tuple[object, ...]] = [_row(row, comparison.figures[row.name]) for row in ROWS]
    rows.append(("devices wait", *map(_waits_of, comparison.devices), ""))
    yield table(("", f"this, {this}", f"other, {other}", "this / other"), rows, "numbers")
    if comparison.settings:
        settings = [(name.replace("_", " "), *pair) for name, pair in comparison.settings.items()]
        yield html("<h3>Settings that differ</h3>")
        yield table(("", "this", "other"), settings, "pairs")
    else:
        yield html('<p class="muted">The same settings.</p>')


def _row(row: Row, values: Figure) -> tuple[object, ...]:
    this, other = (DASH if x is None else row.show(x) for x in (values.this, values.other))
    return row.name, this, other, rounded(values.ratio)


def _waits_of(devices: list[DeviceWaits]) -> Markup:
    return join((html("{} {} %", x.device, figure(x.waiting_percent)) for x in devices), " ")
