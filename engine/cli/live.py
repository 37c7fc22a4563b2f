"""The live table of a run, for a terminal."""

from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mcdiff_batch.engine.run.tracker import DeviceProgress, Progress
from mcdiff_batch.engine.text import clean, format_duration

BAR = 28  # characters
Row = tuple[RenderableType, ...]


def table(at: Progress | None) -> RenderableType:
    """A row for the whole run, a row for each device, a line for the machine and for each GPU.

    at: None before the first report of the run.
    """
    if at is None or not at.elapsed:
        return Text("starting")
    rows = Table.grid(padding=(0, 2))
    rate = f"{at.rate:.2f}/s" if at.rate < 10 else f"{at.rate:.0f}/s"
    rows.add_row("all", _bar(at.handled, at.cases), Text(at.summary), rate, _left(at))
    for device in at.devices:
        rows.add_row(*_device(device, at))
    return Group(rows, *_machine(at.machine))


def _bar(value: float, total: float) -> ProgressBar:
    return ProgressBar(
        total=max(total, 1),
        completed=min(value, total),
        width=BAR,
        complete_style="cyan",
        finished_style="green",
    )


def _left(at: Progress) -> str:
    if at.rate:
        return f"{format_duration(at.eta)} left"
    return f"loading, {format_duration(at.elapsed)}"


def _device(device: DeviceProgress, at: Progress) -> Row:
    """Its bar shows the share of the time that the device works."""
    share = device.working
    words = "first unit" if share is None else f"works {share:.0f} % of the time"
    rate = f"{device.cases / at.elapsed:.2f}/s"
    return Text(clean(device.device)), _bar(share or 0, 100), f"{device.cases} done", rate, words


def _machine(sample: dict[str, Any]) -> Iterator[Text]:
    if "cpu_percent" in sample:
        gibibytes = sample["resident_mib"] / 1024
        busy = sample["cpu_percent"] / 100
        yield Text(f"{busy:.1f} cores busy, {gibibytes:.1f} GiB resident", style="dim")
    for gpu in sample.get("gpus", ()):
        yield _gpu(gpu)


UNITS = {
    "utilisation_percent": "{:.0f} %",
    "power_w": "{:.0f} W",
    "temperature_c": "{:.0f} °C",
    "clock_mhz": "{:.0f} MHz",
    "memory_mib": "{:.0f} MiB",
}


def _gpu(gpu: dict[str, Any]) -> Text:
    values = (words.format(gpu[name]) for name, words in UNITS.items() if name in gpu)
    slowed = gpu.get("slowed", ())
    line = Text(f"GPU {gpu['index']}: {', '.join(values)}", style="dim")
    return line.append(f", slowed by {clean(', '.join(slowed))}", "yellow") if slowed else line
