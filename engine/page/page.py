"""The report as one offline page.

The order is that of an operator's questions: what was done, and what needs attention?  How good is
it, which cases should I look at, where did the time go, and what exactly was run?
"""

from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

from mcdiff_batch.engine.image.columns import CNR
from mcdiff_batch.engine.model.ladder import DRAWS_NFE
from mcdiff_batch.engine.report.document import (
    Gain,
    Outcome,
    Provenance,
    Report,
    Work,
)
from mcdiff_batch.engine.report.gallery import Pictures
from mcdiff_batch.engine.text import clean, name_device

from . import attention, cards, comparison, machine, quality, time
from .parts import (
    CAUTION,
    SCRIPT,
    STYLE,
    contents,
    document,
    figure,
    html,
    join,
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
    sections = {
        "Attention": attention.render(report),
        "Side by side": comparison.render(report.compared) if report.compared else (),
        "Quality": quality.render(report.quality, report.cases),
        "Cases": cards.render(report, pictures),
        "Time": time.render(report),
        "Machine": machine.render(report.machine),
        "Provenance": _provenance(report.provenance),
    }
    shown = [(title, parts) for title, x in sections.items() if (parts := list(x))]
    return document(
        " · ".join(_title(report)),
        STYLE,
        _masthead(report),
        contents(title for title, _ in shown),
        *(section(title, *x, class_="whole" if title == "Cases" else "") for title, x in shown),
        script=SCRIPT,
    )


def _title(report: Report) -> Iterator[str]:
    """The title of the tab: what is wrong first."""
    cases = report.cases
    if report.compared:
        yield "two runs compared"
    for count, word in ((cases.open, "open"), (cases.failed, "failed")):
        if count:
            yield f"{count} {word}"
    yield f"{cases.done} enhanced"
    if report.flagged.total:
        yield f"{report.flagged.total} flagged"


def _masthead(report: Report) -> Markup:
    headline, lede = join(_headline(report)), list(_lede(report))
    if report.compared:
        lede.insert(0, html("This run: {}", headline))
        headline = html("Two runs compared: {} with {}.", *report.compared.names)
    return html(
        '<header><p class="muted">{badge} mcdiff-batch {version}, report of {when}{host}</p>'
        '<h1>{headline}</h1><p class="lede">{lede}</p><p class="muted">{caution}</p>{tiles}'
        "</header>",
        badge=_badge(report.outcome),
        version=report.version,
        when=moment(report.written_at),
        host="" if report.host is None else html(", on {}", report.host),
        headline=headline,
        lede=join(lede, " "),
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
        which = "selected " if cases.skipped else ""
        yield html("All {} {}cases are enhanced", figure(cases.done), which)
    else:
        counts = figure(cases.done), figure(cases.selected)
        yield html("{} of {} cases are enhanced", *counts)
    for count, word in ((cases.failed, "failed"), (cases.open, "still open"), (flagged, "flagged")):
        if count:
            yield html(", {} {}", figure(count), word)
    yield html(".")
    if cases.skipped:
        yield html(" The output was begun for {} of ", figure(cases.selected))
        yield html("{} cases: {} ", figure(cases.archive), figure(cases.skipped))
        yield html("{} not part of it.", plural(cases.skipped, "is", "are"))


def _lede(report: Report) -> Iterator[Markup]:
    """Sentences."""
    work, provenance = report.work, report.provenance
    if report.outcome.state == "stopped":
        yield html("Run the same command again to finish.")
    if work.seconds:
        devices = ", ".join(name_device(x.device) for x in report.stages)
        resumed = _resumed(work)
        yield html("{}{} of work on {}, {}.", _span(work), seconds(work.seconds), devices, resumed)
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
        yield html("To do all cases, run with a new --output, without --limit and --cases.")


def _span(work: Work) -> Markup:
    if work.started_at is None:
        return html("")
    ended = html(", ended {}", moment(work.finished_at)) if work.finished_at else ""
    return html("Started {}{}: ", moment(work.started_at), ended)


def _resumed(work: Work) -> Markup:
    if not work.resumed:
        return html("without interruption")
    times = figure(work.resumed, TIMES.get(work.resumed, f"{work.resumed} times"))
    return html("resumed {}", times)


def _tiles(report: Report) -> Iterator[tuple[str, Markup]]:
    cases, work = report.cases, report.work
    yield "enhanced", figure(cases.done)
    for name, count in (("failed", cases.failed), ("open", cases.open)):
        yield name, html('<span class="{}">{}</span>', "bad" if count else "", figure(count))
    if report.flagged.gate or report.flagged.total:
        yield "flagged", figure(report.flagged.total)
    yield "cases per hour", figure(work.cases_per_hour, f"{work.cases_per_hour or 0:,.0f}")
    yield "working time", seconds(work.seconds)
    cnr = report.quality[CNR.name]
    assert isinstance(cnr, Gain)
    yield f"median {titled(CNR, ' gain')}", measured(CNR, cnr.gain.median, "+")


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
