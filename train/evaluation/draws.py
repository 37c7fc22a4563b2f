"""Whether the spread over draws shows where the model is wrong: spread against true error."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from mcdiff_batch.engine.image.frame import Image, Mask

TENTHS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class SpreadError:
    """Spread against error, in grey levels of 255."""

    per_px: float  # Spearman's rho of spread and |error| inside the strip, mean over cases
    per_case: float  # Spearman's rho of a case's mean spread and its rms error
    spread: list[float]  # mean spread of each tenth of all px, by spread; ties are in one tenth
    error: list[float]  # rms error of the same px


def count_spread(spread: Image, off: Image, strip: Mask) -> dict[str, Any]:
    """Counts of one case: px and squared error by grey level of spread.

    spread, off = |error|: [H, W] in [0, 1].
    """
    levels = np.clip(np.rint(spread[strip] * 255), 0, 255).astype(np.intp)
    error = 255 * off[strip].astype(np.float64)
    varied = len(np.unique(levels)) > 1 and np.ptp(error) > 0
    return {
        "rho": float(stats.spearmanr(levels, error).statistic) if varied else float("nan"),
        "mean": float(levels.mean()),
        "rms": float(np.sqrt(np.mean(error**2))),
        "px": np.bincount(levels, minlength=256).tolist(),
        "squares": np.bincount(levels, error**2, minlength=256).tolist(),
    }


def compare_spread(counts: list[dict[str, Any]]) -> SpreadError | None:
    """Sums the counts of all cases; None if the run stored no spread."""
    if not counts:
        return None
    px, squares = (np.sum([x[name] for x in counts], axis=0) for name in ("px", "squares"))
    tenth = np.minimum((np.cumsum(px) - px / 2) / px.sum() * TENTHS, TENTHS - 1).astype(int)
    members = np.bincount(tenth, px, minlength=TENTHS)
    filled = members > 0
    total = np.bincount(tenth, px * np.arange(256), minlength=TENTHS)[filled]
    errors = np.bincount(tenth, squares, minlength=TENTHS)[filled]
    return SpreadError(
        per_px=_mean([x["rho"] for x in counts]),
        per_case=_rho([x["mean"] for x in counts], [x["rms"] for x in counts]),
        spread=(total / members[filled]).tolist(),
        error=np.sqrt(errors / members[filled]).tolist(),
    )


def _mean(values: list[float]) -> float:
    finite = [x for x in values if np.isfinite(x)]
    return float(np.mean(finite)) if finite else float("nan")


def _rho(a: list[float], b: list[float]) -> float:
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(stats.spearmanr(a, b).statistic)
