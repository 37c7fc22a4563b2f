"""Shows how far a run is: a live table on a terminal, otherwise lines of text or JSON."""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict

import click

from mcdiff_batch.engine.run.tracker import Progress
from mcdiff_batch.engine.text import format_duration

EVERY = 30.0  # s between lines
EVERY_JSON = 5.0


@contextmanager
def show_progress(way: str = "auto") -> Iterator[Callable[[Progress], None]]:
    """Yields a function to call with every Progress.  Writes to stderr.

    way: "auto" (a table on a terminal, else lines) or "json".
    """
    from rich.console import Console

    console = Console(stderr=True)
    if way == "json" or not console.is_terminal:
        yield Json() if way == "json" else Lines()
        return
    from rich.live import Live

    from .live import table

    with Live(table(None), console=console, refresh_per_second=4) as live:
        yield lambda at: live.update(table(at))


class Lines:
    """Prints a line every 30 s, the first as soon as there is a rate."""

    def __init__(self) -> None:
        self.last = -math.inf

    def __call__(self, at: Progress) -> None:
        if at.rate and time.monotonic() - self.last >= EVERY:
            self.last = time.monotonic()
            click.echo(f"{at.summary}, {at.rate:.2f}/s, {format_duration(at.eta)} left", err=True)


class Json:
    """Prints a JSON object every 5 s: the fields of Progress, `handled`, and `eta` in s or null."""

    def __init__(self) -> None:
        self.last = -math.inf

    def __call__(self, at: Progress) -> None:
        if time.monotonic() - self.last >= EVERY_JSON:
            self.last = time.monotonic()
            eta = round(at.eta, 1) if math.isfinite(at.eta) else None
            fields = asdict(at) | {"rate": round(at.rate, 4), "handled": at.handled, "eta": eta}
            click.echo(json.dumps(fields), err=True)
