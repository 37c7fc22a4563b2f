"""Anchors a result to the scan: its tone, and its px wherever the model has nothing to add.

The extractor's features say where bone is, and little of how bright the scanner showed it or of the
tissue's texture: most of a sample's distance to the truth is tone drift and invented texture.  So
two numbers, gain and offset, are fitted to the optimal depth (low-band anchoring in its strongest
form); then the scan's own px stand where model and scan agree, and the model's where they do not.
Tolerances were chosen on 24 validation phantoms (seed 3000) by CNR, SNR and PSNR to clean.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from .frame import Image, Mask
from .reader import FramedCase

SIGMA_PER_HEIGHT = 2 / 256  # how far around a px agreement is looked for
# Differences, of [-1, 1], that leave the scan a weight of 1 / e.  What the model sees and the scan
# does not is mostly bone, which is dark: a scan brighter than the model is doubted sooner.
LOST_BONE = 0.08
ADDED_SHADOW = 0.4


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

    A result that does not follow the original at all (gain <= 0) stays as it is: the label
    agreement tells on it.
    """
    x, y = (a[strip].astype(np.float64) for a in (image, original))
    spread = np.mean((x - x.mean()) ** 2)
    gain = np.mean((x - x.mean()) * (y - y.mean())) / spread if spread else 0.0
    if not gain > 0:
        return image
    fitted = y.mean() + gain * (image - x.mean())
    return np.asarray(np.clip(fitted, -1, 1), np.float32)


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
