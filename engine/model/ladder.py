"""Which way down a run takes: the bundle's recommendation, one fitted to it, or a published one."""

from collections.abc import Sequence

from mcdiff_batch.engine.errors import UsageError

from . import schedule
from .contract import Contract, Sampler
from .solver import FITTED, Rung, rungs

DRAWN = 10  # evaluations a draw, at least: one or two come to the posterior mean, without a spread
UNFITTED = 32  # evaluations where nothing was fitted: far on the safe side
Way = tuple[str, tuple[float, ...]]  # solver, ladder


def recommended_rungs(contract: Contract) -> list[Rung]:
    """The walk of the contract's sampler."""
    return find_rungs(contract, contract.sampler.solver, contract.sampler.ladder)


def find_rungs(contract: Contract, solver: str, ladder: Sequence[float]) -> list[Rung]:
    """The rungs of a way; fitted weights are looked up in the contract."""
    for known in _known(contract):
        if (solver, tuple(ladder)) == (known.solver, known.ladder):
            return sampler_rungs(contract, known)
    return rungs(solver, contract.schedule, ladder)


def sampler_rungs(contract: Contract, sampler: Sampler) -> list[Rung]:
    """As `walk`, of a sampler that need not be in the contract."""
    return rungs(sampler.solver, contract.schedule, sampler.ladder, sampler.weights)


def count_evaluations(contract: Contract, draws: int) -> int:
    """As many as recommended; of several draws enough for them to differ (SCIENCE.md)."""
    return contract.sampler.nfe if draws == 1 else max(DRAWN, contract.sampler.nfe)


def choose_default(contract: Contract, temperature: float, draws: int = 1) -> Way:
    """The recommendation, unless it was fitted to another temperature or is too short for draws."""
    sampler, count = contract.sampler, count_evaluations(contract, draws)
    if count != sampler.nfe:
        return choose(contract, temperature, None, count)
    if sampler.solver != FITTED or sampler.temperature == temperature:
        return sampler.solver, sampler.ladder
    return choose(contract, temperature, None, UNFITTED)


def choose(contract: Contract, temperature: float, solver: str | None, steps: int | None) -> Way:
    """Exactly `steps` evaluations (None: as many as recommended), by `solver` where it is given.

    A ladder of the contract, where it has one for them; every step of the schedule, where DDIM is
    asked for as many; else uniform in log-SNR.  Fitted ladders hold at their own temperature only.
    Raises UsageError where a fitted one is asked for and there is none.
    """
    count = contract.sampler.nfe if steps is None else steps
    fitting = [x for x in _known(contract) if x.solver != FITTED or x.temperature == temperature]
    for known in fitting:
        if known.nfe == count and solver in (None, known.solver):
            return known.solver, known.ladder
    if solver == FITTED:
        there = ", ".join(str(x.nfe) for x in fitting if x.solver == FITTED) or "none"
        raise UsageError(
            f"--sampler fitted: nothing is fitted for {count} evaluations at temperature "
            f"{temperature:g} (there is: {there}); use --steps with one of those, or --sampler ddim"
        )
    name = solver or _published(contract, temperature)
    if (name, count) == ("ddim", contract.schedule.steps):
        return name, schedule.uniform_ladder(contract.schedule, count)
    return name, schedule.log_snr_ladder(contract.schedule, count)


def _published(contract: Contract, temperature: float) -> str:
    """Without noise a walk is stiff and the second order rings (export/steps.py)."""
    if not temperature:
        return "ddim"
    solver = contract.sampler.solver
    return "dpmpp_2m" if solver == FITTED else solver


def _known(contract: Contract) -> tuple[Sampler, ...]:
    return (contract.sampler, *contract.ladders)
