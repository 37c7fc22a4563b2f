"""The report's section on cases: a card each, with the images before and after."""

import base64
from collections.abc import Iterator, Mapping, Sequence

from markupsafe import Markup

from mcdiff_batch.engine.image.columns import COLUMNS, Column, Quality
from mcdiff_batch.engine.report.document import Card, FailedCase, FlaggedCase, Report
from mcdiff_batch.engine.report.gallery import BRIGHTEST, COLOURS, Pictures

from .parts import figure, html, join, measured, titled

FLAGS = {
    "gate": "flagged",
    "failed": "failed",
    "open": "still open",
    "agreement": "labels changed most",
    "cnr": "lost contrast",
}
WITHOUT_BEFORE = {
    "gone": "The archive is not where it was, so the images before are not shown.",
    "changed": "The archive has changed since the run, so the images before are not shown.",
}
ORDER = (
    "First come the cases that the gate flagged, then those that failed, those whose labels "
    "changed most and those that lost contrast, then an even selection of the rest."
)
IMAGES = (
    "From left to right: the optimal depth before, the enhanced image, and the enhanced image with "
    "its label map"
)


def render(report: Report, pictures: Mapping[int, Pictures]) -> Iterator[Markup]:
    gallery = report.gallery
    if not gallery.cases:
        yield html("<p>No case is done yet.</p>")
        return
    spread = _spread(gallery.draws) if gallery.draws > 1 else "."
    absent = WITHOUT_BEFORE.get(gallery.before, "")
    yield html("<p>{} {}{} {}</p>", ORDER, IMAGES, spread, absent)
    yield html('<p class="legend">{}</p>', join(_legend(report.provenance.classes)))
    cards = (_card(card, pictures.get(card.case, Pictures())) for card in gallery.cases)
    yield html('<div class="cards">{}</div>', join(cards))


def _spread(draws: int) -> Markup:
    return html(
        ", then the standard deviation over {} draws, white from {} grey levels. Where it is "
        "bright, the model is unsure.",
        figure(draws),
        BRIGHTEST,
    )


def _legend(classes: Sequence[str]) -> Iterator[Markup]:
    for name, colour in zip(classes[1:], COLOURS, strict=False):
        yield html('<span><i class="key" style="background:{}"></i> {}</span>', colour, name)


def case_name(row: Card | FailedCase | FlaggedCase) -> Markup:
    """The index of a case, and its id where the report has it."""
    index = figure(row.case, str(row.case))
    return index if row.id is None else html("{} <bdi>{}</bdi>", index, row.id)


def _card(card: Card, pictures: Pictures) -> Markup:
    return html(
        '<figure class="card"><figcaption><b>case {name}</b> {flag}{why}</figcaption>'
        "<div>{images}</div><p>{numbers}</p></figure>",
        name=case_name(card),
        flag=html('<span class="flag {}">{}</span>', card.flag, FLAGS[card.flag])
        if card.flag
        else "",
        why=join(html("<br>{}", line) for line in card.why),
        images=join(_images(card, pictures)),
        numbers=join(_numbers(card), html("<br>")),
    )


def _images(card: Card, pictures: Pictures) -> list[Markup]:
    images = {
        "before": pictures.before,
        "after": pictures.after,
        "labels": pictures.labels,
        "spread": pictures.spread,
    }
    shown = [_image(name, png, card.case) for name, png in images.items() if png]
    return shown or [html("<span>{}<br>{}</span>", card.reason, card.detail)]


def _image(name: str, png: bytes, case: int) -> Markup:
    return html(
        '<img src="data:image/png;base64,{data}" alt="case {case} {name}" title="{name}">',
        data=base64.b64encode(png).decode(),
        case=case,
        name=name,
    )


def _numbers(card: Card) -> Iterator[Markup]:
    if not card.quality:
        yield html("{}", "no result yet" if card.flag == "open" else "no result")
    for column in COLUMNS:
        if column.paired and card.quality.get(column.before) is not None:
            yield _pair(column, card.quality)
        elif column.headline and card.quality.get(column.name) is not None:
            value = measured(column, card.quality[column.name])
            yield html("{} {}", titled(column), value)


def _pair(column: Column, quality: Quality) -> Markup:
    before, after = (measured(column, quality.get(x)) for x in column.keys)
    return html("{} {} → {}", titled(column), before, after)
