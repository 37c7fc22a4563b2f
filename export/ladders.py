"""Fitted ladders into a bundle: fit, score on cases held out, recommend what reaches the bar."""

import dataclasses
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mcdiff_batch.engine.archive import open_archive
from mcdiff_batch.engine.conditioner import condition
from mcdiff_batch.engine.contract import Bundle, Contract, Sampler, load_bundle, write_contract
from mcdiff_batch.engine.errors import UsageError
from mcdiff_batch.engine.ladder import steps
from mcdiff_batch.engine.ort import load
from mcdiff_batch.engine.plan import Device, Plan
from mcdiff_batch.engine.schedule import half_log_snr
from mcdiff_batch.engine.solver import FITTED, Rung

from .fidelity import (
    MEASURES,
    Reference,
    fidelity,
    figures,
    framed,
    reference,
    samples,
    started,
    with_truth,
)
from .steps import MEDIAN_DB, MIN_DB, School, Way, fit, grown, lesson

Say = Callable[[str], None]
TASK_DB = 0.1  # how far a measure may be from that of the 1000-step results


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitting:
    """What is fitted to what."""

    source: Path  # bundle
    data: Path  # archive to fit on
    held_out: Path  # archive to score on
    output: Path  # bundle
    cases: int  # of data
    scored: int  # of held_out
    evaluations: Sequence[int]
    calls: int  # of the network a case, for each search

    @property
    def work(self) -> Path:
        """References and fits, so that the same command goes on where it was stopped."""
        return self.output.with_suffix(".work")


def fit_steps(job: Fitting, say: Say) -> Bundle:
    """Writes `job.output`: the source's graphs, and a contract with ladders fitted and scored.

    Raises UsageError where output exists, or the bundle's anchoring is inside its steps.
    """
    if job.output.exists():
        raise UsageError(f"{job.output}: exists already; write to a new folder or remove it")
    bundle = load_bundle(job.source)
    contract = bundle.contract
    if contract.anchoring not in ("none", "scan"):
        raise UsageError(
            f"{job.source}: its anchoring {contract.anchoring!r} is inside the steps, for which no "
            'ladder can be fitted; export with --anchoring "scan" or "none"'
        )
    plan = load(bundle, Device(kind="cpu", index=0), batch=1)
    job.work.mkdir(parents=True, exist_ok=True)
    ways = _ways(job, contract, plan, say)
    say(f"walking {job.scored} held-out cases down 1000 steps, those that are not kept already")
    unseen = [
        reference(plan, contract, case, job.work, truth)
        for case, truth in with_truth(job.held_out, contract, job.scored)
    ]
    fitted = [_sampler(contract, way) for way in ways]
    others = [x for n, x in known(contract).items() if n not in job.evaluations]
    found = [scored(plan, contract, x, unseen) for x in (*others, *fitted)]
    for x in found:
        say(said(x))
    return _written(job, with_ladders(contract, found))


def known(contract: Contract) -> dict[int, Sampler]:
    """The fitted ladders that a bundle has, by their number of evaluations."""
    return {x.nfe: x for x in (contract.sampler, *contract.ladders) if x.solver == FITTED}


def _ways(job: Fitting, contract: Contract, plan: Plan, say: Say) -> list[Way]:
    """Fitted, or read from the work folder."""
    paths = {n: job.work / _name(job, contract, n) for n in job.evaluations}
    if not all(path.exists() for path in paths.values()):
        say(f"walking {job.cases} cases to fit on")
        school = School(
            plan=plan,
            schedule=contract.schedule,
            lessons=[
                lesson(plan, contract, condition(plan, [case]), started(contract, case), case.strip)
                for case, _ in framed(job.data, contract, job.cases)
            ],
        )
        for evaluations, path in paths.items():
            if not path.exists():
                begin = _begun(contract, evaluations)
                np.save(path, fit(school, evaluations, job.calls, say, begin).table)
    return [Way(np.load(path)) for path in paths.values()]


