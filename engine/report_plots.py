"""The report's plots: how good the images are, and where the time went."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from . import svg
from .markup import Html, element, joined
from .report_parts import DASH, decibel, figure, table
from .svg import Lane, Row

METRICS = {  # name: title, what it is, unit
    "cnr": ("Contrast to noise", "bone against the soft tissue around it", "dB"),
    "snr": ("Signal to noise", "dark bone against speckle", "dB"),
    "label_agreement": ("Label agreement", "Dice of the label maps before and after", ""),
}
LANES = {  # what runs beside each other on a device: stages
    "reading": ("read",),
    "model": ("wait", "condition", "step", "relabel"),
    "finishing": ("quality", "encode", "write"),
}
STAGES = {
    "read": "read and frame",
    "wait": "wait for input",
    "condition": "condition",
    "step": "denoise",
    "relabel": "label",
    "quality": "measure quality",
    "encode": "compress",
    "write": "write and sync",
}
KNOWN = tuple(stage for stages in LANES.values() for stage in stages)
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


def time(data: Json) -> Iterator[Html]:
    if not data["stages"]:
        yield element("p", "No unit was timed.")
        return
    if data["throughput"]:
        yield element("figure", element("figcaption", *_curve_title(data)), _curve(data))
    words = (
        element("b", "Time by stage. "),
        "Reading, model and finishing run beside each other. What is left of a pale track is "
        "starting, loading the model, and being idle.",
    )
    drawn = svg.lanes(list(_lanes(data["stages"])), data["work"]["seconds"])
    yield element("figure", element("figcaption", *words), drawn, _legend(data["stages"]))
    yield _stage_table(data["stages"])


def _curve_title(data: Json) -> Iterator[object]:
    rate = data["work"]["cases_per_hour"]
    yield from (element("b", "Throughput"), ", cases an hour over the working time; ")
    yield from (figure(rate, f"{rate:,.0f}"), " on the whole")
    yield "; a dashed line is a resumption" if data["throughput"]["resumed_at"] else ""


def _curve(data: Json) -> Html:
    found = data["throughput"]
    return svg.curve(found["cases_per_hour"], found["seconds"], found["resumed_at"])


def _lanes(stages: Sequence[Json]) -> Iterator[Lane]:
    for device in stages:
        name = device["device"]
        for lane, parts in _grouped(device["seconds"]).items():
            yield Lane(device=name, name=lane, parts=parts)
            name = ""


def _grouped(seconds: Mapping[str, float]) -> dict[str, list[tuple[str, float]]]:
    found = {
        lane: [(x, seconds[x]) for x in names if x in seconds] for lane, names in LANES.items()
    }
    found["other"] = [(x, s) for x, s in seconds.items() if x not in KNOWN]
    return {lane: parts for lane, parts in found.items() if parts}


def _present(stages: Sequence[Json]) -> list[str]:
    found = {stage for device in stages for stage in device["seconds"]}
    return [*(x for x in KNOWN if x in found), *sorted(found - set(KNOWN))]


def _legend(stages: Sequence[Json]) -> Html:
    keys = ((element("i", class_=f"key {x}"), f" {STAGES.get(x, x)}") for x in _present(stages))
    return element("p", *(element("span", *key) for key in keys), class_="legend")


def _stage_table(stages: Sequence[Json]) -> Html:
    names = _present(stages)
    columns = ("ms a case", "cases", *(STAGES.get(x, x) for x in names), "model waits")
    return table(columns, [_device(x, names) for x in stages], "numbers")


def _device(device: Json, names: Sequence[str]) -> tuple[object, ...]:
    spent = device["ms_per_case"]
    waits = joined(figure(device["waiting_percent"]), " %")
    cells = (figure(spent[x], f"{spent[x]:,.1f}") if x in spent else DASH for x in names)
    return device["device"], figure(device["cases"]), *cells, waits
