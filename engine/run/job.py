"""What is asked for, and what that comes to beside an archive and an output that may be begun."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcdiff_batch.engine.archive.archive import Archive, open_archive
from mcdiff_batch.engine.backends.devices import CPU
from mcdiff_batch.engine.errors import UsageError
from mcdiff_batch.engine.model import ladder
from mcdiff_batch.engine.model.contract import Contract
from mcdiff_batch.engine.model.framing import check_depths
from mcdiff_batch.engine.model.plan import Device
from mcdiff_batch.engine.model.solver import FITTED, Rung
from mcdiff_batch.engine.output import ledger, runs
from mcdiff_batch.engine.output.runs import Settings
from mcdiff_batch.engine.output.shards import Layout
from mcdiff_batch.engine.output.units import Selection, parse_selection

from .pool import Limits

UNIT_SIZE = 32  # cases
BATCH_SIZES = {"cpu": 4}  # cases, by device kind; dealt out to the cores
BATCH_SIZE = 8  # elsewhere
FACTS = ("plan", "device_kind", "bundle", "archive", "software")
CHOICES = ("batch_size", "unit_size", "seed", "draws", "temperature", "grid", "solver")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """None: as the output was begun, or else chosen for the user."""

    archive: Path
    output: Path
    contract: Contract
    bundle: str  # SHA-256 of contract.json
    devices: tuple[Device, ...]
    plan: str = CPU  # its kind
    plan_folder: Path | None = None  # of compiled plans, to be kept with the run
    plan_files: dict[str, str] | None = None  # SHA-256 of each; None: not known yet, or none
    batch_size: int | None = None
    unit_size: int | None = None
    solver: str | None = None
    steps: int | None = None
    seed: int | None = None
    draws: int | None = None
    temperature: float | None = None
    cases: str | None = None
    limit: int | None = None
    grid: str | None = None
    max_failures: int | None = None  # stop once more cases than this have failed
    retry_failed: bool = False
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    job: Job
    archive: Archive
    settings: Settings
    selection: Selection
    begun: bool  # an earlier run has left run.json

    @property
    def layout(self) -> Layout:
        return Layout(
            cases=self.archive.cases,
            unit_size=self.settings.unit_size,
            frame=self.job.contract.frame,
            grid=self.archive.grid if self.settings.grid == "input" else None,
            spread=self.settings.draws > 1,
        )

    @property
    def rungs(self) -> list[Rung]:
        return ladder.walk(self.job.contract, self.settings.solver, self.settings.ladder)


def resolve(job: Job) -> Resolved:
    """Reads the archive and the output's run.json; writes nothing.

    Raises ArchiveError, UsageError, FingerprintError.
    """
    archive = open_archive(job.archive)
    check_depths(archive, job.contract)
    stored = runs.load(job.output)
    automatic = _automatic(job, archive)
    wanted = _wanted(job, archive.cases, automatic, stored)
    settings = runs.settle(job.output, stored, wanted, automatic)
    _check_draws(settings)
    resolved = Resolved(
        job=job,
        archive=archive,
        settings=settings,
        selection=parse_selection(settings.cases, archive.cases),
        begun=stored is not None,
    )
    _ = resolved.rungs  # checks solver and ladder
    return resolved


def _automatic(job: Job, archive: Archive) -> Settings:
    kind, draws = job.devices[0].kind, job.draws or 1
    heat = temperature(job.contract, draws) if job.temperature is None else job.temperature
    solver, times = ladder.automatic(job.contract, heat, draws)
    return Settings(
        plan=job.plan,
        plan_files=job.plan_files or {},
        device_kind=kind,
        batch_size=BATCH_SIZES.get(kind, BATCH_SIZE),
        unit_size=UNIT_SIZE,
        solver=solver,
        ladder=times,
        seed=0,
        temperature=heat,
        draws=draws,
        bundle=job.bundle,
        archive=archive.identity,
        cases=str(Selection((range(archive.cases),))),
        grid="frame",
        software=runs.software(),
    )


def temperature(contract: Contract, draws: int) -> float:
    """The bundle's; where that is 0, several draws would be one and the same, so 1."""
    recommended = contract.sampler.temperature
    return 1.0 if draws > 1 and not recommended else recommended


def _check_draws(settings: Settings) -> None:
    if settings.draws > 1 and not settings.temperature:
        raise UsageError(
            f"--draws {settings.draws} --temperature 0: at temperature 0 there is no noise, so all "
            "draws are the same; leave out --temperature, or use --draws 1"
        )


def _wanted(
    job: Job, cases: int, automatic: Settings, stored: dict[str, Any] | None
) -> dict[str, Any]:
    """What the user asked for, and the facts; these have to agree with an earlier run."""
    asked = {name: getattr(job, name) for name in CHOICES if getattr(job, name) is not None}
    wanted = {name: getattr(automatic, name) for name in FACTS} | asked
    if job.plan_files is not None:
        wanted["plan_files"] = job.plan_files
    if job.solver is not None or job.steps is not None:
        begun = stored["settings"] if stored else {}
        heat = asked.get("temperature", begun.get("temperature", automatic.temperature))
        known = begun.get("solver") if begun.get("solver") != FITTED else None
        draws = asked.get("draws", begun.get("draws", automatic.draws))
        count = job.steps or ladder.evaluations(job.contract, draws)
        way = ladder.chosen(job.contract, heat, job.solver or known, count)
        wanted["solver"], wanted["ladder"] = way
    if job.cases is not None or job.limit is not None:
        selection = parse_selection(job.cases or automatic.cases, cases)
        wanted["cases"] = str(selection.head(job.limit or cases))
    return wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Where an output stands."""

    pending: tuple[int, ...]  # units
    counts: dict[str, int]  # cases by status, in the units that are finished


def survey(resolved: Resolved) -> Survey:
    """By the heads of the records and the sizes of the shards; hashes are `verify`'s work."""
    pending: list[int] = []
    counts: Counter[str] = Counter(dict.fromkeys(ledger.STATUSES, 0))
    for unit in resolved.selection.units(resolved.settings.unit_size):
        head = runs.finished(resolved.job.output, unit)
        if head is None or (resolved.job.retry_failed and head.counts[ledger.FAILED]):
            pending.append(unit)
        else:
            counts.update(head.counts)
    return Survey(pending=tuple(pending), counts=dict(counts))


def bytes_needed(resolved: Resolved, units: int) -> int:
    """An upper estimate for `units` more; label maps compress more than ten times."""
    height, width = resolved.layout.image
    images = len(resolved.layout.images) - 1
    return int(units * resolved.settings.unit_size * images * height * width * 1.1)
