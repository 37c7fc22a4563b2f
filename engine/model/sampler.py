"""Walks noise down a ladder of time steps, one compiled step at a time."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mcdiff_batch.engine.image.frame import Image
from mcdiff_batch.engine.telemetry.spans import span

from .plan import Conditioning, Plan
from .solver import Rung


def sample(
    plan: Plan,
    noise: Image,
    conditioned: Conditioning,
    ladder: Sequence[Rung],
    tick: Callable[[], None] = lambda: None,
) -> Image:
    """Deterministic reverse process; for DDIM, eq. 3.  noise and result: [B, 1, H, W].

    Between steps, x stays on the device of the plan.  tick: called after every step.
    """
    x, x0 = noise, np.zeros_like(noise)
    for rung in ladder:
        with span("step"):
            x, x0 = plan.step(x, x0, rung, conditioned)
        tick()
    return np.asarray(x, np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """Statistics of the draws of a batch, [B, 1, H, W], intensities in [-1, 1]."""

    mean: Image
    spread: Image | None  # standard deviation (n - 1); None for one draw


def sample_draws(
    plan: Plan,
    noises: Iterable[Image],
    conditioned: Conditioning,
    ladder: Sequence[Rung],
    *,
    tick: Callable[[], None] = lambda: None,
) -> Draws:
    """Samples from each of `noises`, clips to [-1, 1], and returns mean and spread.

    Memory does not grow with the number of draws.  Sums are in float64, so that the mean of one
    draw is exactly that draw.
    """
    count, total, squares = 0, *np.zeros((2, 1))
    for noise in noises:
        x = np.clip(sample(plan, noise, conditioned, ladder, tick), -1, 1).astype(np.float64)
        count, total, squares = count + 1, total + x, squares + x * x
    mean = np.asarray(total / count, np.float32)
    if count == 1:
        return Draws(mean=mean, spread=None)
    variance = np.maximum(squares - total * total / count, 0) / (count - 1)
    return Draws(mean=mean, spread=np.asarray(np.sqrt(variance), np.float32))
