"""Walks noise down a ladder of time steps, one compiled step at a time."""

from collections.abc import Callable, Sequence

import numpy as np

from .frame import Image
from .plan import Conditioned, Plan
from .solver import Rung


def sample(
    plan: Plan,
    noise: Image,
    conditioned: Conditioned,
    ladder: Sequence[Rung],
    tick: Callable[[], None] = lambda: None,
) -> Image:
    """Deterministic reverse process, eq. 3 for DDIM.  [B, 1, H, W]: noise in, image out."""
    x, x0 = noise, np.zeros_like(noise)
    for rung in ladder:
        x, x0 = plan.step(x, x0, rung, conditioned)
        tick()
    return x
