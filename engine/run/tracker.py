"""Keeps count of a run: cases by status, incidents, stage times, and the progress to show."""

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import click

from mcdiff_batch.engine.errors import Exit, McdiffError
from mcdiff_batch.engine.files import append_json, replace_text
from mcdiff_batch.engine.model.plan import Device
from mcdiff_batch.engine.output import ledger, locks
from mcdiff_batch.engine.output.ledger import DONE, FAILED, OPEN, Incident
from mcdiff_batch.engine.output.units import Part
from mcdiff_batch.engine.telemetry.hosts import UsageSums, write_usage
from mcdiff_batch.engine.telemetry.numbers import parse_count, parse_number
from mcdiff_batch.engine.telemetry.sampling import Telemetry, parse_sample
from mcdiff_batch.engine.telemetry.spans import MODEL, WAITS
from mcdiff_batch.engine.telemetry.timesheet import STATS, TIMINGS, summarise_spans
from mcdiff_batch.engine.telemetry.tracefile import TraceLog
from mcdiff_batch.engine.text import clean, make_printable, name_device, natural_order, pluralise

from .protocol import REFUSED, Sample, UnitDone

LIVE = "report/live.json"
LIVE_PERIOD = 1.0  # s
MOST_DEVICES = 32  # of parts, that are shown


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
    state: str = "running"  # at the end: "complete", "failures" (of cases) or "stopped"
    exit_code: int | None = None  # at the end
    devices: tuple[DeviceProgress, ...] = ()
    machine: dict[str, Any] = field(default_factory=dict)  # the last sample of telemetry
    archive_cases: int | None = None  # selected or not; None: not known
    not_selected: int = 0  # cases of the archive that are not part of the output

    @property
    def handled(self) -> int:
        return self.done + self.failed + self.computed

    @property
    def enhanced(self) -> int:
        """Committed or about to be; never a case that failed."""
        return self.done + self.computed

    @property
    def trouble(self) -> str:
        """Such as "2 failed, 1 incident"; empty if there is none."""
        counts = {"failed": self.failed, "open": self.open}
        parts = [f"{number} {name}" for name, number in counts.items() if number]
        if self.incidents:
            parts.append(pluralise(self.incidents, "incident"))
        return ", ".join(parts)

    @property
    def idle(self) -> bool:
        """Whether this run found all of its cases done."""
        return bool(self.cases) and self.handled == self.cases and not self.rate

    @property
    def summary(self) -> str:
        """Such as "12 of 40 cases enhanced, 1 failed"."""
        head = f"{self.enhanced} of {self.cases} cases enhanced"
        return f"{head}, {self.trouble}" if self.trouble else head

    @property
    def eta(self) -> float:
        """Seconds that are left; NaN while the rate is unknown."""
        return (self.cases - self.handled) / self.rate if self.rate else float("nan")


def print_warning(text: str) -> None:
    click.echo(make_printable(f"warning: {text}"), err=True)


