"""The report's section on the machine: CPU and memory of the run, and its GPUs."""

from collections.abc import Iterator

from markupsafe import Markup

from mcdiff_batch.engine.report.document import Gpu, Machine, Series

from . import svg
from .parts import DASH, figure, html, join, table

SIZE = (340.0, 110.0)  # px of a curve


def render(found: Machine) -> Iterator[Markup]:
    if not found.samples:
        yield html("<p>The machine was not sampled.</p>")
        return
    panels = (
        _panel(title, series, unit, found.seconds)
        for title, series, unit in _curves(found)
        if series is not None
    )
    yield html('<div class="panels">{}</div>', join(panels))
    if found.gpus:
        columns = ("GPU", "mean clock", "energy", "slowed down by", "ECC errors")
        yield table(columns, [_row(gpu) for gpu in found.gpus])
    if found.xids:
        numbers = join((figure(x) for x in found.xids), " ")
        yield html('<p class="bad"><b>Driver errors (XID):</b> {}</p>', numbers)
    yield from (html('<p class="muted">{}</p>', note) for note in found.notes)


def _curves(found: Machine) -> Iterator[tuple[str, Series | None, str]]:
    """Title, values and unit."""
    yield "CPU of all processes (100 % is one core)", found.cpu_percent, "%"
    yield "Resident memory", found.resident_mib, "MiB"
    for gpu in found.gpus:
        yield f"Utilisation of GPU {gpu.index}", gpu.utilisation_percent, "%"
        yield f"Power of GPU {gpu.index}", gpu.power_w, "W"
        yield f"Temperature of GPU {gpu.index}", gpu.temperature_c, "°C"
        yield f"Memory of GPU {gpu.index}", gpu.memory_mib, "MiB"


def _panel(title: str, series: Series, unit: str, seconds: float) -> Markup:
    return html(
        "<figure><figcaption><b>{}</b><br>mean {}, peak {}</figcaption>{}</figure>",
        title,
        figure(series.mean, f"{series.mean:,.0f} {unit}"),
        figure(series.max, f"{series.max:,.0f} {unit}"),
        svg.curve(series.curve, seconds, label=title, size=SIZE),
    )


def _row(gpu: Gpu) -> tuple[object, ...]:
    reasons = gpu.slowed_percent.items()
    slowed = join((html("{} {} %", reason, figure(share)) for reason, share in reasons), ", ")
    clock, errors = gpu.clock_mhz, gpu.ecc_errors
    return (
        f"{gpu.index} {gpu.name}",
        figure(clock.mean, f"{clock.mean:,.0f} MHz") if clock else DASH,
        html("{} Wh", figure(gpu.used_wh)),
        slowed or "nothing",
        figure(errors.last) if errors else DASH,
    )
