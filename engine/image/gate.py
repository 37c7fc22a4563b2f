"""Decides which results somebody should look at first: quality columns against thresholds.

The thresholds are part of a bundle.  `mcdiff-batch gate` chooses them on validation cases with
planted failures, and stores beside them how many of those they caught.  Three checks need no
bundle: they tell that the archive probably says something wrong of its images, or that no spine was
found in them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mcdiff_batch.engine.archive.attributes import is_human
from mcdiff_batch.engine.text import clean

from .columns import (
    AGREEMENT,
    BONE_SHARE,
    COVERAGE,
    INVENTED,
    LEVELS,
    LOST,
    LUMBAR,
    SPREAD,
    THORACIC,
    Quality,
)

MOST_LEVELS = 18  # thoracic and lumbar vertebrae are 17; some people have one more
WIDEST_DEG = 120.0  # of a curve angle
TOO_LOW = ("agreement", "coverage")  # checks that fail below their threshold
TOO_HIGH = ("levels", "angle", "spread")  # checks that fail above it


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """The threshold of each check; None where the check is not made."""

    agreement: float | None = None  # least mean Dice of the label maps before and after
    coverage: float | None = None  # least share of the strip that each depth present must show
    levels: float | None = None  # most vertebral levels lost and invented, together
    angle: float | None = None  # most change of a curve angle, degrees
    spread: float | None = None  # most mean spread over draws, of [0, 1]
    figures: dict[str, Any] = field(default_factory=dict)  # what it caught, on how many cases


def failed_checks(gate: Gate, quality: Quality) -> tuple[str, ...]:
    """Names of the checks that a case fails.  A value that is undefined fails none."""
    values = check_values(quality)
    low = [x for x in TOO_LOW if values[x] < _threshold(gate, x)]
    return (*low, *(x for x in TOO_HIGH if values[x] > _threshold(gate, x)))


def failed_plausibility(
    quality: Quality, faint: bool, size_mm: tuple[float, float]
) -> tuple[str, ...]:
    """Names of the checks that fail because the archive's own statements cannot be right, or
    because the label map of the scan has no bone, so that no other check says anything.

    faint: whether the scan uses a small part of the intensity range.  size_mm: of the scan, y, x;
    NaN where it is unknown: then nothing is known of the anatomy either.
    """
    angles = (quality.get(THORACIC.after), quality.get(LUMBAR.after))
    human = (
        is_human(*size_mm)
        and not (quality.get(LEVELS.after) or 0) > MOST_LEVELS
        and not any((x or 0) > WIDEST_DEG for x in angles)
    )
    doubtful = not human and np.isfinite(size_mm).all()
    failed = {
        "intensity": faint,
        "anatomy": doubtful,
        "bone": quality.get(BONE_SHARE.name) == 0,
    }
    return tuple(name for name, fails in failed.items() if fails)


def explain(failed: Iterable[str], quality: Quality) -> list[str]:
    """A line for a person on each check that a case failed."""
    values = check_values(quality)
    lost, invented = LOST.value(quality), INVENTED.value(quality)
    lines = {
        "agreement": f"label map changed: Dice {values['agreement']:.2f}",
        "coverage": f"a depth shows only {values['coverage']:.0%} of the scan",
        "levels": f"levels: {lost:.0f} lost, {invented:.0f} invented",
        "angle": f"curve angle changed by {values['angle']:.1f}°",
        "spread": f"draws differ: {values['spread']:.3f} on average",
        "intensity": "uses a small part of the intensity range; check mcdiff.intensity_range",
        "bone": "no bone was found in the scan",
        "anatomy": "size in mm, levels or angles that no human spine has; check the pixel spacing",
    }
    return [clean(lines.get(name, name)) for name in failed]


def check_values(quality: Quality) -> dict[str, float]:
    """The value that each check compares with its threshold; NaN where it is undefined."""
    return {
        "agreement": AGREEMENT.value(quality),
        "coverage": COVERAGE.value(quality),
        "levels": LOST.value(quality) + INVENTED.value(quality),
        "angle": float(np.fmax(abs(THORACIC.change(quality)), abs(LUMBAR.change(quality)))),
        "spread": SPREAD.value(quality),
    }


def _threshold(gate: Gate, check: str) -> float:
    threshold: float | None = getattr(gate, check)
    return float("nan") if threshold is None else threshold
