"""The noise schedule, and ladders of times from noise to image.

`alpha` is the cumulative product, as in DDIM: x_t = sqrt(alpha_t) x_0 + sqrt(1 - alpha_t) eps.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def cosine_alphas(steps: int, offset: float = 0.008, max_beta: float = 0.999) -> FloatArray:
    """alpha_0 = 1 .. alpha_T > 0, falling.  Nichol & Dhariwal 2021, eq. 17, beta <= max_beta."""
    curve = np.cos((np.linspace(0, 1, steps + 1) + offset) / (1 + offset) * np.pi / 2) ** 2
    factors = np.maximum(curve[1:] / curve[:-1], 1 - max_beta)
    return np.asarray(np.cumprod(np.append(1.0, factors)), np.float64)


def half_log_snr(alpha: npt.ArrayLike) -> FloatArray:
    """lambda = log(sqrt(alpha) / sqrt(1 - alpha)); infinite at alpha = 1.  Lu et al. 2022."""
    alpha = np.asarray(alpha, np.float64)
    with np.errstate(divide="ignore"):
        return np.asarray(0.5 * (np.log(alpha) - np.log1p(-alpha)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A cosine schedule of T steps; part of the contract."""

    steps: int = 1000
    offset: float = 0.008
    max_beta: float = 0.999

    def alphas(self) -> FloatArray:
        """alpha_0 .. alpha_T, [T + 1]."""
        return cosine_alphas(self.steps, self.offset, self.max_beta)

    def alpha_at(self, t: npt.ArrayLike) -> FloatArray:
        """alpha at any t, log-linear between integer steps."""
        table = np.log(self.alphas())
        return np.exp(np.interp(np.asarray(t, np.float64), np.arange(self.steps + 1), table))


def time_of(schedule: Schedule, lam: float) -> float:
    """The time t, 0 < t <= T, of a half-log-SNR; inverts `alpha_at`."""
    table = np.log(schedule.alphas())
    wanted = -np.logaddexp(0, -2 * lam)  # log alpha
    return float(
        np.clip(np.interp(wanted, table[::-1], np.arange(schedule.steps, -1, -1)), 1e-3, None)
    )


def uniform_ladder(schedule: Schedule, evaluations: int) -> tuple[float, ...]:
    """Times from T down, equally spaced, without 0.  With `evaluations` = T, every step."""
    return tuple(float(t) for t in np.linspace(schedule.steps, 0, evaluations + 1)[:-1])


def log_snr_ladder(
    schedule: Schedule, evaluations: int, first: float = -5.1, last: float = 3.5
) -> tuple[float, ...]:
    """Times equally spaced in half-log-SNR from `first` to `last`.

    The ladder starts at lambda = -5.1 (t about 996) and uses x_T as x_t: below, errors in x0-hat
    are amplified 200 times.  The solver adds the last step, to alpha_0 = 1.
    """
    table = half_log_snr(schedule.alphas()[1:])
    wanted = np.linspace(first, last, evaluations) if evaluations > 1 else np.array([first])
    times = np.interp(wanted, table[::-1], np.arange(schedule.steps, 0, -1))
    return tuple(round(float(t), 3) for t in times)
