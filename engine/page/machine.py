"""The report's section on the machine: CPU and memory of the run, and its GPUs."""

from collections.abc import Iterator

from markupsafe import Markup

from mcdiff_batch.engine.report.usage import Gpu, HostUsage, Machine, Series
from mcdiff_batch.engine.text import name_device

from . import svg
from .parts import DASH, figure, html, join, table

MOST_HOSTS = 100  # rows
SIZE = (340.0, 110.0)  # px of a curve


def render(machine: Machine) -> Iterator[Markup]:
    if not machine.samples:
        yield html("<p>The machine was not sampled.</p>")
        return
    panels = (
        _panel(title, series, unit, machine.seconds)
        for title, series, unit in _curves(machine)
        if series is not None
    )
    yield html('<div class="panels">{}</div>', join(panels))
    if not (machine.gpus or machine.notes):
        yield html('<p class="muted">No GPU was used.</p>')
    if machine.gpus:
        columns = ("GPU", "mean clock", "energy", "slowed down by", "ECC errors")
        yield table(columns, [_row(gpu) for gpu in machine.gpus])
    if machine.hosts:
        yield html("<p>The curves are those of the machine that gave out the work.</p>")
        titles = ("worker", "CPU, mean (100 % is one core)", "memory, peak", "GPU, mean")
        yield table(titles, [_host(x) for x in machine.hosts[:MOST_HOSTS]])
    if machine.xids:
        numbers = join((figure(x) for x in machine.xids), " ")
        yield html('<p class="bad"><b>Driver errors (XID):</b> {}</p>', numbers)
    yield from (html('<p class="muted">{}</p>', note) for note in machine.notes)


def _curves(machine: Machine) -> Iterator[tuple[str, Series | None, str]]:
    """Title, values and unit."""
    yield "CPU of all processes (100 % is one core)", machine.cpu_percent, "%"
    yield "Resident memory", machine.resident_mib, "MiB"
    for gpu in machine.gpus:
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


def _host(host: HostUsage) -> tuple[object, ...]:
    cpu, memory = host.mean.get("cpu_percent"), host.peak.get("resident_mib")
    gpu = host.mean.get("utilisation_percent")
    return (
        name_device(host.device),
        DASH if cpu is None else figure(cpu, f"{cpu:,.0f} %"),
        DASH if memory is None else figure(memory, f"{memory:,.0f} MiB"),
        DASH if gpu is None else figure(gpu, f"{gpu:,.0f} %"),
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
