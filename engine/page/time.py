"""The report's section on time: throughput, devices, stages, waits and latency."""

from collections.abc import Iterator, Mapping, Sequence

from markupsafe import Markup

from mcdiff_batch.engine.report.document import Histogram, Latency, Report
from mcdiff_batch.engine.report.timeline import CAUSES
from mcdiff_batch.engine.report.usage import DeviceTimes, Throughput, Timeline, Wait
from mcdiff_batch.engine.telemetry.spans import FEEDING, LANES, TASK
from mcdiff_batch.engine.text import name_device

from . import svg
from .parts import DASH, figure, html, join, table

STAGES = {  # in the order in which a case passes them
    "read": "read",
    "decode": "decompress",
    "frame": "fit to the frame",
    "start": "start process",
    "load": "load model",
    "wait": "wait for input",
    "task": "wait for a unit",
    "blocked": "wait for finishing",
    "host-to-device": "copy to device",
    "batch": "assemble batch",
    "condition": "condition",
    "sample": "draw noise",
    "step": "denoise",
    "compute": "wait for kernels",
    "device-to-host": "copy from device",
    "relabel": "label the result",
    "quality": "measure quality",
    "encode": "compress",
    "write": "write",
    "fsync": "sync to disk",
    "commit": "record in ledger",
    "work": "work",
}
UNSHOWN = ("idle",)  # finishing waits for the model: nothing is lost
ORDER = {stage: rank for rank, stage in enumerate(STAGES)}
REASONS = {
    "start": "the process was starting",
    "load": "the model was loading",
    "wait": "no case had been read and framed yet",
    "task": "no unit was available",
    "blocked": "finishing was behind with earlier results",
}
POINTS = {"p50": "median", "p90": "90 %", "p95": "95 %", "p99": "99 %", "max": "longest"}


def render(report: Report) -> Iterator[Markup]:
    if not report.stages:
        yield html("<p>No unit was timed.</p>")
        return
    if report.throughput:
        yield _throughput(report.throughput, report.work.cases_per_hour or 0)
    if report.timeline:
        yield _timeline(report.timeline)
    yield _lanes_figure(report.stages, report.work.seconds)
    waits = _waits(report.timeline.longest_waits) if report.timeline else ""
    latencies = list(_latencies(report))
    yield html(
        '<div class="tables times">{}<div>{}{}</div></div>',
        _stage_table(report.stages),
        waits,
        _latency_table(latencies),
    )
    panels = (_latency_panel(*x) for x in latencies)
    yield html('<div class="panels">{}</div>', join(panels))


def _throughput(throughput: Throughput, mean: float) -> Markup:
    curve = svg.curve(throughput.cases_per_hour, throughput.seconds, throughput.resumed_at)
    return html(
        "<figure><figcaption><b>Throughput</b>, cases per hour over the working time: {} on "
        "average.{}</figcaption>{}</figure>",
        figure(mean, f"{mean:,.0f}"),
        " A dashed line marks a resumption." if throughput.resumed_at else "",
        html('<div class="wide">{}</div>', curve),
    )


def _timeline(timeline: Timeline) -> Markup:
    rows = [(name_device(x.device), [(k, x.shares[k]) for k in CAUSES]) for x in timeline.devices]
    used = [k for k in CAUSES if any(max(x.shares[k]) > 0 for x in timeline.devices)]
    return html(
        "<figure><figcaption><b>Devices over the working time.</b> The full height is all of a "
        "device's time. In pale parts the device had nothing left to do, or its worker was lost."
        "</figcaption>{}{}</figure>",
        html('<div class="wide">{}</div>', svg.timelines(rows, timeline.seconds)),
        _legend(used),
    )


def _waits(waits: Sequence[Wait]) -> Markup:
    """The longest waits of the devices."""
    rows = [
        (
            name_device(x.device),
            figure(x.at, svg.format_moment(x.at)),
            _short(x.seconds),
            REASONS.get(x.cause, x.cause),
        )
        for x in waits
    ]
    return table(("longest waits", "at", "for", "because"), rows, "lines") if rows else html("")


