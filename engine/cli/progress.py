"""How far a run is: a live table on a terminal, else a line now and then, or JSON for machines."""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict

import click

from mcdiff_batch.engine.run.tracker import Progress
from mcdiff_batch.engine.text import lasting

EVERY = 30.0  # s between lines
EVERY_JSON = 5.0
WAYS = ("auto", "json")


@contextmanager
def shown(way: str = "auto") -> Iterator[Callable[[Progress], None]]:
    """Gives what is to be called with every Progress; all of it goes to stderr."""
    from rich.console import Console

    console = Console(stderr=True)
    if way == "json" or not console.is_terminal:
        yield Json() if way == "json" else Lines()
        return
    from rich.live import Live

    from .live import board

    with Live(board(None), console=console, refresh_per_second=4) as live:
        yield lambda at: live.update(board(at))


class Lines:
    """The first line when there is something to say, then one every 30 s."""

    def __init__(self) -> None:
        self.last = -math.inf

    def __call__(self, at: Progress) -> None:
        if at.rate and time.monotonic() - self.last >= EVERY:
            self.last = time.monotonic()
            click.echo(said(at), err=True)


class Json:
    """An object a line, every 5 s; the fields of Progress, and `handled` and `eta` (s, or null)."""

    def __init__(self) -> None:
        self.last = -math.inf

    def __call__(self, at: Progress) -> None:
        if time.monotonic() - self.last >= EVERY_JSON:
            self.last = time.monotonic()
            eta = round(at.eta, 1) if math.isfinite(at.eta) else None
            told = asdict(at) | {"rate": round(at.rate, 4), "handled": at.handled, "eta": eta}
            click.echo(json.dumps(told), err=True)


def said(at: Progress) -> str:
    return f"{at.counted}, {at.rate:.2f}/s, {lasting(at.eta)} left"
