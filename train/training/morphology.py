"""The morphology loss of stage III: the extractor must find the mask in the enhanced image.

The image loss asks for an image that is right on average, so it gives up what a scan shows only
faintly.  Eq. 10 on x0-hat asks for the shapes that the angle is read from.  It needs a mask and no
target, so scans of every grade can take part.  x0-hat is that of the first evaluation of a run.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mcdiff_batch.engine.model.schedule import Schedule, log_snr_ladder
from mcdiff_batch.train.cases.data import Batch
from mcdiff_batch.train.networks.losses import extractor_loss

from .noising import Noised

GRAIN = 0.06  # greatest sd of the grain on an image, in [-1, 1]
SHIFT = 4  # px; of an image at most, less one


class View(NamedTuple):
    """How the extractor sees a batch: grained, shifted and perhaps flipped, so that no pattern
    finer than bone can please it."""

    grain: Tensor  # [N, 1, H, W]
    rows: Tensor  # [H], which row of the image is in each row
    columns: Tensor  # [W]


class Untargeted(NamedTuple):
    """Cases for the morphology loss alone, and the view of the targeted cases and of these."""

    batch: Batch
    noised: Noised  # to the time of the first evaluation
    view: View


def draw_view(shape: torch.Size, rng: np.random.Generator) -> View:
    """Draws a view of images [N, 1, H, W]."""
    *_, height, width = shape
    seed = int(rng.integers(2**62))
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    down, right = (int(x) for x in rng.integers(SHIFT, size=2))
    columns = torch.arange(width).roll(right)
    return View(
        grain=GRAIN * float(rng.random()) * noise,
        rows=torch.arange(height).roll(down),
        columns=columns.flip(0) if rng.random() < 0.5 else columns,
    )


def morphology_loss(
    extractor: nn.Module, x0_hat: Tensor, inside: Tensor, label: Tensor, view: View
) -> Tensor:
    """Eq. 10 of x0-hat.  x0_hat, inside: [N, 1, H, W]; label: [N, H, W].

    x0-hat is clamped to [-1, 1], as a run does, but the gradient passes.
    """
    clamped = x0_hat + (x0_hat.clamp(-1, 1) - x0_hat).detach()
    image = torch.where(inside > 0, clamped + view.grain, -1.0)
    seen = lambda x: x[..., view.rows, :][..., view.columns]
    return extractor_loss(extractor(seen(image)), seen(label))


def first_time(schedule: Schedule) -> int:
    """The time of the first evaluation of a run."""
    return round(float(log_snr_ladder(schedule, 1)[0]))


def times_from_first(
    schedule: Schedule, cases: int, draws: int, rng: np.random.Generator
) -> Tensor:
    """Times [cases * draws]: of each case first the first evaluation's; the others are stratified
    over 1..T."""
    times = np.full((cases, draws), first_time(schedule), np.int64)
    many = cases * (draws - 1)
    strata = (rng.permutation(many) + rng.random(many)) / max(1, many)
    times[:, 1:] = (1 + np.floor(strata * schedule.steps)).reshape(cases, draws - 1)
    return torch.from_numpy(times.ravel())
