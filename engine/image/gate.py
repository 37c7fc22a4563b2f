"""Which results somebody should look at first: quality columns against a bundle's thresholds.

The label map of the result is held against that of the scan.  Thresholds are chosen on validation
cases with planted failures (`mcdiff-batch gate`), and how well they do is kept beside them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mcdiff_batch.engine.text import clean

from .frame import Image, Mask

Quality = Mapping[str, float | None]  # columns of one case; None or NaN: undefined

TOO_LOW = ("agreement", "coverage")  # checks that flag below their threshold
TOO_HIGH = ("levels", "angle", "spread")  # and above
WORDS = {  # by check of the gate
    "agreement": "label map changed: Dice {agreement:.2f}",
    "coverage": "a depth shows only {coverage:.0%} of the scan",
    "levels": "levels: {levels_lost:.0f} lost, {levels_invented:.0f} invented",
    "angle": "curve angle changed by {angle:.1f}°",
    "spread": "draws differ: {spread:.3f} on average",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """A threshold of each check, or None where the check is not made."""

    agreement: float | None = None  # least mean Dice of the label maps before and after
    coverage: float | None = None  # least share of the strip that each depth present must show
    levels: float | None = None  # most vertebral levels lost and invented, together
    angle: float | None = None  # most change of a curve angle, degrees
    spread: float | None = None  # most mean spread over draws, of [0, 1] (two draws or more)
    figures: dict[str, Any] = field(default_factory=dict)  # what it caught, on how many cases


def flags(gate: Gate, quality: Quality) -> tuple[str, ...]:
    """Names of the checks that a case fails.  What is undefined fails none."""
    found = measures(quality)
    low = [x for x in TOO_LOW if found[x] < _limit(gate, x)]
    return (*low, *(x for x in TOO_HIGH if found[x] > _limit(gate, x)))


def why(failed: Iterable[str], quality: Quality) -> list[str]:
    """For each check that a case failed, a line for a person."""
    numbers = {k: v for k, v in quality.items() if v is not None} | measures(quality)
    return [clean(WORDS[x].format(**numbers) if x in WORDS else x) for x in failed]


def measures(quality: Quality) -> dict[str, float]:
    """What each check looks at; NaN where it is undefined."""
    thoracic, lumbar = (
        abs(_column(quality, f"uca_{curve}_after") - _column(quality, f"uca_{curve}_before"))
        for curve in ("thoracic", "lumbar")
    )
    return {
        "agreement": _column(quality, "label_agreement"),
        "coverage": _column(quality, "depth_coverage"),
        "levels": _column(quality, "levels_lost") + _column(quality, "levels_invented"),
        "angle": float(np.fmax(thoracic, lumbar)),
        "spread": _column(quality, "mean_spread"),
    }


def depth_coverage(depths: Image, weights: npt.NDArray[np.float32], strip: Mask) -> float:
    """The least share of the strip [H, W] that a depth [D, H, W] in [-1, 1] shows at all.

    Only depths of some weight [D] are asked: those absent by the archive's own word have none.
    """
    return float((depths[weights > 0][:, strip] > -1 + 1e-3).mean(axis=1).min())


def _column(quality: Quality, name: str) -> float:
    found = quality.get(name)
    return float("nan") if found is None else float(found)


def _limit(gate: Gate, check: str) -> float:
    limit: float | None = getattr(gate, check)
    return float("nan") if limit is None else limit
