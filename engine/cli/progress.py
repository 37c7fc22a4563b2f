"""Shows how far a run is: a live table on a terminal, otherwise lines of text or JSON.

Each way ends with the end state, however the run ended.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from mcdiff_batch.engine.errors import Exit, McdiffError
from mcdiff_batch.engine.run.tracker import Progress
from mcdiff_batch.engine.text import clean, format_duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

Show = Callable[[Progress], None]
EVERY = 30.0  # s between lines
EVERY_JSON = 5.0


@contextmanager
def show_progress(way: str = "auto", *, watch: bool = False) -> Iterator[Show]:
    """Yields a function to call with every Progress.  Writes to stderr.

    way: "auto" (a table on a terminal, else lines) or "json".  watch: the run is that of another
    process, so how this block ends says nothing of it.
    """
    if way == "json" and watch:
        yield Json()
        return
    if way == "json":
        with _json_to_the_end() as show:
            yield show
        return
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines()
        return
    with ExitStack() as stack:
        yield Table(console, stack)


class Table:
    """Draws a live table, from the first Progress until the stack is closed."""

    def __init__(self, console: "Console", stack: ExitStack) -> None:
        self.console, self.stack = console, stack
        self.live: Live | None = None

    def __call__(self, at: Progress) -> None:
        from rich.live import Live

        from .live import table

        if self.live is None:
            live = Live(console=self.console, refresh_per_second=4)
            self.live = self.stack.enter_context(live)
        self.live.update(table(at))
        if at.exit_code is not None:
            self.stack.close()


class Lines:
    """Prints a line every 30 s, the first as soon as there is a rate, and one at the end."""

    def __init__(self) -> None:
        self.last = -math.inf

    def __call__(self, at: Progress) -> None:
        if at.exit_code is not None:
            click.echo(f"{at.state}: {at.summary} in {format_duration(at.elapsed)}", err=True)
        elif at.rate and time.monotonic() - self.last >= EVERY:
            self.last = time.monotonic()
            click.echo(f"{at.summary}, {at.rate:.2f}/s, {format_duration(at.eta)} left", err=True)


class Json:
    """Prints a JSON object every 5 s: the fields of Progress, `handled`, and `eta` in s or null.

    The last one has another `state` than "running", and an `exit_code`.
    """

    def __init__(self) -> None:
        self.last = -math.inf

    def __call__(self, at: Progress) -> None:
        if at.exit_code is not None or time.monotonic() - self.last >= EVERY_JSON:
            self.last = time.monotonic()
            self.write(self.fields(at))

    def fields(self, at: Progress) -> dict[str, Any]:
        eta = round(at.eta, 1) if math.isfinite(at.eta) else None
        return asdict(at) | {"rate": round(at.rate, 4), "handled": at.handled, "eta": eta}

    def write(self, fields: dict[str, Any]) -> None:
        click.echo(json.dumps(fields), err=True)


class JsonOfRun(Json):
    """Keeps the last object back in `end`: what follows the work may have something to say too."""

    end: dict[str, Any] | None = None

    def __call__(self, at: Progress) -> None:
        if at.exit_code is None:
            super().__call__(at)
        else:
            self.end = self.fields(at)


@contextmanager
def _json_to_the_end() -> Iterator[JsonOfRun]:
    """A run that ends before it has begun has a last line too, with the error.

    The last line has the exit code of the process, also if that is decided after the work.
    """
    show = JsonOfRun()
    try:
        yield show
    except BaseException as error:
        code = _exit_code(error)
        text = clean(error) if isinstance(error, McdiffError) else type(error).__name__
        if show.end is None or show.end["exit_code"] != code:
            show.end = (show.end or {"state": "stopped"}) | {"exit_code": code, "error": text}
        raise
    finally:
        if show.end is not None:
            show.write(show.end)


def _exit_code(error: BaseException) -> int:
    if isinstance(error, McdiffError):
        return int(error.exit_code)
    return int(Exit.DRAINED if isinstance(error, KeyboardInterrupt) else Exit.UNEXPECTED)
