"""The noise schedule and the ladders of time steps that walk down it.

`alpha` is the cumulative product, as in DDIM: x_t = sqrt(alpha_t) x_0 + sqrt(1 - alpha_t) eps.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def cosine_alphas(steps: int, offset: float = 0.008, max_beta: float = 0.999) -> FloatArray:
    """alpha_0 = 1 .. alpha_T > 0, falling.  Nichol & Dhariwal 2021, eq. 17, beta <= max_beta."""
    curve = np.cos((np.linspace(0, 1, steps + 1) + offset) / (1 + offset) * np.pi / 2) ** 2
    kept = np.maximum(curve[1:] / curve[:-1], 1 - max_beta)
    return np.asarray(np.cumprod(np.append(1.0, kept)), np.float64)


def half_log_snr(alpha: npt.ArrayLike) -> FloatArray:
    """lambda = log(sqrt(alpha) / sqrt(1 - alpha)); infinite at alpha = 1.  Lu et al. 2022."""
    alpha = np.asarray(alpha, np.float64)
    with np.errstate(divide="ignore"):
        return np.asarray(0.5 * (np.log(alpha) - np.log1p(-alpha)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Cosine schedule of T steps; part of a bundle's contract."""

    steps: int = 1000
    offset: float = 0.008
    max_beta: float = 0.999

    def alphas(self) -> FloatArray:
        """alpha_0 .. alpha_T, [T + 1]."""
        return cosine_alphas(self.steps, self.offset, self.max_beta)

    def alpha_at(self, t: npt.ArrayLike) -> FloatArray:
        """alpha at fractional t: log-linear between the integer steps."""
        table = np.log(self.alphas())
        return np.exp(np.interp(np.asarray(t, np.float64), np.arange(self.steps + 1), table))


def time_of(schedule: Schedule, lam: float) -> float:
    """Fractional t of a half-log-SNR; the inverse of `alpha_at`, kept above 0 and up to T."""
    table = np.log(schedule.alphas())
    wanted = -np.logaddexp(0, -2 * lam)  # log alpha
    return float(
        np.clip(np.interp(wanted, table[::-1], np.arange(schedule.steps, -1, -1)), 1e-3, None)
    )


def uniform_ladder(schedule: Schedule, evaluations: int) -> tuple[float, ...]:
    """T .. down to 0 exclusive, equally spaced in t; `evaluations` = T visits every step."""
    return tuple(float(t) for t in np.linspace(schedule.steps, 0, evaluations + 1)[:-1])


def log_snr_ladder(
    schedule: Schedule, evaluations: int, first: float = -5.1, last: float = 3.5
) -> tuple[float, ...]:
    """Times equally spaced in half-log-SNR from `first` to `last`.

    Below lambda = -5.1 (t about 996) x0-hat is an error amplified 200 times, so the ladder starts
    there and takes x_T as x_t; the final step, to alpha_0 = 1, is the sampler's own.
    """
    known = half_log_snr(schedule.alphas()[1:])
    wanted = np.linspace(first, last, evaluations) if evaluations > 1 else np.array([first])
    times = np.interp(wanted, known[::-1], np.arange(schedule.steps, 0, -1))
    return tuple(round(float(t), 3) for t in times)
