"""The report's section on what needs attention, and what to do about it."""

from collections.abc import Iterator, Mapping, Sequence

from markupsafe import Markup

from mcdiff_batch.engine.output.ledger import OPEN
from mcdiff_batch.engine.report.advice import CHECK
from mcdiff_batch.engine.report.document import (
    Failures,
    Flagged,
    IncidentRow,
    Incidents,
    Problem,
    Report,
)
from mcdiff_batch.engine.text import name_device

from .cards import card_anchor, case_name
from .parts import figure, html, join, moment, plural, shorten

CHANGED = (
    "The archive has changed since the run, so these results are of another archive. Enhance it "
    "anew, with another --output."
)
NOTHING = "Nothing. No case failed, and nothing else went wrong."
NO_CASE = "No case failed, and no case is flagged."
XID = "Let `mcdiff-batch doctor` try the GPU. If such errors come again, have it checked."
TRIED = "The cases were tried again; those that are not done are open, above."
NONE_OPEN = "The cases were tried again, and none is open."
STANDS_FOR = html(
    '<p class="muted">In the commands, ARCHIVE stands for the path of the archive, and NEW for a '
    "new folder. If the run had an --output, give it again. <code>{}</code> reads the whole "
    "archive and lists every case that cannot be used.</p>",
    CHECK,
)
Finding = tuple[Markup, str]  # which case or moment, and what was found
Findings = Mapping[str, Sequence[Finding]]  # by kind of problem


def render(report: Report) -> Iterator[Markup]:
    failures, incidents, flagged = report.failures, report.incidents, report.flagged
    cases = report.cases
    yield from _warnings(report)
    xids = report.machine.xids
    if not (flagged.total or cases.failed or cases.open or incidents.total or xids):
        yield html("<p>{}</p>", NO_CASE if list(_warnings(report)) else NOTHING)
    if failures.problems:
        yield _counted([(cases.failed, "failed"), (cases.open, "still open")], failures)
        yield _problems("cases", failures.problems, _failures(report))
    if cases.damaged_records:
        yield html(
            "<p>Damaged ledger records: {}. The next run enhances their cases again.</p>",
            figure(cases.damaged_records),
        )
    if not flagged.gate:
        yield html(
            '<p class="muted">The model has no gate, so changes of labels, levels and angles are '
            "not flagged.</p>"
        )
    if flagged.gate and cases.without_spacing:
        yield html(
            '<p class="muted">In {} {} the size of a pixel is unknown, or fits no spine, so '
            "changes of levels and angles are not checked there.</p>",
            figure(cases.without_spacing),
            plural(cases.without_spacing, "case", "cases"),
        )
    if flagged.total:
        yield _counted([(flagged.total, "flagged: look at them first")], flagged)
        yield _problems("cases", flagged.problems, _flags(report))
    if incidents.total:
        words = plural(incidents.total, "incident", "incidents")
        left = TRIED if cases.open else NONE_OPEN
        yield html(
            "<p><b>{} {} that the data did not cause.</b> {}</p>",
            figure(incidents.total),
            words,
            left,
        )
        yield _problems("events", incidents.problems, _events(incidents))
    if xids:
        numbers = join((figure(x) for x in xids), " ")
        yield html("<p><b>The driver of a GPU reported errors (XID): {}.</b> {}</p>", numbers, XID)
    if any(x.command for x in (*failures.problems, *flagged.problems, *incidents.problems)):
        yield STANDS_FOR


def _warnings(report: Report) -> Iterator[Markup]:
    warnings = [*([CHANGED] if report.gallery.before == "changed" else []), *report.warnings]
    items = join(html("<li><b>Warning:</b> {}</li>", x) for x in warnings)
    if warnings:
        yield html('<ul class="plain warnings">{}</ul>', items)


def _counted(counts: Sequence[tuple[int, str]], rows: Failures | Flagged) -> Markup:
    """Such as "3 cases failed, 1 case is still open"."""
    words = (
        html("{} {} {}", figure(n), plural(n, "case is", "cases are"), word)
        if word != "failed"
        else html("{} {} failed", figure(n), plural(n, "case", "cases"))
        for n, word in counts
        if n
    )
    partly = " Not all are listed." if rows.total > len(rows.rows) else ""
    return html("<p><b>{}.</b>{}</p>", join(words, ", "), partly)


def _problems(column: str, problems: Sequence[Problem], lines: Findings) -> Markup:
    """A table of problems: what is wrong, in which cases or events, and what to do."""
    return html(
        '<table class="problems"><thead><tr><th scope="col">what</th><th scope="col">{}</th>'
        '<th scope="col">what to do</th></tr></thead><tbody>{}</tbody></table>',
        column,
        join(_problem(x, lines.get(x.kind, ())) for x in problems),
    )


def _problem(problem: Problem, lines: Sequence[Finding]) -> Markup:
    command = html("<br><code>{}</code>", problem.command) if problem.command else ""
    return html(
        '<tr><th scope="row"><b>{}: {}</b><br>{}</th><td>{}</td><td>{}{}</td></tr>',
        problem.kind,
        figure(problem.total),
        problem.means,
        shorten(_merge(lines)) if lines else "",
        problem.todo,
        command,
    )


def _merge(lines: Sequence[Finding]) -> list[Markup]:
    """One line for all cases that have the same words."""
    names: dict[str, list[Markup]] = {}
    for name, words in lines:
        names.setdefault(words, []).append(name)
    return [html("{} {}", join(x, ", "), words) for words, x in names.items()]


def _failures(report: Report) -> Findings:
    lines: dict[str, list[Finding]] = {}
    for row in report.failures.rows:
        lines.setdefault(row.reason, []).append((html("<b>{}</b>", case_name(row)), row.detail))
    if report.cases.open > len(lines.get(OPEN, ())):
        lines.setdefault(OPEN, []).append((html(""), "cases of units that were not finished"))
    return lines


def _flags(report: Report) -> Findings:
    """Each flag of each case; a case that has a card is a link to it."""
    cards = {x.case for x in report.gallery.cases}
    lines: dict[str, list[Finding]] = {}
    for row in report.flagged.rows:
        name = html("<b>{}</b>", case_name(row))
        if row.case in cards:
            name = html('<a href="#{}">{}</a>', card_anchor(row.case), name)
        for flag, why in zip(row.flags, row.why, strict=True):
            lines.setdefault(flag, []).append((name, why))
    return lines


def _events(incidents: Incidents) -> Findings:
    lines: dict[str, list[Finding]] = {}
    for row in incidents.rows:
        lines.setdefault(row.kind, []).append((_place(row), row.detail))
    return lines


def _place(row: IncidentRow) -> Markup:
    """When and where an incident was."""
    places = [html("{}", name_device(row.device))] if row.device else []
    for word, index in (("unit", row.unit), ("case", row.case)):
        if index is not None:
            places.append(html("{} {}", word, figure(index, str(index))))
    return html("{} {}:", moment(row.at), join(places, ", "))
