"""Fits a ladder and its weights to a bundle: where N evaluations look, and how each step moves.

In u = x / sqrt(alpha_t), the image that x_t implies, a step is u' = a u + b x0-hat + c x0-hat_prev,
the form that the graph takes.  A published solver chooses a, b, c so that smooth trajectories are
followed to some order.  Those of a bundle at temperature 0 are stiff instead: x0-hat answers a
detail of u with more than its opposite, so that the second order's extrapolation (DPM-Solver++(2M))
rings at every spacing from 6 to 100 evaluations, and DDIM at its coarse steps.  So times and
weights are fitted, all of them to the end of the reference's walk:

1. `followed`: along a ladder, each step's weights by least squares onto the reference at the next
   time, from where the walk itself has come to: its own error is in the fit, and damped by it.
   `searched` tries ladders, from uniform in log-SNR on, and takes the best.
2. `polished`: Gauss-Newton with Levenberg's damping on the last image, in log-SNR times and weights
   together; derivatives are forward differences through the rest of the walk.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mcdiff_batch.engine.contract import Contract
from mcdiff_batch.engine.frame import Image, Mask
from mcdiff_batch.engine.plan import Plan
from mcdiff_batch.engine.schedule import (
    Schedule,
    time_of,
    uniform_ladder,
)
from mcdiff_batch.engine.solver import Rung, rungs

Say = Callable[[str], None]
Array = npt.NDArray[np.float64]
PATH = 125  # steps of DDIM that stand for 1000 while fitting: 68 dB from them, shipped bundle
BOUNDS = ((-3.5, 2.5), (-3.0, 2.0), (-4.0, 2.5), (-5.1, 2.5))  # lambda, of the first ladders
HIGHEST = 4.0  # lambda, t about 8
NUDGE = 1e-3  # of a parameter, for a difference
RIDGE = 1e-6  # of the mean square of the columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """A case to fit on, and the reference's way down."""

    conditioned: Any
    noise: Image  # x_T
    strip: Mask
    times: Array  # falling, the last 0
    path: Image  # [len(times), H, W]: x at these times

    def at(self, t: float) -> Image:
        """u of the reference at time t."""
        near = np.clip(np.searchsorted(-self.times, -t), 1, len(self.times) - 1)
        later, sooner = self.times[near - 1], self.times[near]
        share = np.float32((later - t) / (later - sooner))
        return np.asarray((1 - share) * self.path[near - 1] + share * self.path[near])

    def error(self, image: Image) -> float:
        """Mean square inside the strip, clipped, from the reference's end."""
        off = np.clip(image, -1, 1) - self.path[-1]
        return float(np.mean(np.square(off[self.strip], dtype=np.float64)))


@dataclass(frozen=True, slots=True)
class Way:
    """A ladder with weights: [N, 4] of half-log-SNR, a, b, c, the weights those of u."""

    table: Array

    def rungs(self, schedule: Schedule) -> list[Rung]:
        """As a run takes it, of x."""
        return [self.rung(i, schedule) for i in range(len(self.table))]

    def rung(self, i: int, schedule: Schedule) -> Rung:
        t, signal, noise = self.place(i, schedule)
        after = self.place(i + 1, schedule)[1] if i + 1 < len(self.table) else 1.0
        _, a, b, c = self.table[i].tolist()
        return Rung(t=t, signal=signal, noise=noise, a=a * after / signal, b=b * after, c=c * after)

    def place(self, i: int, schedule: Schedule) -> tuple[float, float, float]:
        """t, sqrt(alpha_t), sqrt(1 - alpha_t) of evaluation i."""
        t = time_of(schedule, float(self.table[i, 0]))
        alpha = float(schedule.alpha_at(t))
        return t, float(np.sqrt(alpha)), float(np.sqrt(1 - alpha))


@dataclass(frozen=True, slots=True)
class State:
    """Of one case, before an evaluation."""

    u: Image  # [1, 1, H, W]
    previous: Image


