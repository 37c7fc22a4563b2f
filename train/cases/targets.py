"""The targets of stage III: artifact-free images whose tissue is made more even.

Both need the mask of the bones and nothing else, so a clinic can do the same on its own archive.
"""

import math

import numpy as np
from scipy import ndimage

from mcdiff_batch.engine.image.frame import Image, Labels, scan_strip
from mcdiff_batch.engine.image.metrics import contrast, regions

BROAD_MM = 12.6  # sd of the Gaussian that says how bright the tissue around a px is
DIMMEST, BRIGHTEST = 0.3, 3.0  # bounds of the correction
FALLBACK_SPACING_MM = 1.8  # of a frame px, where the archive gives none


def even(image: Image, label: Labels, spacing_mm: float, share: float) -> Image:
    """Removes a share of the uneven brightness of the tissue from an image [H, W] in [-1, 1].

    A scan is dim where depth or contact changes.  Each px is multiplied by (mean of all tissue /
    mean of the tissue around it) ** share; black outside the strip stays black.
    """
    level, strip = (image + 1) / 2, scan_strip(image[None])
    tissue = strip & (label == 0)
    if not (share and tissue.any()):
        return image
    sigma = BROAD_MM / usable(spacing_mm)
    near = ndimage.gaussian_filter(tissue.astype(np.float32), sigma)
    local = ndimage.gaussian_filter(level * tissue, sigma) / np.maximum(near, 1e-2)
    gain = np.clip(level[tissue].mean() / np.maximum(local, 1e-2), DIMMEST, BRIGHTEST) ** share
    return np.where(strip, np.clip(2 * level * gain - 1, -1, 1), image).astype(np.float32)


def contrast_to_bone(image: Image, label: Labels, spacing_mm: float) -> float:
    """CNR + SNR of an image [H, W] in [-1, 1], eq. 13 and 12, 20 ln; -inf if there is no bone."""
    where = regions(label > 0, scan_strip(image[None]), usable(spacing_mm))
    ratios = contrast((image + 1) / np.float32(2), *where)
    total = ratios["cnr_ln"] + ratios["snr_ln"]
    return total if math.isfinite(total) else -math.inf


def usable(spacing_mm: float) -> float:
    """The spacing of a px, or a usual one if it is unknown."""
    return spacing_mm if math.isfinite(spacing_mm) else FALLBACK_SPACING_MM
