"""A plan without a model, to measure everything around the model."""

from dataclasses import dataclass

import numpy as np

from mcdiff_batch.engine.image.frame import Frame, Image, Labels
from mcdiff_batch.engine.model.contract import Contract, Graph, Sampler
from mcdiff_batch.engine.model.plan import Conditioning, Device, Plan
from mcdiff_batch.engine.model.schedule import Schedule, log_snr_ladder
from mcdiff_batch.engine.model.solver import Rung

STEPS = 3


@dataclass(frozen=True, slots=True)
class MeanPlan:
    """x0-hat is the weighted mean of the depths and a little of x: elementwise, so exact."""

    batch: int

    def condition(self, depths: Image, weights: Image, strip: Image, scan: Image) -> Conditioning:
        mean = weighted_mean(depths, weights)
        return Conditioning(conditions=mean, label=labels(mean))

    def relabel(self, images: Image, strip: Image) -> Labels:
        return labels(images)

    def step(
        self, x: Image, previous: Image, rung: Rung, conditioned: Conditioning
    ) -> tuple[Image, Image]:
        assert isinstance(conditioned.conditions, np.ndarray)
        x0 = estimate(conditioned.conditions, x)
        return combine(x, previous, x0, rung), x0


def make_mean_plan(device: Device, batch: int) -> Plan:
    """A PlanMaker."""
    return MeanPlan(batch)


def weighted_mean(depths: Image, weights: Image) -> Image:
    """[B, 1, H, W] of depths [B, D, H, W] and weights [B, D]."""
    mean: Image = (depths * weights[:, :, None, None]).sum(axis=1, keepdims=True)
    return mean


def labels(images: Image) -> Labels:
    """A label map [B, H, W] of images [B, 1, H, W]: dark px are bone, 1 to 3 by brightness."""
    found: Labels = np.digitize(-images[:, 0], [0.2, 0.4, 0.6, 0.8]).astype(np.uint8) % 4
    return found


def estimate(mean: Image, x: Image) -> Image:
    """x0-hat [B, 1, H, W]."""
    found: Image = np.clip(mean + np.float32(0.02) * x, -1, 1)
    return found


def combine(x: Image, previous: Image, x0: Image, rung: Rung) -> Image:
    """The next x: a x + b x0-hat + c times the x0-hat of the previous step."""
    after: Image = np.float32(rung.a) * x + np.float32(rung.b) * x0 + np.float32(rung.c) * previous
    return after


def contract(frame: Frame, depths: int = 5) -> Contract:
    """A contract without files."""
    schedule = Schedule()
    ladder = log_snr_ladder(schedule, STEPS)
    none = Graph(file="", sha256="", inputs=(), outputs=())
    return Contract(
        name="fake",
        frame=frame,
        depth_weights=(1 / depths,) * depths,
        classes=("background", "process", "rib", "lump"),
        schedule=schedule,
        sampler=Sampler(
            solver="ddim", ladder=ladder, nfe=STEPS, psnr_median_db=0, psnr_min_db=0, cases=0
        ),
        conditioner=none,
        denoiser=none,
    )
