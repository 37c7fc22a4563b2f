"""Solvers as coefficients: every step is x' = a x + b x0-hat + c x0-hat_prev.

The coefficients depend only on the ladder, so they are computed once per run, in float64.  The step
itself is in the denoiser graph, with x0-hat clamped to [-1, 1] and eps recomputed from it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mcdiff_batch.engine.errors import BundleError, UsageError

from .schedule import Schedule, half_log_snr

FITTED = "fitted"  # a solver whose weights come from the bundle (export/steps.py)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One network evaluation: its time, and the coefficients of its step."""

    t: float  # time of the evaluation, 0 < t <= T
    signal: float  # sqrt(alpha_t)
    noise: float  # sqrt(1 - alpha_t)
    a: float  # weight of x
    b: float  # weight of x0-hat
    c: float  # weight of the previous x0-hat


def ddim(t: float, alpha: float, alpha_next: float) -> Rung:
    """Song et al. 2021, eq. 12 with sigma = 0; the paper's eq. 3, eps written through x0-hat."""
    a = np.sqrt((1 - alpha_next) / (1 - alpha))
    b = np.sqrt(alpha_next) - a * np.sqrt(alpha)
    return Rung(t=t, signal=np.sqrt(alpha), noise=np.sqrt(1 - alpha), a=a, b=b, c=0.0)


def dpmpp_2m(t: float, alpha_last: float, alpha: float, alpha_next: float) -> Rung:
    """DPM-Solver++(2M), Lu et al. 2022b, algorithm 2: the two-step rule in half-log-SNR."""
    last, here, there = (float(half_log_snr(x)) for x in (alpha_last, alpha, alpha_next))
    h, r = there - here, (here - last) / (there - here)
    a = np.sqrt((1 - alpha_next) / (1 - alpha))
    gain = -np.sqrt(alpha_next) * np.expm1(-h)
    weight = 1 / (2 * r)
    return Rung(
        t=t,
        signal=np.sqrt(alpha),
        noise=np.sqrt(1 - alpha),
        a=a,
        b=gain * (1 + weight),
        c=-gain * weight,
    )


def _ddim_rungs(times: Sequence[float], alphas: Sequence[float]) -> list[Rung]:
    return [ddim(t, *pair) for t, *pair in zip(times, alphas, alphas[1:], strict=False)]


def _dpmpp_2m_rungs(times: Sequence[float], alphas: Sequence[float]) -> list[Rung]:
    """First order at the first step (no history) and the last (lambda is infinite at alpha 1)."""
    rungs = _ddim_rungs(times, alphas)
    for i in range(1, len(rungs) - 1):
        rungs[i] = dpmpp_2m(times[i], alphas[i - 1], alphas[i], alphas[i + 1])
    return rungs


SOLVERS: dict[str, Callable[[Sequence[float], Sequence[float]], list[Rung]]] = {
    "ddim": _ddim_rungs,
    "dpmpp_2m": _dpmpp_2m_rungs,
}


def rungs(
    solver: str,
    schedule: Schedule,
    ladder: Sequence[float],
    weights: Sequence[tuple[float, float, float]] = (),
) -> list[Rung]:
    """The rungs from ladder[0] to a clean image (alpha_0 = 1).

    weights: a, b, c of each step, for the solver FITTED.  Raises UsageError, BundleError.
    """
    if solver not in (*SOLVERS, FITTED):
        names = ", ".join((*SOLVERS, FITTED))
        raise UsageError(f"--sampler {solver!r} is unknown, expected one of {names}")
    if not ladder or np.any(np.diff(ladder) >= 0) or not 0 < ladder[-1] < ladder[0] + 1:
        raise UsageError(f"ladder {list(ladder)} must decrease at every step and stay above 0")
    if ladder[0] > schedule.steps:
        raise UsageError(f"ladder starts at t = {ladder[0]}, but the schedule has {schedule.steps}")
    alphas = [*(float(alpha) for alpha in schedule.alpha_at(ladder)), 1.0]
    if solver == FITTED:
        return _fitted_rungs(ladder, alphas, weights)
    return SOLVERS[solver](list(ladder), alphas)


def _fitted_rungs(
    times: Sequence[float], alphas: Sequence[float], weights: Sequence[tuple[float, float, float]]
) -> list[Rung]:
    if len(weights) != len(times):
        raise BundleError(
            f"a fitted ladder of {len(times)} times has {len(weights)} weights, expected as many; "
            "run `mcdiff-batch fit-steps` again"
        )
    return [
        Rung(t=t, signal=np.sqrt(alpha), noise=np.sqrt(1 - alpha), a=a, b=b, c=c)
        for t, alpha, (a, b, c) in zip(times, alphas, weights, strict=False)
    ]
