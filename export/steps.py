"""Fits a ladder and its weights to a bundle: where N evaluations look, and how each step moves.

The figures below are those of the first bundle, which predicted eps and put px of the scan back.

In u = x / sqrt(alpha_t), the image that x_t implies, a step is u' = a u + b x0-hat + c x0-hat_prev,
the form that the graph takes.  A published solver chooses a, b, c so that smooth trajectories are
followed to some order.  Those of a bundle at temperature 0 are stiff instead: x0-hat answers a
detail of u with more than its opposite, so that the extrapolation of DPM-Solver++(2M) rings (on a
ladder uniform in log-SNR successive x0-hat stay 18 dB apart from lambda -2 to 1.5 at 32
evaluations, where DDIM's in 125 are at 35 to 50).  So times and weights are fitted to the
reference's walk: `followed` takes each step's weights by least squares onto the reference at the
next time, from where the walk itself has come to.  Its own error is in the fit, and damped by it.
A case counts the more there the farther off it is left (`fair`): at 10 evaluations, fitted on 20
cases, the minimum over 10 others was 41.8 dB with equal shares, 43.2 weighed anew twice and 43.8
four times (median 46.9, 46.4, 45.8).  `fit` tries ladders, from those of the bundle and from
uniform in log-SNR on, and takes the best.

Tried and left out: Gauss-Newton on the last image, in all times and weights together, by forward
differences.  At 8 evaluations on 4 cases three rounds took the best of 12 ladders from 42.2 dB
(median, minimum 35.9) to 43.0 (37.5); a search reached 45.0 for half as many network calls.  And
weights of few cases do not hold elsewhere: of 4 cases at 10 evaluations 48.5 dB (minimum 47.2) was
45.1 (39.3) over 16 cases held out; hence the 40 that `fit-steps` takes.  A search of 40 trials that
looked at 8 of 40 cases alone ended worse than it began.

Weights by spatial band, for u, x0-hat and x0-hat_prev blurred by 0.7 and 1.5 px as well: 2 dB more
at 8 evaluations, 3 at 6 (10 cases not fitted to), which is worth two evaluations of ten, a tenth of
a case's work: not built, for it takes another graph.  One x0-hat more of history gives nothing, and
the depths themselves as terms 4 dB less.

Starting closer, from the scan itself noised to an intermediate time: 8 to 24 evaluations came to 49
to 62 dB of that start's own reference with noise, but the results were worse; without noise they
were as good from a half-log-SNR of -2 down, and 24 to 46 dB from it (12 cases).  Neither saves an
evaluation.  Nor would the part of a step that depends on t alone, computed once a ladder: it is
0.4 % of a step on a CPU.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mcdiff_batch.engine.image.frame import Image, Mask
from mcdiff_batch.engine.model.contract import Contract
from mcdiff_batch.engine.model.plan import Plan
from mcdiff_batch.engine.model.schedule import Schedule, time_of, uniform_ladder
from mcdiff_batch.engine.model.solver import Rung, rungs

Say = Callable[[str], None]
Array = npt.NDArray[np.float64]
PATH = 125  # steps of DDIM that stand for 1000 while fitting: 68 dB from them, shipped bundle
BOUNDS = ((-3.5, 2.5), (-3.0, 2.0), (-4.0, 2.5), (-5.1, 2.5))  # lambda, of the first ladders
HIGHEST = 4.0  # lambda, t about 8
HARDEST, MIDDLE = 8, 4  # cases that a search follows
ROUND = 14  # trials between looks at all cases
WEIGHINGS = 5  # of cases anew, for a step's weights
RIDGE = 1e-6  # of the mean square of the columns
MEDIAN_DB, MIN_DB = 45.0, 42.0  # of the final image, against 1000-step DDIM: what is to be reached


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """A case to fit on, and the reference's way down."""

    conditioned: Any
    noise: Image  # x_T
    strip: Mask
    times: Array  # falling, the last 0
    path: Image  # [len(times), H, W]: x at these times

    def at(self, t: float) -> Image:
        """x of the reference at time t, [H, W]."""
        near = int(np.clip(np.searchsorted(-self.times, -t), 1, len(self.times) - 1))
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
        """As a run takes it: the weights those of x."""
        places = [self.look(i, schedule) for i in range(len(self.table))]
        after = [*(x.signal for x in places[1:]), 1.0]
        return [
            dataclasses.replace(x, a=a * s / x.signal, b=b * s, c=c * s)
            for x, s, (a, b, c) in zip(places, after, self.table[:, 1:].tolist(), strict=True)
        ]

    def look(self, i: int, schedule: Schedule) -> Rung:
        """Evaluation i, with x0-hat for its outcome."""
        t = time_of(schedule, float(self.table[i, 0]))
        alpha = float(schedule.alpha_at(t))
        signal, noise = float(np.sqrt(alpha)), float(np.sqrt(1 - alpha))
        return Rung(t=t, signal=signal, noise=noise, a=0.0, b=1.0, c=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class School:
    """What a fit is made of."""

    plan: Plan
    schedule: Schedule
    lessons: Sequence[Lesson]


@dataclass(frozen=True, slots=True)
class State:
    """Of one case, before an evaluation."""

    u: Image  # [1, 1, H, W]
    previous: Image


def lesson(plan: Plan, contract: Contract, conditioned: Any, noise: Image, strip: Mask) -> Lesson:
    """Walks the reference down, in at most PATH steps, and keeps the way."""
    times = uniform_ladder(contract.schedule, min(PATH, contract.schedule.steps))
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


def fit(school: School, evaluations: int, calls: int, say: Say, known: Sequence[Array] = ()) -> Way:
    """The way down of `evaluations` network evaluations that ends nearest to the reference.

    calls: of the network for a case that the search follows: the hardest under the best ladder so
    far, and some in the middle.  All cases choose the weights, and whether a ladder is better.
    known: half-log-SNR of ladders to begin from, beside uniform ones.
    """
    begun = [*known, *(np.linspace(*ends, evaluations) for ends in BOUNDS)]
    first = followed(school, begun[0])
    few, hard = picked(school, first[1])
    best = max(begun, key=lambda x: margin(followed(few, x)[1], hard))
    way, errors = max(first, followed(school, best), key=lambda x: margin(x[1]))
    rng, trials = np.random.default_rng(0), calls // evaluations
    missed: list[int] = []
    for done in range(0, trials, ROUND):
        few, hard = picked(school, errors, missed)
        found = searched(few, way.table[:, 0], hard, min(ROUND, trials - done), rng)
        other, off = followed(school, found)
        if margin(off) > margin(errors):
            way, errors, missed = other, off, []
        else:
            missed += np.argsort(-off)[:MIDDLE].tolist()
    say(f"{evaluations} evaluations: {told(errors)} on the cases fitted to")
    return way


def grown(lambdas: Array) -> list[Array]:
    """Ladders of one evaluation more: before the first, between two, behind the last."""
    between = (lambdas[1:] + lambdas[:-1]) / 2
    behind = lambdas[-1] + max(1e-3, min(0.7, HIGHEST - lambdas[-1]))
    places = (lambdas[0] - 0.4, *between, behind)
    return [np.sort(np.append(lambdas, x)) for x in places]


def picked(school: School, errors: Array, also: Sequence[int] = ()) -> tuple[School, int]:
    """With the hardest cases, and how many these are, then some in the middle."""
    order = np.argsort(-errors)
    hard = dict.fromkeys([*order[:HARDEST].tolist(), *also])
    middle = order[max(0, (len(order) - MIDDLE) // 2) :][:MIDDLE]
    few = [school.lessons[i] for i in (*hard, *middle)]
    return dataclasses.replace(school, lessons=few), len(hard)


def searched(
    school: School, kept: Array, hard: int, trials: int, rng: np.random.Generator
) -> Array:
    """Half-log-SNR after so many trials from `kept` on: the best one's steps, each stretched at
    random; further where that helped, less far where not ((1 + 1) evolution).

    hard: how many of the cases, the first ones, have no part in the median.
    """
    highest, reach = margin(followed(school, kept)[1], hard), 0.1
    for _ in range(trials):
        lambdas = stretched(kept, reach, rng)
        score = margin(followed(school, lambdas)[1], hard)
        if score > highest:
            kept, highest, reach = lambdas, score, min(0.4, 1.3 * reach)
        else:
            reach = max(0.03, 0.93 * reach)
    return kept


def stretched(lambdas: Array, reach: float, rng: np.random.Generator) -> Array:
    first = lambdas[0] + reach * rng.standard_normal()
    steps = np.diff(lambdas) * np.exp(reach * rng.standard_normal(len(lambdas) - 1))
    found = first + np.append(0, np.cumsum(steps))
    return np.asarray(np.minimum(found, HIGHEST + 1e-3 * np.arange(len(lambdas))))


def decibels(errors: Array) -> Array:
    """PSNR at range 2."""
    return np.asarray(10 * np.log10(4 / errors))


def margin(errors: Array, hard: int = 0) -> float:
    """By how much dB what is to be reached is exceeded, by the minimum and by the median without
    the first `hard` cases."""
    scores = decibels(errors)
    return float(min(np.median(scores[hard:]) - MEDIAN_DB, scores.min() - MIN_DB))


def told(errors: Array) -> str:
    scores = decibels(errors)
    return f"median {np.median(scores):.1f}, minimum {scores.min():.1f} dB"


def followed(school: School, lambdas: Array) -> tuple[Way, Array]:
    """Step by step, the weights that lead nearest to the reference at the next time; and the mean
    square of each case at the end."""
    way = Way(np.column_stack([lambdas, np.zeros((len(lambdas), 3))]))
    looks = [way.look(i, school.schedule) for i in range(len(lambdas))]
    after = [*((x.t, x.signal) for x in looks[1:]), (0.0, 1.0)]
    states = [_start(looks[0], x) for x in school.lessons]
    for i, (look, (t, signal)) in enumerate(zip(looks, after, strict=True)):
        pairs = list(zip(states, school.lessons, strict=True))
        found = [_estimate(school.plan, look, *pair) for pair in pairs]
        columns = [
            np.stack([y[0, 0][x.strip] for y in (state.u, x0, state.previous)], axis=1)
            for (state, x), x0 in zip(pairs, found, strict=True)
        ]
        weights = fair(columns, [x.at(t)[x.strip] / signal for x in school.lessons])
        way.table[i, 1:] = weights
        states = [_moved(weights, *pair) for pair in zip(states, found, strict=True)]
    ends = zip(states, school.lessons, strict=True)
    return way, np.array([x.error(state.u[0, 0]) for state, x in ends])


def _start(look: Rung, x: Lesson) -> State:
    return State(np.asarray(x.noise / np.float32(look.signal)), np.zeros_like(x.noise))


def _estimate(plan: Plan, look: Rung, state: State, x: Lesson) -> Image:
    _, x0 = plan.step(np.float32(look.signal) * state.u, state.previous, look, x.conditioned)
    return x0


def _moved(weights: Array, state: State, x0: Image) -> State:
    a, b, c = (np.float32(x) for x in weights)
    return State(a * state.u + b * x0 + c * state.previous, x0)


def fair(columns: Sequence[npt.NDArray[Any]], targets: Sequence[npt.NDArray[Any]]) -> Array:
    """Weights of the columns, by least squares over cases; a column of zeros gets none.

    Each round a case's share is multiplied by the root of what it was left with, so that it is more
    than the sum of squares that falls: the hardest cases count.  columns: a case's, [px, columns].
    """
    a = [x.astype(np.float64) / np.sqrt(len(x)) for x in columns]
    b = [x.astype(np.float64) / np.sqrt(len(x)) for x in targets]
    grams = np.stack([x.T @ x for x in a])
    sides = np.stack([x.T @ y for x, y in zip(a, b, strict=True)])
    shares = np.ones(len(a))
    weights = _solved(shares, grams, sides)
    for _ in range(WEIGHINGS):
        left = np.array([np.mean(np.square(x @ weights - y)) for x, y in zip(a, b, strict=True)])
        shares = shares * np.sqrt(left / max(float(np.median(left)), 1e-300))
        weights = _solved(shares, grams, sides)
    return weights


def _solved(shares: Array, grams: Array, sides: Array) -> Array:
    gram, side = np.tensordot(shares, grams, 1), shares @ sides
    ridge = RIDGE * max(float(np.trace(gram)) / len(gram), 1e-12)
    return np.asarray(np.linalg.solve(gram + ridge * np.eye(len(gram)), side))
