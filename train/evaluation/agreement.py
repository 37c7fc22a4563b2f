"""Agreement between two measurements: ICC with its interval, MAD and SEM; and bootstraps."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Values = npt.NDArray[np.float64]
RESAMPLES = 2000
SEED = 0  # of the bootstrap


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How well two columns of angles agree, over the cases in which both could be read."""

    cases: int
    icc: Interval
    mad: float  # mean absolute difference, degrees
    sem: float  # standard error of measurement: the sd within a subject, degrees


UNKNOWN = Interval(value=float("nan"), low=float("nan"), high=float("nan"))


def agreement(a: Values, b: Values) -> Agreement:
    """Compares a and b [N] in degrees, NaN if not read.

    SEM = sqrt(mean((a - b)^2) / 2), de Vet et al. 2006.  (The paper's inter-rater SEM is its MAD /
    sqrt(2), to the printed digits.)
    """
    both = np.isfinite(a) & np.isfinite(b)
    table = np.stack([a[both], b[both]], axis=1)
    apart = table[:, 0] - table[:, 1]
    return Agreement(
        cases=int(both.sum()),
        icc=icc(table) if len(table) > 2 else UNKNOWN,
        mad=float(np.abs(apart).mean()) if len(table) else float("nan"),
        sem=float(np.sqrt(np.mean(apart**2) / 2)) if len(table) else float("nan"),
    )


def icc(table: Values) -> Interval:
    """ICC(A,1): absolute agreement, single measures.  table [subjects, raters], no NaN.

    McGraw & Wong 1996, tables 4 and 7; the ICC(2,1) of Shrout & Fleiss 1979.
    """
    n, k = table.shape
    rows, columns, error = _mean_squares(table)
    if error + columns <= 1e-12 * max(rows, 1e-300):
        return Interval(value=1.0, low=1.0, high=1.0)
    value = (rows - error) / (rows + (k - 1) * error + k * (columns - error) / n)
    a = k * value / (n * (1 - value))
    b = 1 + k * value * (n - 1) / (n * (1 - value))
    spread = (a * columns) ** 2 / (k - 1) + (b * error) ** 2 / ((n - 1) * (k - 1))
    freedom = (a * columns + b * error) ** 2 / spread
    below = float(stats.f.ppf(0.975, n - 1, freedom))
    above = float(stats.f.ppf(0.975, freedom, n - 1))
    rest = k * columns + (k * n - k - n) * error
    return Interval(
        value=float(value),
        low=float(n * (rows - below * error) / (below * rest + n * rows)),
        high=float(n * (above * rows - error) / (rest + n * above * rows)),
    )


def _mean_squares(table: Values) -> tuple[float, float, float]:
    """The mean squares of rows, columns and residual: two-way analysis of variance."""
    n, k = table.shape
    grand, of_row, of_column = table.mean(), table.mean(axis=1), table.mean(axis=0)
    residual = table - of_row[:, None] - of_column[None] + grand
    rows = k * np.sum((of_row - grand) ** 2) / (n - 1)
    columns = n * np.sum((of_column - grand) ** 2) / (k - 1)
    return float(rows), float(columns), float(np.sum(residual**2) / ((n - 1) * (k - 1)))


def bootstrap(columns: Values, statistic: Callable[[Values], Values]) -> Interval:
    """`statistic` of the means of `columns` [cases, K], with its percentile interval.

    Cases are resampled, with all columns of a case together.  statistic: maps means [..., K] to
    values [...].
    """
    rng = np.random.default_rng(SEED)
    drawn = rng.integers(len(columns), size=(RESAMPLES, len(columns)))
    low, high = np.nanpercentile(statistic(columns[drawn].mean(axis=1)), [2.5, 97.5])
    value = statistic(columns.mean(axis=0))
    return Interval(value=float(value), low=float(low), high=float(high))