def _begun(contract: Contract, evaluations: int) -> list[npt.NDArray[np.float64]]:
    """Half-log-SNR of the bundle's ladder for so many evaluations, and of those that its ladder for
    one fewer grows to."""
    here, fewer = (known(contract).get(n) for n in (evaluations, evaluations - 1))
    lambdas = lambda x: half_log_snr(contract.schedule.alpha_at(x.ladder))
    return ([lambdas(here)] if here else []) + (grown(lambdas(fewer)) if fewer else [])


def _name(job: Fitting, contract: Contract, evaluations: int) -> str:
    graphs = (contract.conditioner.sha256, contract.denoiser.sha256)
    told = [graphs, contract.schedule, contract.sampler.temperature, contract.optimal_share]
    told += [open_archive(job.data).identity, job.cases, job.calls]
    told += [x.tolist() for x in _begun(contract, evaluations)]
    digest = hashlib.sha256(repr(told).encode()).hexdigest()[:12]
    return f"fit-{evaluations}-{digest}.npy"


def _sampler(contract: Contract, way: Way) -> Sampler:
    """As a contract holds it, not scored yet: times to 0.001, weights to six digits."""
    walk: list[Rung] = way.rungs(contract.schedule)
    return Sampler(
        solver=FITTED,
        ladder=tuple(round(x.t, 3) for x in walk),
        weights=tuple(
            (float(f"{x.a:.6g}"), float(f"{x.b:.6g}"), float(f"{x.c:.6g}")) for x in walk
        ),
        nfe=len(walk),
        psnr_median_db=0,
        psnr_min_db=0,
        cases=0,
        temperature=contract.sampler.temperature,
    )


def scored(
    plan: Plan, contract: Contract, sampler: Sampler, unseen: Sequence[Reference]
) -> Sampler:
    """With its figures over the cases."""
    images = samples(plan, unseen, steps(contract, sampler))
    near = fidelity(unseen, images)
    return dataclasses.replace(
        sampler,
        psnr_median_db=round(float(np.median(near)), 2),
        psnr_min_db=round(float(near.min()), 2),
        cases=len(near),
        figures=figures(contract, unseen, images),
    )


def reaches(sampler: Sampler) -> bool:
    """Whether it is as faithful as the bar asks, and loses nothing of the task."""
    off = [sampler.figures.get(f"{name}_over_reference_db", 0.0) for name in MEASURES]
    faithful = sampler.psnr_median_db >= MEDIAN_DB and sampler.psnr_min_db >= MIN_DB
    return faithful and all(abs(x) <= TASK_DB for x in off)


def with_ladders(contract: Contract, found: Sequence[Sampler]) -> Contract:
    """The fewest evaluations that reach the bar are recommended; where none do, what was."""
    best = min((x for x in found if reaches(x)), key=lambda x: x.nfe, default=contract.sampler)
    every = (contract.sampler, *contract.ladders)
    published = [x for x in every if x.solver != FITTED]
    others = tuple(x for x in (*published, *found) if x is not best)
    return dataclasses.replace(contract, sampler=best, ladders=others)


def said(x: Sampler) -> str:
    task = ", ".join(
        f"{name.upper()} {x.figures[key]:+.2f}"
        for name in MEASURES
        if (key := f"{name}_over_reference_db") in x.figures
    )
    return (
        f"{x.nfe:>3} evaluations: median {x.psnr_median_db} dB, minimum {x.psnr_min_db} dB from "
        f"1000-step DDIM over {x.cases} cases{f'; {task} dB over its' if task else ''}"
    )


def _written(job: Fitting, contract: Contract) -> Bundle:
    with tempfile.TemporaryDirectory(dir=job.output.parent, prefix=".fit-") as name:
        folder = Path(shutil.copytree(job.source, Path(name) / job.output.name))
        write_contract(contract, folder)
        folder.rename(job.output)
    return load_bundle(job.output)
