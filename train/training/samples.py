"""Pictures of a training: a row of fixed held-out cases, and the learning curves."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as Picture

from mcdiff_batch.engine.files import replacing
from mcdiff_batch.engine.image.frame import Image, scan_strip
from mcdiff_batch.engine.model.noise import gaussian
from mcdiff_batch.engine.model.sampler import sample
from mcdiff_batch.engine.model.schedule import Schedule, log_snr_ladder
from mcdiff_batch.engine.model.solver import Rung, rungs
from mcdiff_batch.train.cases.data import Dataset
from mcdiff_batch.train.networks.plan import TorchPlan
from mcdiff_batch.train.networks.trio import Networks

CASES = 4
EVALUATIONS = 4
GAP = 4  # px


def draw_samples(nets: Networks, data: Dataset, path: Path, *, conditioned: bool) -> None:
    """Draws the first cases: mean of the depths, optimal depth, one evaluation, EVALUATIONS.

    Without `conditioned` the foundation model draws from the optimal depth alone.
    """
    few = data.subset(np.arange(len(data)) < CASES)
    depths = few.depths.astype(np.float32) / np.float32(127.5) - 1
    strip = np.stack([scan_strip(x) for x in depths])[:, None].astype(np.float32)
    scan = depths[np.arange(len(few)), few.optimal][:, None]
    plan, noise = TorchPlan(nets, len(few)), gaussian(0, "samples", strip.shape)
    if conditioned:
        state = plan.condition(depths, few.weights, strip, scan)
    else:
        state = plan.unconditioned(strip, scan)
    drawn = [sample(plan, noise, state, _walk(count))[:, 0] for count in (1, EVALUATIONS)]
    mean = np.einsum("nd,ndhw->nhw", few.weights, depths)
    _write([mean, scan[:, 0], *drawn], path)


def _walk(evaluations: int) -> list[Rung]:
    schedule = Schedule()
    return rungs("dpmpp_2m", schedule, log_snr_ladder(schedule, evaluations))


def _write(columns: list[Image], path: Path) -> None:
    """Writes columns [N, H, W] in [-1, 1] side by side."""
    cases = [_join(list(row), GAP) for row in zip(*columns, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as spare:
        Picture.fromarray(_levels(_join(cases, 3 * GAP))).save(spare, format="PNG", optimize=True)


def _join(images: list[Image], gap: int) -> Image:
    """Joins images side by side, with grey between them."""
    between = np.full((images[0].shape[0], gap), 0.0, np.float32)
    return np.concatenate([x for image in images for x in (image, between)][:-1], axis=1)


def _levels(image: Image) -> npt.NDArray[np.uint8]:
    return np.round((np.clip(image, -1, 1) + 1) * 127.5).astype(np.uint8)


def draw_curves(stages: dict[str, Any], path: Path) -> None:
    """Writes a PNG with one panel per stage: loss and held-out metrics against the step."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(stages), 3), layout="constrained")
    panels = figure.subplots(1, len(stages), squeeze=False)[0]
    for axes, (name, record) in zip(panels, stages.items(), strict=True):
        steps = [line["step"] for line in record["history"]]
        for key in record["history"][0]:
            if key != "step":
                axes.plot(steps, [line[key] for line in record["history"]], label=key)
        axes.set(title=f"{name}, {record['seconds'] / 60:.0f} min", xlabel="step")
        axes.set_yscale("log" if name != "extractor" else "linear")
        axes.legend()
    FigureCanvasAgg(figure).print_png(str(path))
