"""Chooses the solver and the ladder of a run: the bundle's own, or published ones."""

from collections.abc import Sequence

from mcdiff_batch.engine.errors import UsageError
from mcdiff_batch.engine.text import pluralise

from . import schedule
from .contract import Contract, Sampler
from .solver import FITTED, Rung, rungs

DRAWS_NFE = 10  # least evaluations per draw: with one or two, all draws are nearly the mean
UNFITTED_NFE = 32  # evaluations if the bundle has no fitted ladder: more than enough
Way = tuple[str, tuple[float, ...]]  # solver, ladder


def recommended_rungs(contract: Contract) -> list[Rung]:
    """The rungs of the bundle's recommended sampler."""
    return find_rungs(contract, contract.sampler.solver, contract.sampler.ladder)


def find_rungs(contract: Contract, solver: str, ladder: Sequence[float]) -> list[Rung]:
    """The rungs of a solver and a ladder.  Fitted weights come from the contract."""
    for sampler in _samplers(contract):
        if (solver, tuple(ladder)) == (sampler.solver, sampler.ladder):
            return sampler_rungs(contract, sampler)
    return rungs(solver, contract.schedule, ladder)


def sampler_rungs(contract: Contract, sampler: Sampler) -> list[Rung]:
    """The rungs of a sampler, which may be missing from the contract."""
    return rungs(sampler.solver, contract.schedule, sampler.ladder, sampler.weights)


def count_evaluations(contract: Contract, draws: int) -> int:
    """Network evaluations per draw: the recommended number, or enough for draws to differ.

    See train/README.md.
    """
    return contract.sampler.nfe if draws == 1 else max(DRAWS_NFE, contract.sampler.nfe)


def choose_default(contract: Contract, temperature: float, draws: int = 1) -> Way:
    """The recommended sampler, if it suits this temperature and this number of draws."""
    sampler, count = contract.sampler, count_evaluations(contract, draws)
    if count != sampler.nfe:
        return choose(contract, temperature, None, count)
    if sampler.solver != FITTED or sampler.temperature == temperature:
        return sampler.solver, sampler.ladder
    return choose(contract, temperature, None, UNFITTED_NFE)


def choose(contract: Contract, temperature: float, solver: str | None, steps: int | None) -> Way:
    """A solver and a ladder of exactly `steps` evaluations.

    solver: None for the best that the bundle has.  steps: None for the recommended number.
    The ladder is one of the contract; else, for DDIM with as many evaluations as the schedule has
    steps, every step; else uniform in log-SNR.  A fitted ladder is used only at its temperature.
    Raises UsageError if the solver is "fitted" and the contract has no such ladder.
    """
    count = contract.sampler.nfe if steps is None else steps
    samplers = _samplers(contract)
    usable = [x for x in samplers if x.solver != FITTED or x.temperature == temperature]
    for sampler in usable:
        if sampler.nfe == count and solver in (None, sampler.solver):
            return sampler.solver, sampler.ladder
    if solver == FITTED:
        fitted = sorted({x.nfe for x in usable if x.solver == FITTED})
        raise UsageError(
            f"--sampler fitted: this bundle has no fitted ladder of {pluralise(count, 'step')} at "
            f"temperature {temperature:g}, only of: {', '.join(map(str, fitted)) or 'none'}; use "
            "--steps with one of those, or --sampler ddim"
        )
    name = solver or _published(contract, temperature)
    if (name, count) == ("ddim", contract.schedule.steps):
        return name, schedule.uniform_ladder(contract.schedule, count)
    return name, schedule.log_snr_ladder(contract.schedule, count)


def _published(contract: Contract, temperature: float) -> str:
    """DDIM without starting noise, where second-order steps oscillate; see export/steps.py."""
    if not temperature:
        return "ddim"
    solver = contract.sampler.solver
    return "dpmpp_2m" if solver == FITTED else solver


def _samplers(contract: Contract) -> tuple[Sampler, ...]:
    return (contract.sampler, *contract.ladders)