@dataclass(frozen=True, slots=True, kw_only=True)
class School:
    """What a fit is made of."""

    plan: Plan
    schedule: Schedule
    lessons: Sequence[Lesson]

    def estimate(self, way: Way, i: int, state: State, lesson: Lesson) -> Image:
        """x0-hat of evaluation i."""
        t, signal, noise = way.place(i, self.schedule)
        look = Rung(t=t, signal=signal, noise=noise, a=0.0, b=1.0, c=0.0)
        x = np.float32(signal) * state.u
        _, x0 = self.plan.step(x, state.previous, look, lesson.conditioned)
        return x0

    def start(self, way: Way, lesson: Lesson) -> State:
        signal = way.place(0, self.schedule)[1]
        return State(np.asarray(lesson.noise / np.float32(signal)), np.zeros_like(lesson.noise))

    def end(self, way: Way, i: int, state: State, lesson: Lesson) -> Image:
        """The last image of the walk that is at `state` before evaluation i."""
        for j in range(i, len(way.table)):
            state = moved(way, j, state, self.estimate(way, j, state, lesson))
        return np.asarray(state.u[0, 0])

    def errors(self, way: Way) -> Array:
        """Mean square of each case at the end."""
        return np.array([x.error(self.end(way, 0, self.start(way, x), x)) for x in self.lessons])


def moved(way: Way, i: int, state: State, x0: Image) -> State:
    a, b, c = (np.float32(x) for x in way.table[i, 1:])
    return State(a * state.u + b * x0 + c * state.previous, x0)


def lesson(plan: Plan, contract: Contract, conditioned: Any, noise: Image, strip: Mask) -> Lesson:
    """Walks the reference down, in PATH steps, and keeps the way."""
    times = uniform_ladder(contract.schedule, PATH)
    x, x0, path = noise, np.zeros_like(noise), [noise[0, 0]]
    for rung in rungs("ddim", contract.schedule, times):
        x, x0 = plan.step(x, x0, rung, conditioned)
        path.append(x[0, 0])
    return Lesson(
        conditioned=conditioned,
        noise=noise,
        strip=strip,
        times=np.append(times, 0.0),
        path=np.stack(path),
    )


def fit(school: School, evaluations: int, trials: int, rounds: int, say: Say) -> Way:
    """The way down of `evaluations` network evaluations that ends nearest to the reference."""
    way, errors = searched(school, evaluations, trials)
    say(f"{evaluations} evaluations: {decibels(errors)} on the cases fitted to")
    return polished(school, way, rounds, say)


def searched(school: School, evaluations: int, trials: int) -> tuple[Way, Array]:
    """The best of `trials` ladders: uniform in log-SNR first, then the best one's steps, each
    stretched at random; further where that helps, less far where not.  (1 + 1) evolution."""
    rng, reach = np.random.default_rng(0), 0.3
    kept, best, score = beginnings(evaluations)[0], None, np.inf
    for trial in range(max(trials, 1)):
        lambdas = nth(trial, evaluations, kept, reach, rng)
        way, errors = followed(school, lambdas)
        if worst_first(errors) < score:
            kept, best, score = lambdas, (way, errors), worst_first(errors)
            reach = min(0.5, 1.3 * reach)
        elif trial >= len(BOUNDS):
            reach = max(0.03, 0.93 * reach)
    assert best is not None
    return best


def nth(trial: int, evaluations: int, kept: Array, reach: float, rng: np.random.Generator) -> Array:
    if trial < len(BOUNDS):
        return beginnings(evaluations)[trial]
    first = kept[0] + reach * rng.standard_normal()
    stretched = np.diff(kept) * np.exp(reach * rng.standard_normal(evaluations - 1))
    found = first + np.append(0, np.cumsum(stretched))
    return np.asarray(np.minimum(found, HIGHEST + 1e-3 * np.arange(evaluations)))


def beginnings(evaluations: int) -> list[Array]:
    return [np.linspace(*bounds, evaluations) for bounds in BOUNDS]


def worst_first(errors: Array) -> float:
    """Mean of the logarithms: what a mean in dB is, and each case by its own error."""
    return float(np.mean(np.log(errors)))


def decibels(errors: Array) -> str:
    scores = 10 * np.log10(4 / errors)
    return f"median {np.median(scores):.1f}, minimum {scores.min():.1f} dB"


