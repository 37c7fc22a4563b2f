"""Percentiles that their number of samples supports, and the spread of repeats.

The estimate is MLPerf Inference's for a single stream (loadgen: early_stopping.cc, results.cc;
confidence 0.99, tolerance 0).  Let t be the largest number for which "t or fewer of n samples
exceed the true percentile" has a chance below 1 %.  The estimate is the t-th slowest sample.  A
percentile that does not allow t = 1 is refused.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from statistics import median

import numpy as np
from scipy import special

CONFIDENCE = 0.99
PERCENTS = (50, 90, 95, 99)
MOST = 1 << 20  # samples; more than any percentile of PERCENTS needs


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentile:
    """A percentile in the unit of the samples; both values are None if samples < needed."""

    percent: float
    samples: int
    needed: int
    measured: float | None  # the sample at that rank
    estimate: float | None  # with 99 % confidence, the true percentile is no larger


def tolerated_misses(samples: int, percent: float) -> int:
    """t: the rank of the estimate among the slowest samples; 0 if there are too few."""
    over = 1 - percent / 100
    odds = special.bdtr(np.arange(samples + 1.0), samples, over)
    return max(0, int(np.searchsorted(odds, 1 - CONFIDENCE)) - 1)


@lru_cache
def samples_needed(percent: float) -> int:
    """The fewest samples that MLPerf's rule accepts: 64 for p90, 662 for p99."""
    enough = lambda n: bool(special.bdtr(1.0, n, 1 - percent / 100) < 1 - CONFIDENCE)
    return bisect_left(range(MOST), True, lo=2, key=enough)


def percentile(values: Sequence[float], percent: float) -> Percentile:
    ordered, count = sorted(values), len(values)
    enough = count >= samples_needed(percent)
    return Percentile(
        percent=percent,
        samples=count,
        needed=samples_needed(percent),
        measured=ordered[int(count * percent / 100)] if enough else None,
        estimate=ordered[count - tolerated_misses(count, percent)] if enough else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Median and range of the repeats of one figure."""

    median: float
    low: float
    high: float
    repeats: int

    def as_dict(self) -> dict[str, float]:
        rounded = {key: float(f"{value:.5g}") for key, value in asdict(self).items()}
        return rounded | {"repeats": self.repeats}

    def __str__(self) -> str:
        return f"{self.median:.4g} ({self.low:.4g}..{self.high:.4g})"


def spread(values: Sequence[float]) -> Spread:
    return Spread(median=median(values), low=min(values), high=max(values), repeats=len(values))
