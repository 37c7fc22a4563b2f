"""Scores of trained networks on held-out phantoms, with bootstrap intervals."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import zarr

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.image.frame import Frame, Image
from mcdiff_batch.engine.image.metrics import psnr
from mcdiff_batch.engine.model.batch import scans, strips
from mcdiff_batch.engine.model.contract import SHIPPED, load_bundle
from mcdiff_batch.engine.model.framing import fusion_weights
from mcdiff_batch.engine.model.noise import gaussian
from mcdiff_batch.engine.model.sampler import sample
from mcdiff_batch.engine.model.schedule import Schedule, log_snr_ladder
from mcdiff_batch.engine.model.solver import rungs
from mcdiff_batch.train.evaluation.subject import Subject, read_image, read_subject
from mcdiff_batch.train.networks.plan import TorchPlan
from mcdiff_batch.train.networks.presets import Preset
from mcdiff_batch.train.networks.trio import Networks
from mcdiff_batch.train.segmenters.rater import Rater

EVALUATIONS = (1, 4, 10)
CASES = 48  # the first of the held-out archive
BATCH = 16
RESAMPLED = 2000
Columns = dict[str, list[float]]  # measure -> value of each case


def subjects(path: Path, frame: Frame) -> list[Subject]:
    """The first cases with their truth, on `frame`."""
    archive, truth = open_archive(path), zarr.open_group(path, mode="r", use_consolidated=False)
    contract = replace(load_bundle(SHIPPED).contract, frame=frame)
    return [read_subject(archive, truth, i, contract) for i in range(min(CASES, archive.cases))]


def sample_cases(
    nets: Networks, cases: Sequence[Subject], evaluations: int, temperature: float
) -> list[Image]:
    """An image [H, W] in [-1, 1] of each case, drawn by the engine's own sampler."""
    schedule = Schedule()
    ladder = log_snr_ladder(schedule, evaluations)
    walk = rungs("dpmpp_2m", schedule, ladder)
    images: list[Image] = []
    for first in range(0, len(cases), BATCH):
        batch = [x.case for x in cases[first : first + BATCH]]
        plan = TorchPlan(nets, len(batch))
        weights = np.stack([preset_weights(nets.preset, x.weights > 0, x.optimal) for x in batch])
        stack = np.stack([x.depths for x in batch])
        conditioned = plan.condition(stack, weights, strips(batch), scans(batch))
        noise = np.stack([gaussian(0, x.key, (1, *x.strip.shape)) for x in batch])
        drawn = sample(plan, np.float32(temperature) * noise, conditioned, walk)
        images += list(np.clip(drawn[:, 0], -1, 1))
    return images


def preset_weights(
    preset: Preset, present: npt.NDArray[np.bool_], optimal: int
) -> npt.NDArray[np.float32]:
    """The preset's fusion weights of the depths that a case has; or all on the optimal one."""
    share = preset.optimal_share if preset.conditions == "depths" else 1.0
    return fusion_weights(preset.depth_weights, present, optimal, share)


def originals(cases: Sequence[Subject]) -> list[Image]:
    return [x.case.depths[x.case.optimal] for x in cases]


def targets(cases: Sequence[Subject]) -> list[Image]:
    return [2 * x.truth.clean - 1 for x in cases]


def measure_images(images: Sequence[Image], cases: Sequence[Subject], rater: Rater) -> Columns:
    """PSNR to clean (dB), CNR and SNR (20 ln); by the rater, Dice and levels lost or invented."""
    rows = [_measured(image, x, rater) for image, x in zip(images, cases, strict=True)]
    return {name: [row[name] for row in rows] for name in rows[0]}


def _measured(image: Image, case: Subject, rater: Rater) -> dict[str, float]:
    unit = np.asarray((image + 1) / 2, np.float32)
    contrast, read = case.contrast(unit), read_image(case, unit, rater)
    return {
        "psnr": psnr(unit, case.truth.clean, case.case.strip),
        "cnr_ln": contrast["cnr_ln"],
        "snr_ln": contrast["snr_ln"],
        "dice": float(read["dice"]),
        "levels": float(read["lost"] + read["invented"]),
    }


def interval(values: Sequence[float]) -> list[float]:
    """The mean and its bootstrap 95 % interval; leaves out cases where the value is undefined."""
    x = np.asarray(values, np.float64)
    x = x[np.isfinite(x)]
    if not len(x):
        return [float("nan")] * 3
    drawn = np.random.default_rng(0).integers(len(x), size=(RESAMPLED, len(x)))
    low, high = np.quantile(x[drawn].mean(axis=1), (0.025, 0.975))
    return [round(float(v), 3) for v in (x.mean(), low, high)]


def gain_share(enhanced: Columns, original: Columns, ceiling: Columns, measure: str) -> list[float]:
    """The share of the ceiling's gain over the original, with its bootstrap 95 % interval."""
    a, b, c = (np.asarray(x[measure]) for x in (enhanced, original, ceiling))
    drawn = np.random.default_rng(0).integers(len(a), size=(RESAMPLED, len(a)))
    share = lambda i: (a[i] - b[i]).mean(-1) / (c[i] - b[i]).mean(-1)
    low, high = np.quantile(share(drawn), (0.025, 0.975))
    return [round(float(v), 3) for v in (share(np.arange(len(a))), low, high)]
