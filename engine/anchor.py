"""Anchors a result to the scan: its tone, and its px wherever the model has nothing to add.

The extractor's features say where bone is, and little of how bright the scanner showed it or of the
tissue's texture: most of a sample's distance to the truth is tone drift and invented texture.  So
two numbers, gain and offset, are fitted to the optimal depth where the two agree (low-band
anchoring in its strongest form); then the scan's own px stand where model and scan agree, and the
model's where they do not.
Tolerances were chosen on 16 validation phantoms (seed 3000) by CNR, SNR and PSNR to clean.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from .frame import Image, Mask
from .reader import FramedCase

SIGMA_PER_HEIGHT = 5 / 256  # how far around a px agreement is looked for
# Differences, of [-1, 1], that leave the scan a weight of 1 / e.  What the model sees and the scan
# does not is mostly bone, which is dark: a scan brighter than the model is doubted sooner.
LOST_BONE = 0.09
ADDED_SHADOW = 0.4
FITS = 3  # of the tone; the first knows of no disagreement yet


def kept(x: Image, batch: Sequence[FramedCase], anchoring: str) -> tuple[Image, Image | None]:
    """Results [B, 1, H, W] to keep of samples, as the contract's `anchoring` has it; and how far
    each px is the scan's own, where it is anchored to that."""
    if anchoring != "scan":
        return x, None
    rows = [
        anchored(row, case.depths[case.optimal], case.strip)
        for row, case in zip(x[:, 0], batch, strict=True)
    ]
    images, trust = (np.stack(part)[:, None] for part in zip(*rows, strict=True))
    return images, trust


def anchored(image: Image, original: Image, strip: Mask) -> tuple[Image, Image]:
    """The result [H, W] in [-1, 1] to keep, and how far it is the scan's own (`agreement`).

    image: the model's, original: the optimal depth.
    """
    model = toned(image, original, strip)
    trust = agreement(model, original, strip)
    return np.where(strip, trust * original + (1 - trust) * model, model), trust


def toned(image: Image, original: Image, strip: Mask) -> Image:
    """gain * image + offset, nearest to `original` in least squares inside the strip.

    Px count as far as the two agree: bone that the scan lost would else take contrast from what
    was found.  A result that does not follow the original at all (gain <= 0) stays as it is: the
    label agreement tells on it.
    """
    model, weight = image, np.asarray(strip, np.float32)
    for _ in range(FITS):
        fit = _fit(image, original, weight)
        if fit is None:
            return image
        gain, offset = fit
        model = np.asarray(np.clip(gain * image + offset, -1, 1), np.float32)
        weight = np.where(strip, np.maximum(agreement(model, original, strip), 1e-4), 0)
    return model


def _fit(image: Image, original: Image, weight: Image) -> tuple[float, float] | None:
    """(gain, offset) by weighted least squares; None where the gain would not be above 0."""
    x, y = image.astype(np.float64), original.astype(np.float64)
    middle, level = (float(np.average(a, weights=weight)) for a in (x, y))
    spread = float(np.average((x - middle) ** 2, weights=weight))
    gain = float(np.average((x - middle) * (y - level), weights=weight)) / spread if spread else 0.0
    return (gain, level - gain * middle) if gain > 0 else None


def agreement(model: Image, original: Image, strip: Mask) -> Image:
    """[H, W] in 0..1: how far the scan can be left as it is around each px, speckle aside."""
    sigma = SIGMA_PER_HEIGHT * strip.shape[0]
    inside = np.maximum(_blur(strip.astype(np.float32), sigma), 1e-3)
    local = _blur(np.where(strip, original - model, 0), sigma) / inside
    brighter, darker = (
        _blur(np.where(strip, np.maximum(x, 0), 0), sigma) / inside for x in (local, -local)
    )
    doubt = (brighter / LOST_BONE) ** 2 + (darker / ADDED_SHADOW) ** 2
    return np.asarray(np.exp(-doubt), np.float32)


def _blur(image: Image, sigma: float) -> Image:
    return np.asarray(ndimage.gaussian_filter(image, sigma), np.float32)
