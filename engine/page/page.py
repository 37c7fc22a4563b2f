"""The report as one offline page.

The order is that of an operator's questions: what was done, and what needs attention?  How good is
it, where did the time go, which cases should I look at, and what exactly was run?
"""

from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

from mcdiff_batch.engine.image.columns import CNR
from mcdiff_batch.engine.model.ladder import DRAWS_NFE
from mcdiff_batch.engine.report.document import (
    FailedCase,
    Failures,
    Flagged,
    Gain,
    IncidentRow,
    Incidents,
    Outcome,
    Provenance,
    Report,
    Work,
)
from mcdiff_batch.engine.report.gallery import Pictures
from mcdiff_batch.engine.text import clean

from . import cards, comparison, machine, quality, time
from .parts import (
    CAUTION,
    STYLE,
    document,
    figure,
    html,
    join,
    long_table,
    measured,
    moment,
    plural,
    seconds,
    section,
    table,
    tiles,
    titled,
)

STATES = {  # state: class, words
    "complete": ("good", "complete"),
    "failures": ("warn", "complete, with failures"),
    "stopped": ("bad", "not finished"),
    "running": ("warn", "still running"),
}
TIMES = {1: "once", 2: "twice"}


def render(report: Report, pictures: Mapping[int, Pictures]) -> str:
    """The page; `pictures` by case."""
    return document(
        f"mcdiff-batch: {report.cases.done} cases enhanced",
        STYLE,
        _masthead(report),
        section("Attention", *_attention(report)),
        *_compared(report),
        section("Quality", *quality.render(report.quality)),
        section("Time", *time.render(report)),
        section("Machine", *machine.render(report.machine)),
        section("Cases", *cards.render(report, pictures), class_="whole"),
        section("Provenance", *_provenance(report.provenance)),
    )


def _compared(report: Report) -> Iterator[Markup]:
    if report.compared is not None:
        yield section("Side by side", *comparison.render(report.compared))


def _masthead(report: Report) -> Markup:
    return html(
        '<header><p class="muted">{badge} mcdiff-batch {version}, {when}</p><h1>{headline}</h1>'
        '<p class="lede">{lede}</p><p class="muted">{caution}</p>{tiles}</header>',
        badge=_badge(report.outcome),
        version=report.version,
        when=moment(report.written_at),
        headline=join(_headline(report)),
        lede=join(_lede(report), " "),
        caution=CAUTION,
        tiles=tiles(_tiles(report)),
    )


def _badge(outcome: Outcome) -> Markup:
    class_, words = STATES[outcome.state]
    code = outcome.exit_code
    exit_ = "" if code is None else html(" · exit {}", figure(code))
    return html('<span class="badge {}">{}{}</span>', class_, words, exit_)


def _headline(report: Report) -> Iterator[Markup]:
    cases, flagged = report.cases, report.flagged.total
    if cases.done == cases.selected:
        yield html("All {} cases are enhanced", figure(cases.done))
    else:
        counts = figure(cases.done), figure(cases.selected)
        yield html("{} of {} cases are enhanced", *counts)
    for count, word in ((flagged, "flagged"), (cases.failed, "failed"), (cases.open, "still open")):
        if count:
            yield html(", {} {}", figure(count), word)
    yield html(".")


def _lede(report: Report) -> Iterator[Markup]:
    """Sentences."""
    work, provenance = report.work, report.provenance
    if report.outcome.state == "stopped":
        yield html("Run the same command again to finish.")
    if work.seconds:
        devices = ", ".join(x.device for x in report.stages)
        resumed = _resumed(work)
        yield html("It took {} on {}, {}.", seconds(work.seconds), devices, resumed)
    yield html(
        "Bundle {}, sampler {}, {} {} per {}.",
        provenance.bundle.get("name", "?"),
        provenance.settings.get("solver", "?"),
        figure(provenance.nfe),
        plural(provenance.nfe, "network evaluation", "network evaluations"),
        "case" if report.gallery.draws == 1 else "draw",
    )
    if report.gallery.draws > 1:
        yield html(
            "{} draws per case. Several draws use {} evaluations or more unless --steps says "
            "otherwise: with fewer they are nearly one image.",
            figure(report.gallery.draws),
            DRAWS_NFE,
        )
    if report.cases.skipped:
        words = plural(report.cases.skipped, "case was", "cases were")
        yield html("{} {} not selected.", figure(report.cases.skipped), words)