def _short(value: float | None) -> Markup:
    words = "" if value is None else f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"
    return figure(value, words)


def _lanes_figure(stages: Sequence[DeviceTimes], wall: float) -> Markup:
    return html(
        "<figure><figcaption><b>Time by stage.</b> Reading, model and finishing run in parallel."
        "</figcaption>{}{}</figure>",
        html('<div class="wide">{}</div>', svg.lanes(list(_lanes(stages)), wall)),
        _legend(_present(stages)),
    )


def _lanes(stages: Sequence[DeviceTimes]) -> Iterator[svg.Lane]:
    for device in stages:
        name = name_device(device.device)
        for lane in _in_order(device.lanes):
            if lane != FEEDING:
                spent = device.lanes[lane]
                parts = [(x, spent[x]) for x in sorted(spent, key=_rank) if x not in UNSHOWN]
                yield svg.Lane(device=name, name=lane, parts=parts)
                name = ""


def _in_order(lanes: Mapping[str, object]) -> list[str]:
    return [*(x for x in LANES if x in lanes), *(x for x in lanes if x not in LANES)]


def _rank(stage: str) -> int:
    return ORDER.get(stage, len(ORDER))


def _present(stages: Sequence[DeviceTimes]) -> list[str]:
    names = {x for device in stages for lane in device.lanes.values() for x in lane}
    return sorted(names - {*UNSHOWN, TASK}, key=lambda x: (_rank(x), x))


def _legend(stages: Sequence[str]) -> Markup:
    keys = (
        html('<span><i class="key {}"></i> {}</span>', stage, STAGES.get(stage, stage))
        for stage in stages
    )
    return html('<p class="legend">{}</p>', join(keys))


def _stage_table(stages: Sequence[DeviceTimes]) -> Markup:
    """A stage a row, a device a column."""
    rows: list[tuple[object, ...]] = [
        ("cases, failed ones too", *(figure(x.cases) for x in stages)),
        ("model waits", *(_percent(x.waiting_percent) for x in stages)),
        ("time accounted for", *(_percent(x.accounted_percent) for x in stages)),
    ]
    for stage in _present(stages):
        rows.append((STAGES.get(stage, stage), *(_spent(x, stage) for x in stages)))
    return table(("ms per case", *(name_device(x.device) for x in stages)), rows, "numbers")


def _percent(value: float | None) -> Markup:
    return html("{} %", figure(value))


def _spent(device: DeviceTimes, stage: str) -> object:
    spent = device.ms_per_case.get(stage)
    return DASH if spent is None else figure(spent, f"{spent:,.1f}")


def _latencies(report: Report) -> Iterator[tuple[str, str, Latency, Histogram]]:
    """Title, explanation, figures and histogram of each latency that was measured."""
    batch, case = report.latency.batch, report.latency.case
    if batch.histogram:
        yield "Latency of a batch", "from conditioner to label map", batch, batch.histogram
    if case.histogram:
        words = "from the start of reading to the compressed result, waits included"
        yield "Latency of a case", words, case, case.histogram


def _latency_panel(title: str, words: str, latency: Latency, histogram: Histogram) -> Markup:
    points = (histogram.points or {}).get("all")
    row = svg.Row(
        name="",
        class_="after",
        counts=histogram.all or [],
        median=latency.p50,
        digits=2,
        points=points,
    )
    return html(
        "<figure><figcaption><b>{}</b><br>{}</figcaption>{}</figure>",
        title,
        words,
        svg.histograms(histogram.edges, [row], "s", title),
    )


def _latency_table(shown: Sequence[tuple[str, str, Latency, Histogram]]) -> Markup:
    """Without the percentiles that are known of no latency."""
    points = [x for x in POINTS if any(getattr(y, x) is not None for _, _, y, _ in shown)]
    rows = [
        (title, figure(x.count), *(_short(getattr(x, point)) for point in points))
        for title, _, x, _ in shown
    ]
    return table(("share that is faster", "count", *(POINTS[x] for x in points)), rows, "numbers")
