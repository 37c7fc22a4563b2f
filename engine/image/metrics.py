"""Measures of image quality: SNR and CNR of the paper (eq. 12 and 13), PSNR, Dice, ROC area.

SNR and CNR are ratios here.  Their logarithm is named wherever it is shown: "20 ln" beside the
paper's figures, decibels of 20 log10 everywhere else.  Two images are compared on one grid, the
frame, so an enhancement that changes nothing has a gain of exactly 0.
"""

import numpy as np
from scipy import ndimage

from .frame import Image, Labels, Mask

BONE_MARGIN_MM = 1.0  # around the bone, in neither region
RING_MM = 4.5  # width of the background region, beyond the margin


def snr_ratio(image: Image, signal: Mask, background: Mask) -> float:
    """Eq. 12 before its logarithm: (1 - mu_s) / sigma_b.  image [H, W] in [0, 1]."""
    return _ratio(1 - _mean(image, signal), _std(image, background))


def cnr_ratio(image: Image, signal: Mask, background: Mask) -> float:
    """Eq. 13 before its logarithm: |mu_s - mu_b| / sqrt(sigma_s^2 + sigma_b^2)."""
    contrast = abs(_mean(image, signal) - _mean(image, background))
    return _ratio(contrast, float(np.hypot(_std(image, signal), _std(image, background))))


def log10_db(ratio: float) -> float:
    """20 log10, the usual decibel."""
    return float(20 * np.log10(ratio))


def ln_db(ratio: float) -> float:
    """20 ln, which the paper's tables call dB: 2.3 times 20 log10 (see train/README.md)."""
    return float(20 * np.log(ratio))


def contrast(image: Image, s: Mask, b: Mask) -> dict[str, float]:
    """CNR and SNR of an image [H, W] in [0, 1], each as 20 ln and as 20 log10."""
    ratios = {"cnr": cnr_ratio(image, s, b), "snr": snr_ratio(image, s, b)}
    logarithms = {"ln": ln_db, "log10": log10_db}
    return {f"{name}_{log}": of(x) for log, of in logarithms.items() for name, x in ratios.items()}


def roc_area(image: Image, s: Mask, b: Mask) -> float:
    """Probability that a px of b is brighter than one of s; ties count half, 0.5 is no contrast."""
    dark, bright = np.sort(image[s]), image[b]
    below = np.searchsorted(dark, bright, "left") + np.searchsorted(dark, bright, "right")
    return float(below.mean() / (2 * len(dark)))


def psnr(image: Image, reference: Image, where: Mask, data_range: float = 1.0) -> float:
    """Peak signal-to-noise ratio inside `where`, dB of 20 log10; infinite for equal images."""
    error = float(np.mean(np.square(image[where] - reference[where], dtype=np.float64)))
    return float(20 * np.log10(data_range) - 10 * np.log10(error)) if error else float("inf")


def dice(a: Labels, b: Labels, classes: int = 4) -> list[float]:
    """Dice of each class except the background; NaN for a class in neither map."""
    scores = []
    for label in range(1, classes):
        size = np.count_nonzero(a == label) + np.count_nonzero(b == label)
        both = np.count_nonzero((a == label) & (b == label))
        scores.append(2 * both / size if size else float("nan"))
    return scores


def mean_dice(a: Labels, b: Labels, classes: int = 4) -> float:
    """Mean Dice over the classes in either map; 1 where there are none."""
    scores = [x for x in dice(a, b, classes) if not np.isnan(x)]
    return float(np.mean(scores)) if scores else 1.0


def regions(bone: Mask, strip: Mask, spacing_mm: float) -> tuple[Mask, Mask]:
    """The regions (s, b) of eq. 12 and 13: the bone, and a ring that begins 1 mm from it.

    Both lie inside the strip.  The whole strip cannot be b, because its midline is dark.
    """
    if not bone.any():
        return bone, bone
    distance = ndimage.distance_transform_edt(~bone) * spacing_mm
    ring = (distance > BONE_MARGIN_MM) & (distance <= BONE_MARGIN_MM + RING_MM)
    return bone & strip, ring & strip


def _mean(image: Image, where: Mask) -> float:
    return float(image[where].mean(dtype=np.float64)) if where.any() else float("nan")


def _std(image: Image, where: Mask) -> float:
    return float(image[where].std(dtype=np.float64)) if where.any() else float("nan")


def _ratio(above: float, below: float) -> float:
    """NaN where it is undefined or has no logarithm."""
    return above / below if above > 0 and below > 0 else float("nan")
