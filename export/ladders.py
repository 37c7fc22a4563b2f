"""The command `fit-steps`: fits ladders to a bundle, scores them, and recommends the best."""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.backends.ort import CPU, REFERENCE
from mcdiff_batch.engine.errors import UsageError
from mcdiff_batch.engine.files import replacing, workplace
from mcdiff_batch.engine.model.batch import condition
from mcdiff_batch.engine.model.contract import (
    Bundle,
    Contract,
    Sampler,
    load_bundle,
    write_contract,
)
from mcdiff_batch.engine.model.plan import Plan
from mcdiff_batch.engine.model.schedule import half_log_snr
from mcdiff_batch.engine.model.solver import FITTED, Rung

from .card import write_card
from .recommend import describe, published_samplers, recommend, score
from .references import read_framed, read_with_truth, starting_noise, walk_reference
from .steps import FitProblem, FittedLadder, fit, grow, walk_fit_case

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitting:
    """The options of `fit-steps`."""

    source: Path  # bundle to read
    data: Path  # archive to fit on
    held_out: Path  # archive to score on
    output: Path  # bundle to write
    cases: int  # cases of data
    held_out_cases: int  # cases of held_out
    evaluations: Sequence[int]
    calls: int  # network calls per case in each search

    @property
    def work(self) -> Path:
        """The folder of references and fits; the same command continues from it."""
        return self.output.with_suffix(".work")


def fit_steps(options: Fitting, say: Say) -> Bundle:
    """Writes a bundle with the source's graphs and a contract with fitted, scored ladders.

    Raises UsageError if the output exists.
    """
    if options.output.exists():
        raise UsageError(f"{options.output}: exists already; remove it, or use another --output")
    bundle = load_bundle(options.source)
    contract = bundle.contract
    plan = REFERENCE.load(bundle, CPU, batch=1)
    options.work.mkdir(parents=True, exist_ok=True)
    ladders = _fit_ladders(options, contract, plan, say)
    say(f"walking {options.held_out_cases} held-out cases down 1000 steps; stored ones are read")
    references = [
        walk_reference(plan, contract, case, options.work, truth)
        for case, truth in read_with_truth(options.held_out, contract, options.held_out_cases)
    ]
    fitted = [_sampler(contract, ladder) for ladder in ladders]
    others = [x for n, x in fitted_ladders(contract).items() if n not in options.evaluations]
    samplers = []
    for x in (*published_samplers(contract), *others, *fitted):
        samplers.append(score(plan, contract, x, references))
        say(describe(samplers[-1]))
    return _write(options, recommend(contract, samplers, references))


def fitted_ladders(contract: Contract) -> dict[int, Sampler]:
    """The bundle's fitted ladders, by their number of evaluations."""
    return {x.nfe: x for x in (contract.sampler, *contract.ladders) if x.solver == FITTED}


def _fit_ladders(options: Fitting, contract: Contract, plan: Plan, say: Say) -> list[FittedLadder]:
    """Fits the ladders, or reads them from the work folder."""
    paths = {n: options.work / _name(options, contract, n) for n in options.evaluations}
    if not all(path.exists() for path in paths.values()):
        say(f"walking {options.cases} cases to fit on")
        problem = FitProblem(
            plan=plan,
            schedule=contract.schedule,
            cases=[
                walk_fit_case(
                    plan,
                    contract,
                    condition(plan, [case]),
                    starting_noise(contract, case),
                    case.strip,
                )
                for case, _ in read_framed(options.data, contract, options.cases)
            ],
        )
        for evaluations, path in paths.items():
            if not path.exists():
                starts = _starts(contract, evaluations)
                table = fit(problem, evaluations, options.calls, say, starts).table
                with replacing(path) as spare, spare.open("wb") as file:
                    np.save(file, table)
    return [FittedLadder(np.load(path)) for path in paths.values()]


def _starts(contract: Contract, evaluations: int) -> list[npt.NDArray[np.float64]]:
    """Half-log-SNR of ladders to start from.

    These are the bundle's ladder for so many evaluations, and what its ladder for one fewer grows
    to.
    """
    here, fewer = (fitted_ladders(contract).get(n) for n in (evaluations, evaluations - 1))
    lambdas = lambda x: half_log_snr(contract.schedule.alpha_at(x.ladder))
    return ([lambdas(here)] if here else []) + (grow(lambdas(fewer)) if fewer else [])


def _name(options: Fitting, contract: Contract, evaluations: int) -> str:
    graphs = (contract.conditioner.sha256, contract.denoiser.sha256)
    inputs = [graphs, contract.schedule, contract.sampler.temperature, contract.optimal_share]
    inputs += [open_archive(options.data).identity, options.cases, options.calls]
    inputs += [x.tolist() for x in _starts(contract, evaluations)]
    digest = hashlib.sha256(repr(inputs).encode()).hexdigest()[:12]
    return f"fit-{evaluations}-{digest}.npy"


def _sampler(contract: Contract, ladder: FittedLadder) -> Sampler:
    """The ladder as a contract holds it, without scores: times to 0.001, weights to six digits."""
    walk: list[Rung] = ladder.rungs(contract.schedule)
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


def _write(options: Fitting, contract: Contract) -> Bundle:
    with workplace(options.output) as folder:
        shutil.copytree(options.source, folder)
        write_contract(contract, folder)
        write_card(load_bundle(folder))
        folder.rename(options.output)
    return load_bundle(options.output)