def _resumed(work: Work) -> Markup:
    if not work.resumed:
        return html("without interruption")
    times = figure(work.resumed, TIMES.get(work.resumed, f"{work.resumed} times"))
    return html("resumed {}", times)


def _tiles(report: Report) -> Iterator[tuple[str, Markup]]:
    cases, work = report.cases, report.work
    yield "done", figure(cases.done)
    if report.flagged.gate:
        yield "flagged", figure(report.flagged.total)
    yield "failed", figure(cases.failed)
    yield "open", figure(cases.open)
    yield "cases per hour", figure(work.cases_per_hour, f"{work.cases_per_hour or 0:,.0f}")
    yield "working time", seconds(work.seconds)
    cnr = report.quality[CNR.name]
    assert isinstance(cnr, Gain)
    yield f"median {titled(CNR, ' gain')}", measured(CNR, cnr.gain.median, "+")


def _attention(report: Report) -> Iterator[Markup]:
    failures, incidents, flagged = report.failures, report.incidents, report.flagged
    cases = report.cases
    total = flagged.total + failures.total + incidents.total
    if not (total or cases.open or cases.damaged_records):
        yield html("<p>Nothing. No case failed, and nothing else went wrong.</p>")
    if not flagged.gate:
        yield html('<p class="muted">The bundle has no gate, so no case is flagged.</p>')
    if flagged.total:
        one, many = "case is flagged: look at it first", "cases are flagged: look at them first"
        yield _counted(plural(flagged.total, one, many), flagged, flagged.kinds)
        rows = [(cards.case_name(x), "; ".join(x.why)) for x in flagged.rows]
        yield long_table(("case", "why"), rows)
    if failures.total:
        one, many = "case failed or was interrupted", "cases failed or were interrupted"
        yield _counted(plural(failures.total, one, many), failures, failures.reasons)
        columns = ("case", "status", "reason", "detail")
        yield long_table(columns, [_failure(x) for x in failures.rows])
    if cases.open:
        words = plural(cases.open, "case is", "cases are")
        yield html("<p><b>{} {} still open.</b></p>", figure(cases.open), words)
    if cases.damaged_records:
        yield html(
            "<p>Damaged ledger records: {}. The next run enhances their cases again.</p>",
            figure(cases.damaged_records),
        )
    if incidents.total:
        words = plural(incidents.total, "incident", "incidents")
        yield _counted(f"{words} that the data did not cause", incidents, incidents.kinds)
        columns = ("when", "kind", "where", "detail")
        yield long_table(columns, [_incident(x) for x in incidents.rows])


def _counted(words: str, rows: Flagged | Failures | Incidents, kinds: Mapping[str, int]) -> Markup:
    counts = join((html("{} {}", kind, figure(count)) for kind, count in kinds.items()), ", ")
    partly = "; not all are listed" if rows.total > len(rows.rows) else ""
    return html("<p><b>{} {}</b>: {}{}</p>", figure(rows.total), words, counts, partly)


def _failure(row: FailedCase) -> tuple[object, ...]:
    return cards.case_name(row), row.status, row.reason, row.detail


def _incident(row: IncidentRow) -> tuple[object, ...]:
    places = [row.device] if row.device else []
    for word, index in (("unit", row.unit), ("case", row.case)):
        if index is not None:
            places.append(html("{} {}", word, figure(index, str(index))))
    return moment(row.at), row.kind, join(places, " "), row.detail


def _provenance(provenance: Provenance) -> Iterator[Markup]:
    tables = {
        "Settings": provenance.settings,
        "Bundle": provenance.bundle,
        "Sampler that the bundle recommends, as measured": provenance.sampler,
        "SHA-256": provenance.sha256,
    }
    parts = (_pairs(title, rows) for title, rows in tables.items() if rows)
    yield html('<div class="tables">{}</div>', join(parts))


def _pairs(title: str, values: Mapping[str, Any]) -> Markup:
    rows = ((name.replace("_", " "), clean(value)) for name, value in values.items())
    return html("<div><h3>{}</h3>{}</div>", title, table((), rows, "pairs"))
