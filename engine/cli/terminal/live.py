"""The live table of a run, for a terminal of 80 columns."""

from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mcdiff_batch.engine.run.tracker import DeviceProgress, Progress
from mcdiff_batch.engine.text import clean, format_duration, name_device

BAR = 16  # characters
Row = tuple[RenderableType, ...]


def table(at: Progress | None) -> RenderableType:
    """What went wrong; a row for the whole run and one for each device; the machine and its GPUs.

    at: None before the first report of the run.
    """
    if at is None or not at.elapsed:
        return Text("starting the workers ...")
    rows = Table.grid(padding=(0, 2))
    for justify in ("left", "left", "left", "right", "right", "right"):
        rows.add_column(justify=justify, no_wrap=True)
    rows.add_row("", "", "", Text("enhanced", style="dim"))
    rows.add_row("all cases", _bar(at.handled, at.cases), f"progress {_percent(at)}", *_whole(at))
    for device in at.devices:
        rows.add_row(*_device(device, at))
    return Group(*_trouble(at), rows, *_machine(at.machine))


def _trouble(at: Progress) -> Iterator[Text]:
    """Failures come first, and stand out without colour too."""
    if at.trouble:
        yield Text(f"! {at.trouble}", style="bold red")


def _percent(at: Progress) -> str:
    return f"{100 * at.handled // max(at.cases, 1)} %"


def _whole(at: Progress) -> Row:
    rate = f"{at.rate:.2f}/s" if at.rate < 10 else f"{at.rate:.0f}/s"
    left = (
        f"{format_duration(at.eta)} left" if at.rate else f"loading, {format_duration(at.elapsed)}"
    )
    return f"{at.enhanced} of {at.cases}", rate, left


def _bar(value: float, total: float, style: str = "cyan") -> ProgressBar:
    return ProgressBar(
        total=max(total, 1),
        completed=min(value, total),
        width=BAR,
        complete_style=style,
        finished_style="green",
    )


def _device(device: DeviceProgress, at: Progress) -> Row:
    """Its bar shows the share of the time that the device works."""
    share = device.working
    words = "first unit" if share is None else f"busy {share:.0f} %"
    rate = f"{device.cases / at.elapsed:.2f}/s"
    name = Text(name_device(clean(device.device)))
    return name, _bar(share or 0, 100, "magenta"), words, str(device.cases), rate


def _machine(sample: dict[str, Any]) -> Iterator[Text]:
    if "cpu_percent" in sample:
        gibibytes = sample["resident_mib"] / 1024
        busy = sample["cpu_percent"] / 100
        yield Text(f"{busy:.1f} cores busy, {gibibytes:.1f} GiB of memory", style="dim")
    for gpu in sample.get("gpus", ()):
        yield _gpu(gpu)


UNITS = {
    "utilisation_percent": "utilisation {:.0f} %",
    "power_w": "{:.0f} W",
    "temperature_c": "{:.0f} °C",
    "clock_mhz": "{:.0f} MHz",
    "memory_mib": "{:.0f} MiB of memory",
}


def _gpu(gpu: dict[str, Any]) -> Text:
    values = (words.format(gpu[name]) for name, words in UNITS.items() if name in gpu)
    slowed = gpu.get("slowed", ())
    line = Text(f"GPU {gpu['index']}: {', '.join(values)}", style="dim")
    return line.append(f", slowed by {clean(', '.join(slowed))}", "yellow") if slowed else line
