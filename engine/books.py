"""Counts, incidents and stage times of a run, as its workers tell them."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import durable, ledger
from .ledger import DONE, FAILED, OPEN, Incident
from .plan import Device
from .task import UnitDone
from .telemetry import Telemetry
from .timesheet import told
from .tracefile import TraceLog

TIMINGS = "report/timings.jsonl"
STATS = "report/run_stats.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    cases: int  # selected
    done: int  # committed, by this run and before
    failed: int
    open: int
    computed: int  # beyond these, not yet committed
    rate: float  # cases/s of this run
    incidents: int

    @property
    def handled(self) -> int:
        return self.done + self.failed + self.computed

    @property
    def eta(self) -> float:
        """Seconds to go; NaN before there is a rate."""
        return (self.cases - self.handled) / self.rate if self.rate else float("nan")


class Books:
    """Kept by the parent; memory does not grow with the number of cases (P8)."""

    def __init__(
        self,
        root: Path,
        cases: int,
        counts: dict[str, int],
        max_failures: int | None,
        progress: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        self.root, self.cases, self.progress = root, cases, progress
        self.counts, self.before = dict(counts), dict(counts)
        self.max_failures = max_failures
        self.start = time.monotonic()
        self.began = round(time.time(), 3)  # names this run's lines; for display only (P12)
        self.trace = TraceLog(root)
        self.incidents = self.units = 0
        self.stop: Callable[[], None] = lambda: None
        self.telemetry: Telemetry | None = None

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.start

    def _gained(self, *statuses: str) -> int:
        return sum(self.counts[x] - self.before[x] for x in statuses)

    def done(self, device: Device, message: UnitDone) -> None:
        """Raises SpaceError, McdiffError."""
        self.units += 1
        for status, count in message.counts.items():
            self.counts[status] += count
        for incident in message.incidents:
            self.incident(incident)
        self._log(device, message)
        if self.max_failures is not None and self._gained(FAILED) > self.max_failures:
            self.stop()

    def incident(self, incident: Incident) -> None:
        """Raises SpaceError, McdiffError."""
        self.incidents += 1
        ledger.report(self.root, incident)

    def tick(self, computed: int) -> None:
        self.progress(
            Progress(
                cases=self.cases,
                done=self.counts[DONE],
                failed=self.counts[FAILED],
                open=self.counts[OPEN],
                computed=computed,
                rate=(self._gained(DONE, FAILED) + computed) / max(self.elapsed, 1e-9),
                incidents=self.incidents,
            )
        )

    def _log(self, device: Device, message: UnitDone) -> None:
        """One line a unit, for the report; no part of the result."""
        head = {"began": self.began, "device": str(device), "unit": message.unit}
        head |= {"at": round(self.elapsed, 3), "counts": message.counts}
        with durable.writing(self.root):
            with (self.root / TIMINGS).open("a") as file:
                line = head | told(message.notes.spans, self.start)
                file.write(json.dumps(line) + "\n")
            self.trace.add(head, message.notes, self.start)

    def close(self, ended: str) -> None:
        """Adds this run to those that worked on the output before."""
        path = self.root / STATS
        with suppress(OSError, ValueError):  # for display only, and the disk may be full
            known = json.loads(path.read_bytes())["runs"] if path.is_file() else []
            path.write_text(json.dumps({"runs": [*known, self._stats(ended)]}, indent=1) + "\n")

    def _stats(self, ended: str) -> dict[str, Any]:
        return {
            "began": self.began,
            "ended": ended,
            "finished_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "seconds": round(self.elapsed, 3),
            "units": self.units,
            "cases": self._gained(DONE, FAILED),
            "incidents": self.incidents,
        }