class Tracker:
    """The parent's record of a run.  Its memory does not grow with the number of cases (P8)."""

    def __init__(
        self,
        root: Path,
        cases: int,
        counts: dict[str, int],
        max_failures: int | None,
        progress: Callable[[Progress], None],
        warn: Callable[[str], None] = print_warning,
        archive_cases: int | None = None,
        not_selected: int = 0,
    ) -> None:
        self.archive_cases, self.not_selected = archive_cases, not_selected
        self.root, self.cases, self.progress, self.warn = root, cases, progress, warn
        self.counts, self.before = dict(counts), dict(counts)
        self.max_failures = max_failures
        self.start = time.monotonic()
        self.began = round(time.time(), 3)  # marks the lines of this run; for display only (P12)
        self.trace = TraceLog(root)
        self.incidents = self.units = 0
        self.usage: dict[str, UsageSums] = {}  # by device, of hosts of a cluster
        self.stop: Callable[[], None] = lambda: None
        self.telemetry: Telemetry | None = None
        self.model: dict[str, Counter[str]] = {}  # device -> stage of its model's lane -> s
        self.finished: Counter[str] = Counter()  # cases by device
        self.published = -math.inf  # s: when progress was last written to LIVE
        self.lost = False  # something of the report could not be written
        self.exit_code = Exit.UNEXPECTED  # of the run, once it has ended
        self.whole = False  # likewise: all that it should do is done

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.start

    def _gained(self, *statuses: str) -> int:
        return sum(self.counts[x] - self.before[x] for x in statuses)

    def record_unit(self, device: Device, message: UnitDone) -> None:
        self.units += 1
        for status, count in message.counts.items():
            self.counts[status] += count
        for incident in message.incidents:
            self.record_incident(incident)
        with self._telling():
            self._log(device, message)
        if self.max_failures is not None and self._gained(FAILED) > self.max_failures:
            self.stop()

    def record_sample(self, device: Device, sample: Sample) -> None:
        self.usage.setdefault(str(device), UsageSums()).add(sample.figures)

    def record_incident(self, incident: Incident) -> None:
        """The ledger says what the next run has to do; this is for people, so it may be lost."""
        self.incidents += 1
        if incident.kind == REFUSED:
            self.warn(f"{name_device(incident.device)}: {incident.detail}")
        with self._telling(f"incident: {incident.kind}, {incident.detail}"):
            ledger.append_incident(self.root, incident)

    @contextmanager
    def _telling(self, instead: str = "") -> Iterator[None]:
        """A record for people that cannot be written does not end the run: it is said on stderr."""
        try:
            yield
        except (OSError, McdiffError) as error:
            if not self.lost:
                self.warn(f"{error}; the run goes on, but its report will lack something")
            self.lost = True
            if instead:
                click.echo(clean(instead), err=True)

    def tick(self, computed: Mapping[str, int]) -> None:
        at = self._progress(computed)
        self.progress(at)
        if self.elapsed - self.published >= LIVE_PERIOD:
            self._publish(at)

    def _progress(self, computed: Mapping[str, int]) -> Progress:
        ahead, elapsed = sum(computed.values()), self.elapsed
        return Progress(
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
            archive_cases=self.archive_cases,
            not_selected=self.not_selected,
        )

    def _devices(self, computed: Mapping[str, int]) -> Iterator[DeviceProgress]:
        for name in sorted({*computed, *self.finished}, key=natural_order):
            spent = self.model.get(name, Counter())
            whole, waits = sum(spent.values()), sum(spent[x] for x in WAITS)
            yield DeviceProgress(
                device=name,
                cases=self.finished[name] + computed.get(name, 0),
                working=round(100 * (1 - waits / whole), 1) if whole else None,
            )

    def _publish(self, at: Progress) -> None:
        """Writes progress for `status --watch`; a reader may find half a file."""
        self.published = self.elapsed
        with suppress(OSError):  # for display only
            (self.root / LIVE).write_text(json.dumps(asdict(at)))

    def _log(self, device: Device, message: UnitDone) -> None:
        """Adds a unit's line to the timings and its spans to the trace, for the report only."""
        head = {"began": self.began, "device": str(device), "unit": message.unit}
        head |= {"at": round(self.elapsed, 3), "counts": message.counts}
        sheet = summarise_spans(message.log.spans, self.start)
        self.model.setdefault(str(device), Counter()).update(sheet["lanes"].get(MODEL, {}))
        self.finished[str(device)] += message.counts[DONE]
        append_json(self.root / TIMINGS, head | sheet)
        self.trace.add(head, message.log, self.start)

    def close(self) -> None:
        """Shows the end, and adds this run to the list of those that worked on the output."""
        ended = self.exit_code in (Exit.DONE, Exit.FAILED_CASES)
        failures = "failures" if self.exit_code else "complete"
        state = failures if ended and self.whole else "stopped"
        at = replace(self._progress({}), state=state, exit_code=int(self.exit_code))
        self.progress(at)
        self._publish(at)
        with suppress(OSError):  # for display only
            write_usage(self.root, self.began, self.usage)
        self._add_stats("COMPLETED" if ended else self.exit_code.name)

    def _add_stats(self, ended: str) -> None:
        path, earlier = self.root / STATS, []
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):  # none, or damaged
            earlier = list(json.loads(path.read_bytes())["runs"])
        with suppress(OSError):  # for display only, and the disk may be full
            document = {"runs": [*earlier, self._stats(ended)]}
            replace_text(path, json.dumps(document, indent=1) + "\n")

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
    """Progress of the run that works in `root`, or of its parts that are at work, together; None if
    there is none to read at this moment."""
    living = locks.find_living(root)
    if not living:
        return _read_progress(root)
    found = {x: _read_progress(locks.part_folder(root, x)) for x in living}
    return _add([(part, at) for part, at in found.items() if at is not None])


def _add(parts: Sequence[tuple[Part, Progress]]) -> Progress | None:
    if not parts:
        return None
    total = lambda name: sum(getattr(at, name) for _, at in parts)
    counts = ("cases", "done", "failed", "open", "computed", "incidents", "rate")
    devices = [
        replace(x, device=f"part{part.number}/{x.device}") for part, at in parts for x in at.devices
    ]
    return Progress(
        **{name: total(name) for name in counts},
        elapsed=max(at.elapsed for _, at in parts),
        devices=tuple(devices[:MOST_DEVICES]),
        archive_cases=parts[0][1].archive_cases,
        not_selected=parts[0][1].not_selected,
    )


def _read_progress(root: Path) -> Progress | None:
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raw = json.loads((root / LIVE).read_bytes())
        counts = ("cases", "done", "failed", "open", "computed", "incidents")
        total = raw.get("archive_cases")
        return Progress(
            **{name: parse_count(raw[name]) for name in counts},
            rate=parse_number(raw["rate"]),
            elapsed=parse_number(raw["elapsed"]),
            state=clean(raw["state"]),
            exit_code=None if raw["exit_code"] is None else parse_count(raw["exit_code"]),
            devices=tuple(_parse_device(x) for x in raw["devices"]),
            machine=parse_sample(raw["machine"]) if raw["machine"] else {},
            archive_cases=None if total is None else parse_count(total),
            not_selected=parse_count(raw.get("not_selected", 0)),
        )
    return None


def _parse_device(raw: dict[str, Any]) -> DeviceProgress:
    share = raw["working"]
    working = None if share is None else parse_number(share)
    return DeviceProgress(
        device=clean(raw["device"]), cases=parse_count(raw["cases"]), working=working
    )