def followed(school: School, lambdas: Array) -> tuple[Way, Array]:
    """Step by step, the weights that lead nearest to the reference at the next time; and the mean
    square of each case at the end."""
    way = Way(np.column_stack([lambdas, np.zeros((len(lambdas), 3))]))
    states = [school.start(way, x) for x in school.lessons]
    for i in range(len(lambdas)):
        pairs = zip(states, school.lessons, strict=True)
        found = [school.estimate(way, i, state, x) for state, x in pairs]
        after, signal = 0.0, 1.0
        if i + 1 < len(lambdas):
            after, signal, _ = way.place(i + 1, school.schedule)
        columns = [
            np.stack([y[0, 0][x.strip] for y in (state.u, x0, state.previous)], axis=1)
            for state, x0, x in zip(states, found, school.lessons, strict=True)
        ]
        targets = [x.at(after)[x.strip] / signal for x in school.lessons]
        way.table[i, 1:] = least_squares(np.concatenate(columns), np.concatenate(targets), RIDGE)
        states = [moved(way, i, *pair) for pair in zip(states, found, strict=True)]
    return way, np.array(
        [x.error(state.u[0, 0]) for state, x in zip(states, school.lessons, strict=True)]
    )


def least_squares(columns: npt.NDArray[Any], target: npt.NDArray[Any], ridge: float) -> Array:
    """Weights of the columns; those that are zero throughout get none."""
    a, b = columns.astype(np.float64), target.astype(np.float64)
    gram = a.T @ a
    damped = gram + ridge * max(np.trace(gram) / len(gram), 1e-12) * np.eye(len(gram))
    return np.asarray(np.linalg.solve(damped, a.T @ b))


def polished(school: School, way: Way, rounds: int, say: Say) -> Way:
    """Gauss-Newton from `way`; each case counts by the inverse of its own error, as in dB."""
    errors, damping = school.errors(way), 1e-2
    for _ in range(rounds):
        gram, slope = normal_equations(school, way, errors)
        for _ in range(4):
            trial = Way(way.table - _solved(gram, slope, damping).reshape(way.table.shape))
            if _falls(trial, school.schedule):
                reached = school.errors(trial)
                if worst_first(reached) < worst_first(errors):
                    break
            damping *= 8
        else:
            return way
        way, errors, damping = trial, reached, damping / 8
        say(f"{len(way.table)} evaluations: {decibels(errors)} polished")
    return way


def _solved(gram: Array, slope: Array, damping: float) -> Array:
    """Levenberg and Marquardt: damped by each parameter's own curvature, and a little besides."""
    own = np.diag(gram) + 1e-6 * np.trace(gram) / len(gram)
    return np.asarray(np.linalg.solve(gram + damping * np.diag(own), slope))


def _falls(way: Way, schedule: Schedule) -> bool:
    times = [way.place(i, schedule)[0] for i in range(len(way.table))]
    return bool(np.all(np.diff(times) < 0) and times[-1] > 0)


def normal_equations(school: School, way: Way, errors: Array) -> tuple[Array, Array]:
    """J'J and J'r of the last images in all parameters, the row of each case over its error."""
    gram, slope = np.zeros((way.table.size, way.table.size)), np.zeros(way.table.size)
    for x, error in zip(school.lessons, errors, strict=True):
        end, columns = derivatives(school, way, x)
        off = (end - x.path[-1])[x.strip].astype(np.float64)
        j = columns[:, x.strip].astype(np.float64)
        scale = 1 / (error * len(off) * len(school.lessons))
        gram, slope = gram + scale * (j @ j.T), slope + scale * (j @ off)
    return gram, slope


def derivatives(school: School, way: Way, lesson: Lesson) -> tuple[Image, Image]:
    """The last image [H, W], and its derivatives [N * 4, H, W] in the order of the table."""
    states, estimates = [school.start(way, lesson)], []
    for i in range(len(way.table)):
        estimates.append(school.estimate(way, i, states[-1], lesson))
        states.append(moved(way, i, states[-1], estimates[-1]))
    end, columns = states[-1].u[0, 0], []
    for i, (state, x0) in enumerate(zip(states, estimates, strict=False)):
        for k in range(4):
            table = way.table.copy()
            table[i, k] += NUDGE
            nudged = Way(table)
            if k == 0:
                other = school.end(nudged, i, state, lesson)
            else:
                other = school.end(nudged, i + 1, moved(nudged, i, state, x0), lesson)
            columns.append((other - end) / np.float32(NUDGE))
    return end, np.stack(columns)
