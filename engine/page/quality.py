"""The report's plots of how good the images are."""

from collections.abc import Iterator, Mapping
from typing import Any

from . import svg
from .markup import Html, element, joined
from .parts import decibel, figure, table
from .svg import Row

METRICS = {  # name: title, what it is, unit
    "cnr_log10": ("Contrast to noise, 20 log10", "bone against the 4.5 mm around it", "dB"),
    "snr_log10": ("Signal to noise, 20 log10", "dark bone against the speckle there", "dB"),
    "label_agreement": ("Label agreement", "Dice of the label maps before and after", ""),
}
Json = Mapping[str, Any]


def quality(found: Json) -> Iterator[Html]:
    shown = {name: found[name] for name in METRICS if found[name]["histogram"]}
    if not shown:
        yield element("p", "No case is done, so there is nothing to measure.")
        return
    yield element("div", *(_panel(name, x) for name, x in shown.items()), class_="panels")
    columns = ("", "before", "after", "gain", "5 to 95 % of gains", "cases worse")
    yield table(columns, [_row(name, x) for name, x in shown.items() if "gain" in x], "numbers")


def _panel(name: str, found: Json) -> Html:
    title, words, unit = METRICS[name]
    digits = 1 if unit else 2
    rows = [
        Row(
            name=when,
            class_=when,
            counts=found["histogram"][when],
            median=_median(found, when),
            digits=digits,
        )
        for when in ("before", "after")
        if when in found["histogram"]
    ]
    caption = element("figcaption", element("b", title), element("br"), words)
    return element("figure", caption, svg.histograms(found["histogram"]["edges"], rows, unit))


def _median(found: Json, when: str) -> float | None:
    value: float | None = found[when].get("median")
    return value


def _row(name: str, found: Json) -> tuple[object, ...]:
    medians = (decibel(_median(found, x)) for x in ("before", "after"))
    gain = found["gain"]
    spread = joined(decibel(gain.get("p5"), "+"), " to ", decibel(gain.get("p95"), "+"))
    share = joined(figure(found["worse"]), " of ", figure(gain["cases"]))
    title = f"{METRICS[name][0]}, median"
    return title, *medians, decibel(gain.get("median"), "+"), spread, share
