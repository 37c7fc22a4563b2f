"""Two runs side by side: the figures of each, and the settings that differ."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from mcdiff_batch.engine.image.columns import COLUMNS, Column
from mcdiff_batch.engine.report.document import Comparison, DeviceWaits, Figure, Report, Single
from mcdiff_batch.engine.report.usage import DeviceTimes
from mcdiff_batch.engine.text import clean, name_device

from .parts import DASH, MINUS, decibel, figure, html, join, moment, rounded, seconds, table, titled

HASH = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A figure that both runs have."""

    name: str  # in report.json
    read: Callable[[Report], float | None]
    show: Callable[[float], Markup] = rounded
    ratio: bool = True  # whether this / other means anything
    title: str = ""  # on the page, where it is not the name


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
    Row(name="of work", title="working time", read=lambda x: x.work.seconds, show=seconds),
    Row(name="cases an hour", read=lambda x: x.work.cases_per_hour),
    Row(
        name="batch, p50, s",
        title="latency of a batch, median, s",
        read=lambda x: x.latency.batch.p50,
    ),
    Row(
        name="batch, p95, s",
        title="latency of a batch, 95 % are below, s",
        read=lambda x: x.latency.batch.p95,
    ),
    Row(
        name="case, p50, s", title="latency of a case, median, s", read=lambda x: x.latency.case.p50
    ),
    Row(
        name="most memory, MiB",
        read=lambda x: x.machine.resident_mib.max if x.machine.resident_mib else None,
    ),
    *_quality_rows(),
)


def compare(this: Report, other: Report, names: Sequence[str]) -> Comparison:
    """names: how this run and the other one are called."""
    own, others = this.provenance.settings, other.provenance.settings
    return Comparison(
        names=[clean(x) for x in names],
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
    difference = None if first is None or second is None else round(first - second, 4)
    return Figure(this=first, other=second, ratio=ratio, difference=difference)


def _waits(device: DeviceTimes) -> DeviceWaits:
    return DeviceWaits(
        device=device.device,
        waiting_percent=device.waiting_percent,
        accounted_percent=device.accounted_percent,
    )


def render(comparison: Comparison) -> Iterator[Markup]:
    names, ends = comparison.names, comparison.finished_at
    this, other = (
        f"{words} {name}{f', {moment(end)}' if end else ''}"
        for words, name, end in zip(("this:", "other:"), names, ends, strict=True)
    )
    pairs = ((row, comparison.figures[row.name]) for row in ROWS)
    rows: list[tuple[object, ...]] = [
        _row(row, x) for row, x in pairs if not x.this is x.other is None
    ]
    rows.append(("devices wait", *map(_waits_of, comparison.devices), "", ""))
    yield table(("figure", this, other, "difference", "this / other"), rows, "numbers")
    yield html("<h3>Settings that differ</h3>")
    if not comparison.settings:
        yield html('<p class="muted">None. Both runs have the same settings.</p>')
        return
    settings = [_setting(*x) for x in comparison.settings.items()]
    yield table(("setting", "this", "other"), settings, "pairs")


def _setting(name: str, values: Sequence[str]) -> tuple[object, ...]:
    """Hashes say nothing to a person; they are in the provenance of each report."""
    hashes = any(HASH.fullmatch(x) for x in values)
    shown = [
        ("another one, see Provenance" if x else DASH) if hashes else x or DASH for x in values
    ]
    return name.replace("_", " "), *shown


def _row(row: Row, values: Figure) -> tuple[object, ...]:
    this, other = (DASH if x is None else row.show(x) for x in (values.this, values.other))
    return (
        row.title or row.name,
        this,
        other,
        _difference(row, values.difference),
        rounded(values.ratio),
    )


def _difference(row: Row, value: float | None) -> Markup:
    if not value:
        return html("{}", DASH if value is None else "none")
    words = row.show(abs(value)).striptags()
    return figure(value, f"{'+' if value > 0 else MINUS}{words}")


def _waits_of(devices: list[DeviceWaits]) -> Markup:
    shares = (html("{} {} %", name_device(x.device), figure(x.waiting_percent)) for x in devices)
    return join(shares, " ")
