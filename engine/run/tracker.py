"""Keeps count of a run: cases by status, incidents, stage times, and the progress to show."""

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
from mcdiff_batch.engine.telemetry.sampling import Telemetry, parse_sample
from mcdiff_batch.engine.telemetry.spans import MODEL, WAITS
from mcdiff_batch.engine.telemetry.timesheet import STATS, TIMINGS, summarise_spans
from mcdiff_batch.engine.telemetry.tracefile import TraceLog
from mcdiff_batch.engine.text import clean

from .protocol import UnitDone

LIVE = "report/live.json"
LIVE_PERIOD = 1.0  # s


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProgress:
    """What one device has done in this run."""

    device: str
    cases: int  # computed
    working: float | None  # % of its time, over its finished units; None before the first


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is.  `--progress json` prints these fields, so their names stay."""

    cases: int  # selected
    done: int  # committed, by this run and earlier ones
    failed: int
    open: int
    computed: int  # not yet committed, in none of the counts above
    rate: float  # cases/s of this run
    incidents: int
    elapsed: float  # s
    devices: tuple[DeviceProgress, ...] = ()
    machine: dict[str, Any] = field(default_factory=dict)  # the last sample of telemetry

    @property
    def handled(self) -> int:
        return self.done + self.failed + self.computed

    @property
    def summary(self) -> str:
        """Such as "12 of 40 cases, 1 failed"."""
        bad = f", {self.failed} failed" if self.failed else ""
        odd = f", {self.incidents} incidents" if self.incidents else ""
        return f"{self.handled} of {self.cases} cases{bad}{odd}"

    @property
    def eta(self) -> float:
        """Seconds that are left; NaN while the rate is unknown."""
        return (self.cases - self.handled) / self.rate if self.rate else float("nan")


class Tracker:
    """The parent's record of a run.  Its memory does not grow with the number of cases (P8)."""

    def __init__(
        self,
        root: Path,
        cases: int,
        counts: dict[str, int],
        max_failures: int | None,
        progress: Callable[[Progress], None],
    ) -> None:
        self.root, self.cases, self.progress = root, cases, progress
        self.counts, self.before = dict(counts), dict(counts)
        self.max_failures = max_failures
        self.start = time.monotonic()
        self.began = round(time.time(), 3)  # marks the lines of this run; for display only (P12)
        self.trace = TraceLog(root)
        self.incidents = self.units = 0
        self.stop: Callable[[], None] = lambda: None
        self.telemetry: Telemetry | None = None
        self.model: dict[str, Counter[str]] = {}  # device -> stage of its model's lane -> s
        self.finished: Counter[str] = Counter()  # cases by device
        self.published = -math.inf  # s: when progress was last written to LIVE

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.start

    def _gained(self, *statuses: str) -> int:
        return sum(self.counts[x] - self.before[x] for x in statuses)

    def record_unit(self, device: Device, message: UnitDone) -> None:
        """Raises SpaceError, McdiffError."""
        self.units += 1
        for status, count in message.counts.items():
            self.counts[status] += count
        for incident in message.incidents:
            self.record_incident(incident)
        self._log(device, message)
        if self.max_failures is not None and self._gained(FAILED) > self.max_failures:
            self.stop()

    def record_incident(self, incident: Incident) -> None:
        """Raises SpaceError, McdiffError."""
        self.incidents += 1
        ledger.append_incident(self.root, incident)

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
        self._publish(at)

    def _devices(self, computed: Mapping[str, int]) -> Iterator[DeviceProgress]:
        for name in sorted({*computed, *self.finished}):
            spent = self.model.get(name, Counter())
            whole, waits = sum(spent.values()), sum(spent[x] for x in WAITS)
            yield DeviceProgress(
                device=name,
                cases=self.finished[name] + computed.get(name, 0),
                working=round(100 * (1 - waits / whole), 1) if whole else None,
            )

    def _publish(self, at: Progress) -> None:
        """Writes progress for `status --watch`, now and then; a reader may find half a file."""
        if self.elapsed - self.published >= LIVE_PERIOD:
            self.published = self.elapsed
            with suppress(OSError):  # for display only
                (self.root / LIVE).write_text(json.dumps(asdict(at)))

    def _log(self, device: Device, message: UnitDone) -> None:
        """Adds a unit's line to the timings and its spans to the trace, for the report only."""
        head = {"began": self.began, "device": str(device), "unit": message.unit}
        head |= {"at": round(self.elapsed, 3), "counts": message.counts}
        with durable.explain_errors(self.root):
            sheet = summarise_spans(message.log.spans, self.start)
            with (self.root / TIMINGS).open("a") as file:
                file.write(json.dumps(head | sheet) + "\n")
            self.trace.add(head, message.log, self.start)
        self.model.setdefault(str(device), Counter()).update(sheet["lanes"].get(MODEL, {}))
        self.finished[str(device)] += message.counts[DONE] + message.counts[FAILED]

    def close(self, ended: str) -> None:
        """Adds this run to the list of the runs that worked on the output."""
        path = self.root / STATS
        with suppress(OSError, ValueError):  # for display only, and the disk may be full
            earlier = json.loads(path.read_bytes())["runs"] if path.is_file() else []
            path.write_text(json.dumps({"runs": [*earlier, self._stats(ended)]}, indent=1) + "\n")

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


def read_progress(root: Path) -> Progress | None:
    """Progress of the run that works in `root`; None if there is none to read at this moment."""
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        raw = json.loads((root / LIVE).read_bytes())
        counts = ("cases", "done", "failed", "open", "computed", "incidents")
        return Progress(
            **{name: int(raw[name]) for name in counts},
            rate=float(raw["rate"]),
            elapsed=float(raw["elapsed"]),
            devices=tuple(_parse_device(x) for x in raw["devices"]),
            machine=parse_sample(raw["machine"]) if raw["machine"] else {},
        )
    return None


def _parse_device(raw: dict[str, Any]) -> DeviceProgress:
    share = raw["working"]
    working = None if share is None else float(share)
    return DeviceProgress(device=clean(raw["device"]), cases=int(raw["cases"]), working=working)
