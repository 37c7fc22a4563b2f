"""Varies images for the extractor: spines of other proportions, scans of other tones.

The extractor has to read any scan.  If its archive holds phantoms, or the scans of one clinic, it
must not rely on their proportions and their tone.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

ZOOM = 0.2  # largest logarithm of the zoom of an axis
TILT = math.radians(4)  # largest
SHIFT = 0.05  # largest, in half widths
GAMMA = 0.5  # largest logarithm of gamma
BLACK = 1e-3  # darker px lie outside the strip
BLOCK = 16  # px of the coarse grid on which shading is measured
BLURRED = 0.3  # share of the images that are blurred


def vary(image: Tensor, label: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Zooms and tilts image [N, 1, H, W] in [-1, 1] and label [N, H, W], and changes the tone.

    Black outside the strip stays black.
    """
    image, label = _place(image, label, rng)
    level = (image + 1) / 2
    strip = (level > BLACK).to(level.dtype)
    draw = lambda low, high: torch.from_numpy(rng.uniform(low, high, (len(image), 1, 1, 1))).float()
    level = level.clamp(BLACK, 1) ** torch.exp(draw(-GAMMA, GAMMA))
    level = _shade(level, strip, draw(-0.3, 0.7))
    blur = F.avg_pool2d(level, 3, stride=1, padding=1) - level
    level = level + draw(0, 1) * (draw(0, 1) < BLURRED) * blur
    return 2 * (strip * level * draw(0.8, 1.2)).clamp(0, 1) - 1, label


def _place(image: Tensor, label: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Zooms, tilts and shifts image and label together."""
    count, (height, width) = len(image), image.shape[2:]
    across, along = np.exp(rng.uniform(-ZOOM, ZOOM, (2, count)))
    tilt = rng.uniform(-TILT, TILT, count)
    theta = np.zeros((count, 2, 3), np.float32)
    theta[:, 0, 0], theta[:, 0, 1] = across * np.cos(tilt), np.sin(tilt) * height / width
    theta[:, 1, 0], theta[:, 1, 1] = -np.sin(tilt) * width / height, along * np.cos(tilt)
    theta[:, 0, 2] = rng.uniform(-SHIFT, SHIFT, count)
    size = [count, 1, height, width]
    grid = F.affine_grid(torch.from_numpy(theta), size, align_corners=False)
    moved = F.grid_sample(image + 1, grid, align_corners=False) - 1
    classes = F.grid_sample(label[:, None].float(), grid, mode="nearest", align_corners=False)
    return moved, classes[:, 0].to(label.dtype)


def _shade(level: Tensor, strip: Tensor, share: Tensor) -> Tensor:
    """Removes a share of the broad shading; a negative share adds to it."""
    rows, columns = level.shape[2:]
    size = (max(1, rows // BLOCK), max(1, columns // BLOCK))
    smooth = lambda x: F.interpolate(
        F.adaptive_avg_pool2d(x, size), (rows, columns), mode="bilinear"
    )
    local = smooth(level * strip) / smooth(strip).clamp(min=0.05)
    mean = (level * strip).sum((2, 3), keepdim=True) / strip.sum((2, 3), keepdim=True).clamp(min=1)
    return level + share * strip * (mean - local)
