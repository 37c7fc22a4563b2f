"""Counts, incidents and stage times of a run, as its workers tell them."""

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mcdiff_batch.engine.model.plan import Device
from mcdiff_batch.engine.output import durable, ledger
from mcdiff_batch.engine.output.ledger import DONE, FAILED, OPEN, Incident
from mcdiff_batch.engine.telemetry.sampling import Telemetry, checked
from mcdiff_batch.engine.telemetry.spans import MODEL, WAITS
from mcdiff_batch.engine.telemetry.timesheet import STATS, TIMINGS, told
from mcdiff_batch.engine.telemetry.tracefile import TraceLog
from mcdiff_batch.engine.text import clean

from .messages import UnitDone

LIVE = "report/live.json"
SHARED_EVERY = 1.0  # s


@dataclass(frozen=True, slots=True, kw_only=True)
class AtWork:
    """A device in this run."""

    device: str
    cases: int  # computed
    working: float | None  # % of its time, by the units it has finished; None before the first


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    cases: int  # selected
    done: int  # committed, by this run and before
    failed: int
    open: int
    computed: int  # beyond these, not yet committed
    rate: float  # cases/s of this run
    incidents: int
    elapsed: float  # s
    devices: tuple[AtWork, ...] = ()
    machine: dict[str, Any] = field(default_factory=dict)  # the last sample of telemetry

    @property
    def handled(self) -> int:
        return self.done + self.failed + self.computed

    @property
    def counted(self) -> str:
        """12 of 40 cases, 1 failed."""
        bad = f", {self.failed} failed" if self.failed else ""
        odd = f", {self.incidents} incidents" if self.incidents else ""
        return f"{self.handled} of {self.cases} cases{bad}{odd}"

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
        self.model: dict[str, Counter[str]] = {}  # device -> stage of its model's lane -> s
        self.finished: Counter[str] = Counter()  # cases by device
        self.shared = -math.inf

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

    def tick(self, computed: Mapping[str, int]) -> None:
        ahead, elapsed = sum(computed.values()), self.elapsed
        at = Progress(
            cases=self.cases,
            done=self.counts[DONE],
            failed=self.counts[FAILED],
            open=self.counts[OPEN],
            computed=ahead,
            rate=(self._gained(DONE, FAILED) + ahead) / max(elapsed, 1e-9),
            incidents=self.incidents,
            elapsed=round(elapsed, 1),
            devices=tuple(self._devices(computed)),
            machine=self.telemetry.latest if self.telemetry else {},
        )
        self.progress(at)
        self._share(at)

    def _devices(self, computed: Mapping[str, int]) -> Iterator[AtWork]:
        for name in sorted({*computed, *self.finished}):
            spent = self.model.get(name, Counter())
            whole, waits = sum(spent.values()), sum(spent[x] for x in WAITS)
            yield AtWork(
                device=name,
                cases=self.finished[name] + computed.get(name, 0),
                working=round(100 * (1 - waits / whole), 1) if whole else None,
            )

    def _share(self, at: Progress) -> None:
        """For `status --watch`, now and then; in place, so that a reader may find it torn."""
        if self.elapsed - self.shared >= SHARED_EVERY:
            self.shared = self.elapsed
            with suppress(OSError):  # for display only
                (self.root / LIVE).write_text(json.dumps(asdict(at)))

    def _log(self, device: Device, message: UnitDone) -> None:
        """One line a unit, for the report; no part of the result."""
        head = {"began": self.began, "device": str(device), "unit": message.unit}
        head |= {"at": round(self.elapsed, 3), "counts": message.counts}
        with durable.writing(self.root):
            sheet = told(message.notes.spans, self.start)
            with (self.root / TIMINGS).open("a") as file:
                file.write(json.dumps(head | sheet) + "\n")
            self.trace.add(head, message.notes, self.start)
        self.model.setdefault(str(device), Counter()).update(sheet["lanes"].get(MODEL, {}))
        self.finished[str(device)] += message.counts[DONE] + message.counts[FAILED]

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


def shared(root: Path) -> Progress | None:
    """How far the run that works there has come; None where it has not said."""
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        raw = json.loads((root / LIVE).read_bytes())
        counts = ("cases", "done", "failed", "open", "computed", "incidents")
        return Progress(
            **{name: int(raw[name]) for name in counts},
            rate=float(raw["rate"]),
            elapsed=float(raw["elapsed"]),
            devices=tuple(_at_work(x) for x in raw["devices"]),
            machine=checked(raw["machine"]) if raw["machine"] else {},
        )
    return None


def _at_work(raw: dict[str, Any]) -> AtWork:
    share = raw["working"]
    known = None if share is None else float(share)
    return AtWork(device=clean(raw["device"]), cases=int(raw["cases"]), working=known)
