"""How far a run is: a bar on a terminal, else a line now and then."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from .books import Progress

EVERY = 30.0  # s between lines


@contextmanager
def shown() -> Iterator[Callable[[Progress], None]]:
    """Gives what is to be called with every Progress; all of it goes to stderr."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines()
        return
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    with Bars(BarColumn(), TextColumn("{task.description}"), console=console) as bars:
        bar = bars.add_task("starting")
        yield lambda at: bars.update(
            bar, total=at.cases, completed=at.handled, description=said(at)
        )


class Lines:
    """The first line when there is something to say, then one every 30 s."""

    def __init__(self) -> None:
        self.last = -math.inf

    def __call__(self, at: Progress) -> None:
        if at.rate and time.monotonic() - self.last >= EVERY:
            self.last = time.monotonic()
            click.echo(said(at), err=True)


def said(at: Progress) -> str:
    bad = f", {at.failed} failed" if at.failed else ""
    odd = f", {at.incidents} incidents" if at.incidents else ""
    return f"{at.handled} of {at.cases} cases{bad}{odd}, {at.rate:.2f}/s, {lasting(at.eta)} left"


def lasting(seconds: float) -> str:
    """3h05, 12 min, 40 s."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60}h{minutes % 60:02d}"
