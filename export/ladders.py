"""Fitted ladders into a bundle: fit, score on cases held out, recommend the best way down."""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.backends.ort import load
from mcdiff_batch.engine.errors import UsageError
from mcdiff_batch.engine.model.batch import condition
from mcdiff_batch.engine.model.contract import (
    Bundle,
    Contract,
    Sampler,
    load_bundle,
    write_contract,
)
from mcdiff_batch.engine.model.plan import Device, Plan
from mcdiff_batch.engine.model.schedule import half_log_snr
from mcdiff_batch.engine.model.solver import FITTED, Rung

from .fidelity import framed, reference, started, with_truth
from .recommend import published, recommended, said, scored
from .steps import School, Way, fit, grown, lesson

Say = Callable[[str], None]


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

    Raises UsageError where output exists.
    """
    if job.output.exists():
        raise UsageError(f"{job.output}: exists already; write to a new folder or remove it")
    bundle = load_bundle(job.source)
    contract = bundle.contract
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
    found = []
    for x in (*published(contract), *others, *fitted):
        found.append(scored(plan, contract, x, unseen))
        say(said(found[-1]))
    return _written(job, recommended(contract, found, unseen))


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


def _written(job: Fitting, contract: Contract) -> Bundle:
    with tempfile.TemporaryDirectory(dir=job.output.parent, prefix=".fit-") as name:
        folder = Path(shutil.copytree(job.source, Path(name) / job.output.name))
        write_contract(contract, folder)
        folder.rename(job.output)
    return load_bundle(job.output)
