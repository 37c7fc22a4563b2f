"""Low-band anchoring: the lowest spatial band of x0-hat comes from the depths (SCIENCE.md).

Most of the distance to a clean target is tone drift in that band, different from draw to draw; the
band of the weighted depth mean is what the scanner saw.  The blur is a Gaussian of sigma =
height / 30, normalised by the strip, so that the black around a scan does not leak in.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

SIGMA_PER_HEIGHT = 1 / 30


def gaussian_taps(height: int) -> Tensor:
    """1-D Gaussian for a frame of `height` px, cut at three sigma, sum 1."""
    sigma = height * SIGMA_PER_HEIGHT
    radius = math.ceil(3 * sigma)
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    return taps / taps.sum()


def blur(image: Tensor, taps: Tensor) -> Tensor:
    """Separable blur of [B, 1, H, W], zeros beyond the frame."""
    radius = len(taps) // 2
    tall = F.conv2d(image, taps.reshape(1, 1, -1, 1), padding=(radius, 0))
    return F.conv2d(tall, taps.reshape(1, 1, 1, -1), padding=(0, radius))


def low_band(image: Tensor, strip: Tensor, taps: Tensor) -> Tensor:
    """The lowest band of an image inside its strip, [B, 1, H, W]."""
    return blur(image * strip, taps) / blur(strip, taps).clamp(min=1e-3)


def anchored(x0: Tensor, low: Tensor, strip: Tensor, taps: Tensor, gate: Tensor) -> Tensor:
    """x0-hat with its low band replaced and black outside the strip where gate = 1; as is at 0."""
    inside = strip * (low - low_band(x0, strip, taps))
    return (x0 + gate * (inside + (1 - strip) * (-1 - x0))).clamp(-1, 1)
