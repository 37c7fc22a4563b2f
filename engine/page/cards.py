"""The report's cards: a case before and after, and what its label map finds."""

import base64
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mcdiff_batch.engine.report.gallery import BRIGHTEST, COLOURS, Pictures

from .markup import Html, element, joined
from .parts import decibel, degrees, figure

FLAGS = {
    "gate": "flagged",
    "failed": "failed",
    "open": "still open",
    "agreement": "labels changed most",
    "cnr": "lost contrast",
}
PAIRS = {  # name: title, how its values read
    "cnr_log10": ("CNR, 20 log10", decibel),
    "snr_log10": ("SNR, 20 log10", decibel),
    "uca_thoracic": ("thoracic angle", degrees),
    "uca_lumbar": ("lumbar angle", degrees),
    "levels": ("levels", figure),
}
SINGLES = {
    "label_agreement": "label agreement",
    "mean_spread": "mean spread",
}
ABSENT = {
    "gone": "The archive is not where it was, so the images before are not shown.",
    "changed": "The archive has changed since the run, so the images before are not shown.",
}
Json = Mapping[str, Any]


def gallery(data: Json, pictures: Mapping[int, Pictures]) -> Iterator[Html]:
    found, classes = data["gallery"], data["provenance"]["classes"]
    if not found["cases"]:
        yield element("p", "No case has been done yet.")
        return
    words = (
        "First those that the gate flagged, then those that failed, whose labels changed most, "
        "that lost contrast; then an even choice of the others. From left to right: the optimal "
        "depth as it was, enhanced, enhanced with its label map"
    )
    yield element("p", words, *_spread(found["draws"]), f". {ABSENT.get(found['before'], '')}")
    yield element("p", *_legend(classes), class_="legend")
    cards = (_card(row, pictures.get(row["case"], Pictures())) for row in found["cases"])
    yield element("div", *cards, class_="cards")


def _spread(draws: int) -> tuple[object, ...]:
    if draws == 1:
        return ()
    words = f" draws, white from {BRIGHTEST} grey levels: where they differ, the model is unsure"
    return ", and the standard deviation over ", figure(draws), words


def _legend(classes: list[str]) -> Iterator[Html]:
    for name, colour in zip(classes[1:], COLOURS, strict=False):
        key = element("i", class_="key", style=f"background:{colour}")
        yield element("span", key, f" {name}")


def named(row: Json) -> Html:
    """A case by its index, and by its id where the data hold it."""
    own = (" ", element("bdi", row["id"])) if "id" in row else ()
    return joined(figure(row["case"], str(row["case"])), *own)


def _card(row: Json, pictures: Pictures) -> Html:
    flag = element("span", FLAGS[row["flag"]], class_=f"flag {row['flag']}") if row["flag"] else ""
    why = [joined(element("br"), x) for x in row["why"]]
    title = element("figcaption", element("b", "case ", named(row)), " ", flag, *why)
    shown = {name: getattr(pictures, name) for name in ("before", "after", "labels", "spread")}
    images = [_image(x, png, row["case"]) for x, png in shown.items() if png]
    images = images or [element("span", row["reason"], element("br"), row["detail"])]
    return element("figure", title, element("div", *images), _numbers(row), class_="card")


def _image(name: str, png: bytes, case: int) -> Html:
    data = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return element("img", src=data, alt=f"case {case} {name}", title=name)


def _numbers(row: Json) -> Html:
    found = row["quality"]
    if not found:
        return element("p", "no result yet" if row["flag"] == "open" else "no result")
    pairs = (_pair(found, *x) for x in PAIRS.items() if found.get(f"{x[0]}_before") is not None)
    singles = (_single(found, *x) for x in SINGLES.items() if found.get(x[0]) is not None)
    return element("p", *pairs, *singles)


def _pair(found: Json, name: str, how: tuple[str, Callable[[float | None], Html]]) -> Html:
    title, shown = how
    before, after = (shown(found.get(f"{name}_{when}")) for when in ("before", "after"))
    return joined(f"{title} ", before, " → ", after, element("br"))


def _single(found: Json, name: str, title: str) -> Html:
    return joined(f"{title} ", figure(found[name], f"{found[name]:.3g}"), element("br"))
