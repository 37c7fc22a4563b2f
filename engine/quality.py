"""How good an image is, by a label map: the paper's SNR and CNR, and label agreement.

Two images are compared on one grid, the frame's, to which both were area-averaged, so that an
identity "enhancement" scores a gain of exactly 0 dB.
"""

import numpy as np
from scipy import ndimage

from .frame import Image, Mask
from .plan import Labels

BONE_MARGIN_MM = 1.0  # b leaves out this much around the bone (SCIENCE.md)
RING_MM = 4.5
FALLBACK_SPACING_MM = 1.8  # of a frame px, where an archive does not say


def snr(image: Image, signal: Mask, background: Mask) -> float:
    """Eq. 12, dB: 20 log10((1 - mu_s) / sigma_b).  image [H, W] in [0, 1]; NaN where undefined."""
    return _decibel(1 - _mean(image, signal), _std(image, background))


def cnr(image: Image, signal: Mask, background: Mask) -> float:
    """Eq. 13, dB: 20 log10(|mu_s - mu_b| / sqrt(sigma_s^2 + sigma_b^2)).  [H, W] in [0, 1]."""
    contrast = abs(_mean(image, signal) - _mean(image, background))
    return _decibel(contrast, float(np.hypot(_std(image, signal), _std(image, background))))


def psnr(image: Image, reference: Image, where: Mask, data_range: float = 1.0) -> float:
    """Peak signal-to-noise ratio inside `where`, dB; infinite for equal images."""
    error = float(np.mean(np.square(image[where] - reference[where], dtype=np.float64)))
    return float(20 * np.log10(data_range) - 10 * np.log10(error)) if error else float("inf")


def dice(a: Labels, b: Labels, classes: int = 4) -> list[float]:
    """Dice of each class but the background; NaN for a class that neither map has."""
    scores = []
    for label in range(1, classes):
        size = np.count_nonzero(a == label) + np.count_nonzero(b == label)
        both = np.count_nonzero((a == label) & (b == label))
        scores.append(2 * both / size if size else float("nan"))
    return scores


def mean_dice(a: Labels, b: Labels, classes: int = 4) -> float:
    """Mean over the classes that either map has; 1 where neither has any."""
    scores = [x for x in dice(a, b, classes) if not np.isnan(x)]
    return float(np.mean(scores)) if scores else 1.0


def regions(
    bone: Mask, strip: Mask, spacing_mm: float, ring_mm: float | None = None
) -> tuple[Mask, Mask]:
    """(s, b): the bone, and the strip outside the bone grown by 1 mm (or only a ring around it)."""
    distance = ndimage.distance_transform_edt(~bone) * spacing_mm if bone.any() else None
    if distance is None:
        return bone, strip
    background = strip & (distance > BONE_MARGIN_MM)
    if ring_mm is not None:
        background &= distance <= BONE_MARGIN_MM + ring_mm
    return bone & strip, background


def measure(
    before: Image, after: Image, labels: tuple[Labels, Labels], strip: Mask, spacing_mm: float
) -> dict[str, float]:
    """Quality columns of one case.  before, after [H, W] in [0, 1]; labels before and after."""
    spacing = spacing_mm if np.isfinite(spacing_mm) else FALLBACK_SPACING_MM
    s, b = regions(labels[0] > 0, strip, spacing)
    _, ring = regions(labels[0] > 0, strip, spacing, RING_MM)
    return {
        "cnr_before": cnr(before, s, b),
        "cnr_after": cnr(after, s, b),
        "cnr_ring_before": cnr(before, s, ring),
        "cnr_ring_after": cnr(after, s, ring),
        "snr_before": snr(before, s, b),
        "snr_after": snr(after, s, b),
        "label_agreement": mean_dice(*labels),
        "bone_share": float(s.sum() / max(1, strip.sum())),
    }


def _mean(image: Image, where: Mask) -> float:
    return float(image[where].mean(dtype=np.float64)) if where.any() else float("nan")


def _std(image: Image, where: Mask) -> float:
    return float(image[where].std(dtype=np.float64)) if where.any() else float("nan")


def _decibel(above: float, below: float) -> float:
    if not (np.isfinite(above) and np.isfinite(below)) or above <= 0 or below <= 0:
        return float("nan")
    return float(20 * np.log10(above / below))
