"""Resolves the options of `run` against the archive and an existing output."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcdiff_batch.engine.archive.archive import Archive
from mcdiff_batch.engine.backends.ort import REFERENCE
from mcdiff_batch.engine.errors import UsageError
from mcdiff_batch.engine.model import ladder
from mcdiff_batch.engine.model.contract import Contract
from mcdiff_batch.engine.model.framing import check_depths
from mcdiff_batch.engine.model.plan import Device
from mcdiff_batch.engine.model.solver import FITTED, Rung
from mcdiff_batch.engine.output import durable, ledger, locks, places, runs
from mcdiff_batch.engine.output.runs import Run, Settings
from mcdiff_batch.engine.output.shards import Layout
from mcdiff_batch.engine.output.units import Part, Selection, Unit, make_unit, parse_selection

from .pool import Limits

UNIT_SIZE = 32  # cases
BATCH_SIZES = {"cpu": 4}  # cases, by device kind; the cores share a batch
BATCH_SIZE = 8  # of any other kind of device
FACTS = ("plan", "device_kind", "bundle", "archive", "software")
CHOICES = ("batch_size", "unit_size", "seed", "draws", "temperature", "grid", "solver")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The input, the model and the options of one `run`.

    An option that is None has the value that the output was begun with, else an automatic one.
    """

    archive: Archive
    output: Path
    contract: Contract
    bundle: str  # SHA-256 of contract.json
    devices: tuple[Device, ...]
    plan: str = REFERENCE.name  # kind of the plan
    versions: dict[str, str] = field(default_factory=dict)  # of the backend's packages
    plan_folder: Path | None = None  # of compiled plans, which the output keeps a copy of
    plan_files: dict[str, str] | None = None  # name -> SHA-256; None: no files, or not known yet
    canary: str = ""  # of the plan on this machine; empty: not known
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
    max_failures: int | None = None  # the run stops when more cases than this have failed
    retry_failed: bool = False
    part: Part | None = None  # of the units, that this run processes; None: all
    finish: bool = False  # process nothing, only complete the output
    limits: Limits = field(default_factory=Limits)

    def takes(self, unit: int) -> bool:
        """Whether a unit is in this run's part."""
        return self.part is None or unit in self.part


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedJob:
    """A job and the settings that it runs with."""

    job: Job
    settings: Settings
    selection: Selection
    begun: bool  # the output holds the run.json of an earlier run

    @property
    def archive(self) -> Archive:
        return self.job.archive

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
    def journal(self) -> Path:
        """Where this run keeps its incidents and what it measures: the output, or the folder of its
        part."""
        root, part = self.job.output, self.job.part
        return root if part is None else locks.part_folder(root, part)

    @property
    def units(self) -> list[int]:
        """Indices of this run's units, in order."""
        found = self.selection.units(self.settings.unit_size)
        return [x for x in found if self.job.takes(x)]

    def make_unit(self, index: int) -> Unit:
        return make_unit(index, self.archive.cases, self.settings.unit_size)

    def select_cases(self, unit: int) -> tuple[int, ...]:
        """The selected cases of a unit."""
        return tuple(x for x in self.make_unit(unit).cases if x in self.selection)

    def count_cases(self) -> int:
        """Selected cases of this run's units."""
        if self.job.part is None:
            return len(self.selection)
        return sum(len(self.select_cases(x)) for x in self.units)

    @property
    def not_selected(self) -> int:
        """Cases of the archive that are not part of the output."""
        return self.archive.cases - len(self.selection)

    @property
    def rungs(self) -> list[Rung]:
        return ladder.find_rungs(self.job.contract, self.settings.solver, self.settings.ladder)


def resolve(job: Job) -> ResolvedJob:
    """Reads the output's run.json; writes nothing.

    Raises ArchiveError, UsageError, FingerprintError.
    """
    check_depths(job.archive, job.contract)
    places.check_apart(job.output, job.archive.path)
    stored = runs.load(job.output)
    automatic = _automatic(job)
    wanted = _requested(job, automatic, stored)
    settings = runs.settle(job.output, stored, wanted, automatic)
    _check_draws(settings)
    resolved = ResolvedJob(
        job=job,
        settings=settings,
        selection=parse_selection(settings.cases, job.archive.cases),
        begun=stored is not None,
    )
    _ = resolved.rungs  # raises UsageError for a bad solver or ladder
    return resolved


