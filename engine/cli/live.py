"""The live table of a run, for a terminal."""

from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mcdiff_batch.engine.run.tracker import AtWork, Progress
from mcdiff_batch.engine.text import clean, lasting

BAR = 28  # characters
Row = tuple[RenderableType, ...]


def board(at: Progress | None) -> RenderableType:
    """None: nothing is known yet."""
    if at is None or not at.elapsed:
        return Text("starting")
    table = Table.grid(padding=(0, 2))
    rate = f"{at.rate:.2f}/s" if at.rate < 10 else f"{at.rate:.0f}/s"
    table.add_row("all", _bar(at.handled, at.cases), Text(at.counted), rate, _left(at))
    for device in at.devices:
        table.add_row(*_device(device, at))
    return Group(table, *_machine(at.machine))


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
        return f"{lasting(at.eta)} left"
    return f"loading, {lasting(at.elapsed)}"


def _device(found: AtWork, at: Progress) -> Row:
    """The bar is the share of the device's time that it works."""
    share = found.working
    words = "first unit" if share is None else f"works {share:.0f} % of the time"
    rate = f"{found.cases / at.elapsed:.2f}/s"
    return Text(clean(found.device)), _bar(share or 0, 100), f"{found.cases} done", rate, words


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
    told = (words.format(gpu[name]) for name, words in UNITS.items() if name in gpu)
    slowed = gpu.get("slowed", ())
    line = Text(f"GPU {gpu['index']}: {', '.join(told)}", style="dim")
    return line.append(f", slowed by {clean(', '.join(slowed))}", "yellow") if slowed else line
