"""The report's cards: a case before and after, and what its label map finds."""

import base64
from collections.abc import Iterator, Mapping
from typing import Any

from .gallery import COLOURS, Pictures
from .markup import Html, element, joined
from .report_parts import decibel, figure

FLAGS = {
    "failed": "failed",
    "open": "still open",
    "agreement": "labels changed most",
    "cnr": "lost contrast",
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
        "Flagged cases first: failed, labels that changed most, contrast that was lost; then an "
        "even choice of the others. From left to right: the optimal depth as it was, enhanced, "
        f"enhanced with its label map. {ABSENT.get(found['before'], '')}"
    )
    yield element("p", words)
    yield element("p", *_legend(classes), class_="legend")
    cards = (_card(row, pictures.get(row["case"], Pictures())) for row in found["cases"])
    yield element("div", *cards, class_="cards")


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
    title = element("figcaption", element("b", "case ", named(row)), " ", flag)
    shown = {"before": pictures.before, "after": pictures.after, "labels": pictures.labels}
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
    pairs = (_pair(found, x) for x in ("cnr", "snr"))
    agreement = found.get("label_agreement")
    words = "" if agreement is None else f"{agreement:.2f}"
    return element("p", *pairs, "label agreement ", figure(agreement, words))


def _pair(found: Json, name: str) -> Html:
    before, after = decibel(found.get(f"{name}_before")), decibel(found.get(f"{name}_after"))
    return joined(f"{name.upper()} ", before, " → ", after, element("br"))