def _automatic(job: Job) -> Settings:
    """The settings that the user gets without asking."""
    kind, draws = job.devices[0].kind, job.draws or 1
    heat = temperature(job.contract, draws) if job.temperature is None else job.temperature
    solver, times = ladder.choose_default(job.contract, heat, draws)
    return Settings(
        plan=job.plan,
        plan_files=job.plan_files or {},
        canary=job.canary,
        device_kind=kind,
        batch_size=BATCH_SIZES.get(kind, BATCH_SIZE),
        unit_size=UNIT_SIZE,
        solver=solver,
        ladder=times,
        seed=0,
        temperature=heat,
        draws=draws,
        bundle=job.bundle,
        archive=job.archive.identity,
        cases=str(Selection((range(job.archive.cases),))),
        grid="frame",
        software=runs.software_versions() | job.versions,
    )


def temperature(contract: Contract, draws: int) -> float:
    """The bundle's temperature; for several draws never 0, which would make them all the same."""
    recommended = contract.sampler.temperature
    return 1.0 if draws > 1 and not recommended else recommended


def _check_draws(settings: Settings) -> None:
    if settings.draws > 1 and not settings.temperature:
        raise UsageError(
            f"--draws {settings.draws} --temperature 0: at temperature 0 there is no noise, so all "
            "draws are the same; leave out --temperature, or use --draws 1"
        )


def _requested(job: Job, automatic: Settings, stored: Run | None) -> dict[str, Any]:
    """Facts, and what the user asked for: an earlier run of the output must agree with them."""
    options = {name: getattr(job, name) for name in CHOICES if getattr(job, name) is not None}
    requested = {name: getattr(automatic, name) for name in FACTS} | options
    if job.plan_files is not None:
        requested["plan_files"] = job.plan_files
    if job.canary and stored is not None and stored.settings.canary:
        requested["canary"] = job.canary
    if job.solver is not None or job.steps is not None:
        solver, times = _ladder(job, options, automatic, stored)
        requested |= {"solver": solver, "ladder": times}
    if job.cases is not None or job.limit is not None:
        cases = job.archive.cases
        selection = parse_selection(automatic.cases if job.cases is None else job.cases, cases)
        requested["cases"] = str(selection.head(job.limit or cases))
    return requested


def _ladder(
    job: Job, options: dict[str, Any], automatic: Settings, stored: Run | None
) -> tuple[str, tuple[float, ...]]:
    """Solver and time steps for a job that names one of them."""
    settings = stored.settings if stored else automatic
    heat, draws = (options.get(name, getattr(settings, name)) for name in ("temperature", "draws"))
    solver = settings.solver if stored and settings.solver != FITTED else None
    steps = job.steps or ladder.count_evaluations(job.contract, draws)
    return ladder.choose(job.contract, heat, job.solver or solver, steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What an output still lacks."""

    pending: tuple[int, ...]  # units to process
    counts: dict[str, int]  # cases by status, of the other units


def survey(resolved: ResolvedJob) -> Survey:
    """Checks the heads of the records and the sizes of the shards; `verify` checks hashes."""
    pending: list[int] = []
    counts: Counter[str] = Counter(dict.fromkeys(ledger.STATUSES, 0))
    root, units = resolved.job.output, resolved.units
    heads = durable.files(root).map(lambda unit: runs.read_finished(root, unit), units)
    for unit, head in zip(units, heads, strict=True):
        if head is None or (resolved.job.retry_failed and head.counts[ledger.FAILED]):
            pending.append(unit)
        else:
            counts.update(head.counts)
    return Survey(pending=tuple(pending), counts=dict(counts))


def bytes_needed(resolved: ResolvedJob, units: int) -> int:
    """An upper estimate of what `units` more take; label maps compress more than tenfold."""
    height, width = resolved.layout.image
    images = len(resolved.layout.images) - 1
    return int(units * resolved.settings.unit_size * images * height * width * 1.1)
