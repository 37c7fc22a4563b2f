"""The quality columns of one case that its images and label maps give."""

import numpy as np

from .frame import Image, Labels, Mask
from .metrics import FALLBACK_SPACING_MM, contrast, mean_dice, regions
from .spine import levels_changed, read_spine


def measure(
    before: Image,
    after: Image,
    labels: tuple[Labels, Labels],
    strip: Mask,
    spacing_mm: tuple[float, float],
) -> dict[str, float]:
    """Quality columns of one case.  before, after [H, W] in [0, 1]; labels before and after.

    spacing_mm: y, x, of a px; NaN where it is unknown.
    """
    spacing = float(np.sqrt(np.prod(spacing_mm)))
    spacing = spacing if np.isfinite(spacing) else FALLBACK_SPACING_MM
    s, b = regions(labels[0] > 0, strip, spacing)
    old, new = contrast(before, s, b), contrast(after, s, b)
    return {
        "cnr_log10_before": old["cnr_log10"],
        "cnr_log10_after": new["cnr_log10"],
        "snr_log10_before": old["snr_log10"],
        "snr_log10_after": new["snr_log10"],
        "label_agreement": mean_dice(*labels),
        "bone_share": float(s.sum() / max(1, strip.sum())),
        **spines(*labels, spacing_mm),
    }


def spines(before: Labels, after: Labels, spacing_mm: tuple[float, float]) -> dict[str, float]:
    """Vertebral levels and ultrasound curve angles, degrees, by the label maps [H, W]."""
    old, new = read_spine(before, spacing_mm), read_spine(after, spacing_mm)
    lost, invented = levels_changed(old, new)
    return {
        "levels_before": len(old.levels),
        "levels_after": len(new.levels),
        "levels_lost": lost,
        "levels_invented": invented,
        "uca_thoracic_before": old.thoracic_deg,
        "uca_thoracic_after": new.thoracic_deg,
        "uca_lumbar_before": old.lumbar_deg,
        "uca_lumbar_after": new.lumbar_deg,
        "uca_confidence": new.confidence,
    }
