"""Images noised to their times, eq. 1."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mcdiff_batch.engine.model.schedule import Schedule
from mcdiff_batch.train.networks.losses import diffuse
from mcdiff_batch.train.networks.presets import Preset

BLACK = -1 + 1e-3  # brighter px lie in the strip


class Noised(NamedTuple):
    """Images noised to their times, eq. 1; images are [N, 1, H, W], t and alpha [N]."""

    image: Tensor  # x_0, the target
    x: Tensor  # x_t
    t: Tensor
    alpha: Tensor
    scan: Tensor  # b, the second observation
    inside: Tensor  # 1 inside the strip, else 0
    sigma_b: Tensor  # [N], the sd of the scan's error that the network is told

    @property
    def root(self) -> tuple[Tensor, Tensor]:
        """sqrt(alpha) and sqrt(1 - alpha), [N, 1, 1, 1]."""
        alpha = self.alpha[:, None, None, None]
        return alpha.sqrt(), (1 - alpha).sqrt()


class Noising:
    """Draws (t, eps) for images and noises them, eq. 1."""

    def __init__(self, preset: Preset) -> None:
        self.schedule, self.preset = Schedule(), preset
        self.alphas = torch.tensor(self.schedule.alphas(), dtype=torch.float32)

    def __call__(
        self, image: Tensor, scan: Tensor, rng: np.random.Generator, times: Tensor | None = None
    ) -> Noised:
        """Noises images [N, 1, H, W]; times are stratified over 1..T unless given.

        With `sigma_b_input` each image gets its sigma_b, log-uniform from half to double the
        preset's; with given times it is the preset's, as in a run.
        """
        n, drawn_times = len(image), times is None
        if times is None:
            strata = (rng.permutation(n) + rng.random(n)) / n
            drawn = 1 + np.floor(strata * self.schedule.steps).astype(np.int64)
            times = torch.from_numpy(drawn)
            if self.preset.regression:
                times = torch.full_like(times, self.schedule.steps)
        seed = int(rng.integers(2**62))
        eps = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
        alpha = self.alphas[times]
        inside = ((image > BLACK) | (scan > BLACK)).to(image.dtype)
        sigma_b = torch.full((n,), self.preset.sigma_b)
        if self.preset.sigma_b_input and drawn_times:
            sigma_b = sigma_b * torch.from_numpy(2 ** rng.uniform(-1, 1, n)).float()
        return Noised(image, diffuse(image, eps, alpha), times, alpha, scan, inside, sigma_b)
