"""The report's plots of where the time went: throughput, devices, stages, latency, waits."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mcdiff_batch.engine.report.timeline import CAUSES
from mcdiff_batch.engine.telemetry.spans import FEEDING, LANES

from . import svg
from .markup import Html, element, joined
from .parts import DASH, figure, table
from .svg import Lane, Row

STAGES = {
    "read": "read",
    "decode": "decompress",
    "frame": "frame",
    "start": "start process",
    "load": "load model",
    "wait": "wait for input",
    "task": "wait for a unit",
    "blocked": "wait for finishing",
    "host-to-device": "copy to device",
    "batch": "batch up",
    "condition": "condition",
    "sample": "draw noise",
    "step": "denoise",
    "compute": "kernels, waited for",
    "device-to-host": "copy from device",
    "relabel": "label",
    "quality": "measure quality",
    "encode": "compress",
    "write": "write",
    "fsync": "sync to disk",
    "commit": "record",
    "work": "at work",
}
UNSHOWN = ("idle",)  # finishing that waits for the model is nobody's loss
ORDER = {stage: rank for rank, stage in enumerate(STAGES)}
LATENCIES = {
    "batch": ("Latency of a batch", "conditioner to label map", "s"),
    "case": ("Latency of a case", "begin of reading to compressed result, with waits", "s"),
}
WAITED = {
    "start": "its process was starting",
    "load": "the model was being loaded",
    "wait": "no case was read and framed yet",
    "task": "no unit was at hand",
    "blocked": "results were not taken at once",
}
Json = Mapping[str, Any]


def time(data: Json) -> Iterator[Html]:
    if not data["stages"]:
        yield element("p", "No unit was timed.")
        return
    if data["throughput"]:
        yield element("figure", element("figcaption", *_curve_title(data)), _curve(data))
    if data["timeline"]:
        yield _timeline(data["timeline"])
    yield _lanes_figure(data)
    shown = {x: data["latency"][x] for x in LATENCIES if data["latency"][x]["histogram"]}
    waits = _waits(data["timeline"]["longest_waits"]) if data["timeline"] else Html()
    beside = element("div", waits, _latency_table(shown))
    yield element("div", _stage_table(data["stages"]), beside, class_="tables times")
    yield element("div", *(_latency(name, x) for name, x in shown.items()), class_="panels")


def _curve_title(data: Json) -> Iterator[object]:
    rate = data["work"]["cases_per_hour"]
    yield from (element("b", "Throughput"), ", cases an hour over the working time; ")
    yield from (figure(rate, f"{rate:,.0f}"), " on the whole")
    yield "; a dashed line is a resumption" if data["throughput"]["resumed_at"] else ""


def _curve(data: Json) -> Html:
    found = data["throughput"]
    return svg.curve(found["cases_per_hour"], found["seconds"], found["resumed_at"])


def _timeline(found: Json) -> Html:
    words = (
        element("b", "Devices over the working time. "),
        "Full height is all of a device's time; what stays pale was not used, or is not known: its "
        "worker was lost, or there was no more to do.",
    )
    rows = [(x["device"], [(k, x["shares"][k]) for k in CAUSES]) for x in found["devices"]]
    used = [k for k in CAUSES if any(max(x["shares"][k]) > 0 for x in found["devices"])]
    drawn = svg.timelines(rows, found["seconds"])
    return element("figure", element("figcaption", *words), drawn, _legend(used))


def _waits(gaps: Sequence[Json]) -> Html:
    """The longest waits of the devices and their cause."""
    rows = [
        (x["device"], figure(x["at"], svg.clocked(x["at"])), _short(x["seconds"]), _why(x["cause"]))
        for x in gaps
    ]
    return table(("longest waits", "at", "for", "because"), rows, "lines") if rows else Html()


def _why(cause: str) -> str:
    return WAITED.get(cause, cause)


def _short(value: float | None) -> Html:
    words = "" if value is None else f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"
    return figure(value, words)


def _lanes_figure(data: Json) -> Html:
    words = (
        element("b", "Time by stage. "),
        "Reading, model and finishing run beside each other.",
    )
    drawn = svg.lanes(list(_lanes(data["stages"])), data["work"]["seconds"])
    legend = _legend(_present(data["stages"]))
    return element("figure", element("figcaption", *words), drawn, legend)


def _lanes(stages: Sequence[Json]) -> Iterator[Lane]:
    for device in stages:
        name = device["device"]
        lanes = device["lanes"]
        for lane, spent in ((x, lanes[x]) for x in _in_order(lanes)):
            if lane != FEEDING:
                parts = [(x, spent[x]) for x in sorted(spent, key=_rank) if x not in UNSHOWN]
                yield Lane(device=name, name=lane, parts=parts)
                name = ""


def _in_order(lanes: Json) -> list[str]:
    return [*(x for x in LANES if x in lanes), *(x for x in lanes if x not in LANES)]


def _rank(stage: str) -> int:
    return ORDER.get(stage, len(ORDER))


def _present(stages: Sequence[Json]) -> list[str]:
    found = {x for device in stages for lane in device["lanes"].values() for x in lane}
    return sorted(found - {*UNSHOWN, "task"}, key=lambda x: (_rank(x), x))


def _legend(stages: Sequence[str]) -> Html:
    keys = ((element("i", class_=f"key {x}"), f" {STAGES.get(x, x)}") for x in stages)
    return element("p", *(element("span", *key) for key in keys), class_="legend")


def _stage_table(stages: Sequence[Json]) -> Html:
    """A stage a row, a device a column."""
    rows: list[tuple[object, ...]] = [
        ("cases", *(figure(x["cases"]) for x in stages)),
        ("model waits", *(_percent(x["waiting_percent"]) for x in stages)),
        ("time accounted for", *(_percent(x["accounted_percent"]) for x in stages)),
    ]
    for stage in _present(stages):
        rows.append((STAGES.get(stage, stage), *(_spent(x, stage) for x in stages)))
    return table(("ms a case", *(x["device"] for x in stages)), rows, "numbers")


def _percent(value: float | None) -> Html:
    return joined(figure(value), " %")


def _spent(device: Json, stage: str) -> object:
    spent = device["ms_per_case"]
    return figure(spent[stage], f"{spent[stage]:,.1f}") if stage in spent else DASH


def _latency(name: str, found: Json) -> Html:
    title, words, unit = LATENCIES[name]
    row = Row(
        name="",
        class_="after",
        counts=found["histogram"]["all"],
        median=found["p50"],
        digits=2,
    )
    caption = element("figcaption", element("b", title), element("br"), words)
    return element("figure", caption, svg.histograms(found["histogram"]["edges"], [row], unit))


def _latency_table(shown: Json) -> Html:
    points = ("p50", "p90", "p95", "p99", "max")
    rows = [
        (LATENCIES[name][0], figure(x["count"]), *(_short(x[point]) for point in points))
        for name, x in shown.items()
    ]
    return table(("", "of", *points), rows, "numbers")
