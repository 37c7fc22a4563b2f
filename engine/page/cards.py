"""The report's section on cases: a card each, with the images before and after."""

import base64
from collections.abc import Iterator, Mapping, Sequence

from markupsafe import Markup

from mcdiff_batch.engine.image.columns import (
    COLUMNS,
    CONFIDENCE,
    LUMBAR,
    THORACIC,
    Quality,
    lacks_spacing,
)
from mcdiff_batch.engine.report.advice import REPAIR
from mcdiff_batch.engine.report.document import Card, FailedCase, FlaggedCase, Report
from mcdiff_batch.engine.report.gallery import BRIGHTEST, COLOURS, Marks, Pictures

from .overlay import draw_marks
from .parts import NEEDS_SPACING, figure, html, join, measured, table, titled

FLAGS = {"gate": "flagged", "agreement": "labels changed most", "cnr": "lost contrast"}
WITHOUT_BEFORE = {
    "gone": "The archive is not where it was, so the images before are not shown, and the scale "
    "is in pixels.",
    "changed": "The archive has changed since the run, so the images before are not shown, and "
    "the scale is in pixels.",
}
ORDER = (
    "First come the cases that are flagged, then those whose labels changed most and those that "
    "lost contrast, then an even selection of the rest."
)
IMAGES = (
    "Before is the optimal depth; labels and the lines of angles are drawn on the enhanced image."
)
SIDES = (
    "Left and right are those of the image: the archive does not say which side of the patient "
    "they are."
)
ENLARGE = (
    "A click on a picture, or Enter, enlarges it and blinks between it and the one to its left."
)


def render(report: Report, pictures: Mapping[int, Pictures]) -> Iterator[Markup]:
    gallery = report.gallery
    if not gallery.cases:
        yield html("<p>No case is done yet.</p>")
        return
    yield html("<p>{} {} {} {}</p>", ORDER, IMAGES, SIDES, WITHOUT_BEFORE.get(gallery.before, ""))
    yield html('<p class="scripted">{}</p>', ENLARGE)
    yield html(
        '<p class="legend">{}<span>White lines: the two levels that a curve angle is between'
        "</span>{}</p>",
        join(_legend(report.provenance.classes)),
        _spread(gallery.draws) if gallery.draws > 1 else "",
    )
    cards = (_card(card, pictures.get(card.case, Pictures())) for card in gallery.cases)
    yield html('<div class="cards">{}</div>', join(cards))
    yield VIEWER


VIEWER = html(
    '<dialog id="viewer" aria-labelledby="viewer-title"><p><b id="viewer-title" '
    'aria-live="polite"></b><button type="button">Other picture</button>'
    '<button type="button" aria-pressed="false">Blink</button>'
    '<button type="button">Close</button></p>'
    '<div class="stage" tabindex="0" role="group" aria-label="enlarged picture"></div></dialog>'
)


def _spread(draws: int) -> Markup:
    return html(
        "<span>Spread: the standard deviation over {} draws, white from {} grey levels. Where it "
        "is bright, the model is unsure</span>",
        figure(draws),
        BRIGHTEST,
    )


def _legend(classes: Sequence[str]) -> Iterator[Markup]:
    for number, name in enumerate(classes[1:]):
        yield html('<span><i class="key label-{}"></i> {}</span>', number % len(COLOURS) + 1, name)


def case_name(row: Card | FailedCase | FlaggedCase) -> Markup:
    """The index of a case, and its id where the report has it."""
    index = figure(row.case, str(row.case))
    return index if row.id is None else html("{} <bdi>{}</bdi>", index, row.id)


def card_anchor(case: int) -> str:
    return f"case-{case}"


def _card(card: Card, pictures: Pictures) -> Markup:
    damaged = html(
        "<p>The stored images cannot be read. <code>{}</code> makes them again.</p>", REPAIR
    )
    return html(
        '<article class="card" id="{anchor}"><h3>Case {name} {flag}</h3>{why}'
        '<div class="shots" role="group" aria-label="pictures of case {case}" tabindex="0">'
        "{shots}</div>{numbers}</article>",
        anchor=card_anchor(card.case),
        name=case_name(card),
        flag=html('<span class="flag">{}</span>', FLAGS[card.flag]) if card.flag else "",
        why=html('<p class="why">{}</p>', join(card.why, "; ")) if card.why else "",
        case=card.case,
        shots=join(_shots(card, pictures)) or damaged,
        numbers=table(("", "before", "enhanced"), list(list_numbers(card.quality)), "numbers"),
    )


def _shots(card: Card, pictures: Pictures) -> Iterator[Markup]:
    """The pictures of a case that can be shown; the label map lies over the enhanced image."""
    labels = "Labels and angles" if pictures.marks and pictures.marks.angles else "Labels"
    layers = {
        "Before": [pictures.before],
        "Enhanced": [pictures.after],
        labels: [pictures.after, pictures.labels],
        "Spread over draws": [pictures.spread],
    }
    for title, pngs in layers.items():
        shown = [x for x in pngs if x is not None]
        if len(shown) == len(pngs):
            yield _shot(card.case, title, shown, pictures.marks)


def _shot(case: int, title: str, pngs: Sequence[bytes], marks: Marks | None) -> Markup:
    alts = (f"case {case}: {title}", *[""] * (len(pngs) - 1))
    return html(
        '<figure class="shot" data-title="Case {case}: {title}"><div class="stack">{layers}{marks}'
        "</div><figcaption><span>image left</span><b>{title}</b><span>image right</span>"
        "</figcaption></figure>",
        case=case,
        title=title,
        layers=join(map(_image, pngs, alts)),
        marks=draw_marks(marks, angles=len(pngs) > 1) if marks else "",
    )


def _image(png: bytes, alt: str) -> Markup:
    data = base64.b64encode(png).decode()
    return html('<img src="data:image/png;base64,{}" alt="{}">', data, alt)


def list_numbers(quality: Quality) -> Iterator[tuple[object, ...]]:
    """Rows of a table: the paired columns, the headlines, and the confidence in angles if any.

    Where the size of a px is unknown, the paired columns that need it say so.
    """
    blank = lacks_spacing(quality)
    angles = any(quality.get(x.after) is not None for x in (THORACIC, LUMBAR))
    for column in COLUMNS:
        if column.paired and any(quality.get(x) is not None for x in column.keys):
            yield titled(column), *(measured(column, quality.get(x)) for x in column.keys)
        elif column.paired and column.needs_mm and blank:
            yield titled(column), "", NEEDS_SPACING
        elif column.headline and quality.get(column.name) is not None:
            yield titled(column), "", measured(column, quality[column.name])
        elif column == CONFIDENCE and angles and quality.get(column.name) is not None:
            yield titled(column), "", html("{} of 1", measured(column, quality[column.name]))
