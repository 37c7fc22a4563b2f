"""Computes the quality columns of one case."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .columns import (
    AGREEMENT,
    BONE_SHARE,
    CNR,
    CONFIDENCE,
    COVERAGE,
    INVENTED,
    LEVELS,
    LOST,
    LUMBAR,
    SNR,
    SPREAD,
    THORACIC,
)
from .frame import NEARLY_BLACK, Image, Labels, Mask
from .metrics import contrast, mean_dice, regions
from .spine import can_read, compare_levels, read_spine


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One case on the frame, before and after enhancement."""

    before: Image  # [H, W] in [0, 1], the optimal depth
    after: Image  # [H, W] in [0, 1]
    labels: tuple[Labels, Labels]  # [H, W], before and after
    depths: Image  # [D, H, W] in [-1, 1]
    weights: npt.NDArray[np.float32]  # [D], 0 where the archive says that a depth is absent
    strip: Mask  # [H, W], what the scan covers
    spacing_mm: tuple[float, float]  # y, x, of a px; NaN where it is unknown
    spread: Image | None = None  # [H, W], standard deviation over draws, of [-1, 1]


def measure(result: Result) -> dict[str, float]:
    """Every column by its key; NaN where it is undefined.  SPREAD needs several draws.

    Columns that need the size of a px are NaN where it is unknown; none is assumed.
    """
    spread = {} if result.spread is None else {SPREAD.name: mean_spread(result)}
    return {
        **measure_contrast(result),
        AGREEMENT.name: mean_dice(*result.labels),
        **measure_spines(*result.labels, result.spacing_mm),
        COVERAGE.name: depth_coverage(result.depths, result.weights, result.strip),
        **spread,
    }


def measure_contrast(result: Result) -> dict[str, float]:
    """Both images by the bone and the ring of the label map before."""
    spacing = float(np.sqrt(np.prod(result.spacing_mm)))  # NaN: nothing is within the ring
    bone, ring = regions(result.labels[0] > 0, result.strip, spacing)
    before, after = (contrast(image, bone, ring) for image in (result.before, result.after))
    return {
        **CNR.pair(before["cnr_log10"], after["cnr_log10"]),
        **SNR.pair(before["snr_log10"], after["snr_log10"]),
        BONE_SHARE.name: float(bone.sum() / max(1, result.strip.sum())),
    }


def measure_spines(
    before: Labels, after: Labels, spacing_mm: tuple[float, float]
) -> dict[str, float]:
    """Vertebral levels and ultrasound curve angles, by the label maps [H, W]."""
    old, new = read_spine(before, spacing_mm), read_spine(after, spacing_mm)
    levels: tuple[float, float] = (np.nan, np.nan)
    lost, invented = levels
    if can_read(before, spacing_mm):
        levels = len(old.levels), len(new.levels)
        lost, invented = compare_levels(old, new)
    return {
        **LEVELS.pair(*levels),
        LOST.name: lost,
        INVENTED.name: invented,
        **THORACIC.pair(old.thoracic_deg, new.thoracic_deg),
        **LUMBAR.pair(old.lumbar_deg, new.lumbar_deg),
        CONFIDENCE.name: new.confidence,
    }


def depth_coverage(depths: Image, weights: npt.NDArray[np.float32], strip: Mask) -> float:
    """The least share of the strip [H, W] that a depth [D, H, W] in [-1, 1] shows at all.

    Depths of weight [D] zero are absent by the archive's own word and do not count.
    """
    return float((depths[weights > 0][:, strip] > NEARLY_BLACK).mean(axis=1).min())


def mean_spread(result: Result) -> float:
    """Inside the strip, of grey levels from 0 to 1."""
    assert result.spread is not None
    return float(result.spread[result.strip].mean(dtype=np.float64)) / 2
