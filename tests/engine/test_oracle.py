"""Our solvers give the same images as the schedulers of diffusers (a dev dependency)."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from mcdiff_batch.engine.model.schedule import Schedule
from mcdiff_batch.engine.model.solver import rungs

pytestmark = pytest.mark.filterwarnings("ignore:.*copy keyword:DeprecationWarning")
TIMES = (990, 900, 760, 600, 420, 250, 120, 40, 10)
SPREAD = 0.5  # of Gaussian data, whose eps is known exactly
COSINE = {"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2"}


def eps(x, alpha):
    """The output of a perfect network at x_t."""
    return x * np.sqrt(1 - alpha) / (alpha * SPREAD**2 + 1 - alpha)


def ours(solver):
    x, previous = np.linspace(-2, 2, 9), np.zeros(9)
    for rung in rungs(solver, Schedule(), TIMES):
        x0 = (x - rung.noise * eps(x, rung.signal**2)) / rung.signal
        x, previous = rung.a * x + rung.b * x0 + rung.c * previous, x0
    return x


def theirs(scheduler, times):
    """diffusers counts t from 0, we from 1: alphas_cumprod[t - 1] is our alpha_t."""
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    for t in times:
        alpha = float(scheduler.alphas_cumprod[t])
        x = scheduler.step(eps(x, alpha), t, x).prev_sample
    return x.numpy()


def test_dpmpp_2m_walks_as_diffusers_does():
    scheduler = DPMSolverMultistepScheduler(
        **COSINE, solver_order=2, final_sigmas_type="zero", euler_at_final=True
    )
    scheduler.set_timesteps(timesteps=[t - 1 for t in TIMES])
    assert ours("dpmpp_2m") == pytest.approx(theirs(scheduler, scheduler.timesteps), abs=1e-4)


def test_ddim_walks_as_diffusers_does():
    """diffusers supports only evenly spaced times."""
    scheduler = DDIMScheduler(
        **COSINE, clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(10)
    x, even = np.linspace(-2, 2, 9), range(1000, 0, -100)
    for rung in rungs("ddim", Schedule(), tuple(even)):
        x = rung.a * x + rung.b * (x - rung.noise * eps(x, rung.signal**2)) / rung.signal
    assert [int(t) + 1 for t in scheduler.timesteps] == list(even)
    assert x == pytest.approx(theirs(scheduler, scheduler.timesteps), abs=1e-3)
