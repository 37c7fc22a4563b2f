"""What a model draws while it is trained: a row of fixed held-out cases, as one PNG."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image as Picture

from mcdiff_batch.engine.frame import Image, scan_strip
from mcdiff_batch.engine.noise import gaussian
from mcdiff_batch.engine.sampler import sample
from mcdiff_batch.engine.schedule import Schedule, log_snr_ladder
from mcdiff_batch.engine.solver import rungs

from .data import Dataset
from .networks import Networks
from .plan import TorchPlan

CASES = 4
EVALUATIONS = 8
GAP = 4  # px


def draw_samples(nets: Networks, data: Dataset, path: Path, *, conditioned: bool) -> None:
    """Of each of the first cases: mean of its depths, optimal depth, sample, side by side.

    Not `conditioned`: what the foundation model draws of noise alone.
    """
    few = data.subset(np.arange(len(data)) < CASES)
    depths = few.depths.astype(np.float32) / np.float32(127.5) - 1
    strip = np.stack([scan_strip(x) for x in depths])[:, None].astype(np.float32)
    plan = TorchPlan(nets, len(few))
    schedule = Schedule()
    walk = rungs("dpmpp_2m", schedule, log_snr_ladder(schedule, EVALUATIONS))
    noise = gaussian(0, "samples", strip.shape)
    if not conditioned:
        drawn = sample(plan, noise, plan.unconditioned(strip), walk)
        _write([drawn[:, 0]], path)
        return
    drawn = sample(plan, noise, plan.condition(depths, few.weights, strip), walk)
    mean = np.einsum("nd,ndhw->nhw", few.weights, depths)
    _write([mean, depths[np.arange(len(few)), few.optimal], drawn[:, 0]], path)


def _write(columns: list[Image], path: Path) -> None:
    """columns: each [N, H, W] in [-1, 1]."""
    cases = [_joined(list(row), GAP) for row in zip(*columns, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    Picture.fromarray(_levels(_joined(cases, 3 * GAP))).save(part, format="PNG", optimize=True)
    part.replace(path)


def _joined(images: list[Image], gap: int) -> Image:
    """Side by side, grey between."""
    between = np.full((images[0].shape[0], gap), 0.0, np.float32)
    return np.concatenate([x for image in images for x in (image, between)][:-1], axis=1)


def _levels(image: Image) -> npt.NDArray[np.uint8]:
    return np.round((np.clip(image, -1, 1) + 1) * 127.5).astype(np.uint8)
