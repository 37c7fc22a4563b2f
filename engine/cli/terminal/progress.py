"""Shows how far a run is: a live table on a terminal, otherwise lines of text or JSON.

Each way ends with the end state, however the run ended; so do the metrics for Prometheus.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcdiff_batch.engine.errors import Exit, explain, explain_any
from mcdiff_batch.engine.run.tracker import Progress
from mcdiff_batch.engine.telemetry.metrics import EXIT, MetricsFile, Value
from mcdiff_batch.engine.text import clean, format_duration

from .outcome import describe_scope

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

Show = Callable[[Progress], None]
EVERY = 30.0  # s between lines
EVERY_JSON = 5.0
EVERY_METRICS = 5.0


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
            how = ", all before this run" if at.idle else f" in {format_duration(at.elapsed)}"
            scope = describe_scope(at.archive_cases, at.not_selected, advice="")
            end = f"{at.state}: {at.summary}{how}"
            click.echo(f"{end} ({scope})" if scope else end, err=True)
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
        text = clean(explain_any(error))
        if show.end is None or show.end["exit_code"] != code:
            show.end = (show.end or {"state": "stopped"}) | {"exit_code": code, "error": text}
        raise
    finally:
        if show.end is not None:
            show.write(show.end)


def _exit_code(error: BaseException) -> int:
    return int(
        Exit.DRAINED if isinstance(error, KeyboardInterrupt) else explain_any(error).exit_code
    )


class Metrics:
    """Passes every Progress on, and writes a file of metrics every 5 s."""

    output: Path | None = None  # of the run, once it is known
    at: Progress | None = None

    def __init__(self, file: MetricsFile | None, show: Show, warn: Callable[[str], None]) -> None:
        """file: None for no metrics.  warn: tells of a place that is lost during the run."""
        self.file, self.show, self.warn = file, show, warn
        self.began, self.start = round(time.time(), 3), time.monotonic()
        self.last = -math.inf
        self.lost = False

    def __call__(self, at: Progress) -> None:
        self.at = at
        if at.exit_code is None and time.monotonic() - self.last >= EVERY_METRICS:
            self.try_to_write({})
        self.show(at)

    def write(self, also: dict[str, Value]) -> None:
        """Raises OSError."""
        if self.file is None:
            return
        values: dict[str, Value] = {
            "run_active": 1,
            "run_start_timestamp_seconds": self.began,
            "run_duration_seconds": round(time.monotonic() - self.start, 3),
        }
        self.last = time.monotonic()
        self.file.write(values | (_measure(self.at) if self.at else {}) | also)

    def try_to_write(self, also: dict[str, Value]) -> None:
        """A place that is lost during the run does not end it."""
        try:
            self.write(also)
        except OSError as error:
            if not self.lost:
                text = f"--metrics cannot be written now ({error.strerror}); the run goes on, and"
                self.warn(f"{text} tries again every few seconds")
            self.lost = True

    def end(self, code: int) -> None:
        values: dict[str, Value] = {"run_active": 0, EXIT: code}
        if self.file and self.output and self.at:
            from mcdiff_batch.engine.output.ledger import read_heads

            with suppress(OSError):
                values["run_flagged_cases"] = sum(x.flagged for x in read_heads(self.output))
        self.try_to_write(values)


def _measure(at: Progress) -> dict[str, Value]:
    counts = {"done": at.done, "failed": at.failed, "open": at.open}
    return {
        "run_selected_cases": at.cases,
        "run_cases": counts | {"left": max(0, at.cases - sum(counts.values()))},
        "run_incidents": at.incidents,
        "run_cases_per_second": round(at.rate, 4),
    }


@contextmanager
def keep_metrics(path: Path | None, show: Show, warn: Callable[[str], None]) -> Iterator[Metrics]:
    """Writes metrics to `path` until the end of the block, however it ends.

    Raises UsageError, SpaceError, McdiffError before the block where `path` cannot be written.
    """
    metrics = Metrics(_open_metrics(path) if path else None, show, warn)
    try:
        metrics.write({})
    except OSError as error:
        raise explain(error, path) from error
    try:
        yield metrics
    except BaseException as error:
        metrics.end(_exit_code(error))
        raise
    metrics.end(int(metrics.at.exit_code or 0) if metrics.at else int(Exit.DONE))


def _open_metrics(path: Path) -> MetricsFile:
    from mcdiff_batch.engine.output.places import check_outside

    check_outside(path, "choose another place for --metrics")
    return MetricsFile(path)
