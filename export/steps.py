"""Fits a ladder and its weights to a bundle: the times of N evaluations, and how each step moves.

In u = x / sqrt(alpha_t), the image that x_t implies, a step is u' = a u + b x0-hat + c x0-hat_prev,
the form that the graph takes.  A published solver chooses a, b, c to follow smooth trajectories to
some order.  The trajectories of a bundle at temperature 0 are stiff: x0-hat answers a detail of u
with more than its opposite, and the extrapolation of DPM-Solver++(2M) rings.  So times and weights
are fitted to the walk of the reference.

`follow` finds the weights of each step by least squares onto the reference at the next time,
starting from where the fitted walk itself has arrived, so the fit damps the walk's own error.
`fair_weights` gives a case more weight, the farther its walk is from the reference.  `fit` searches
for ladders, starting from those of the bundle and from uniform ones in log-SNR, and takes the best.

bench/results/README.md has the measurements behind this, and what was tried and left out.
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
PATH = 125  # steps of DDIM that replace 1000 during a fit
BOUNDS = ((-3.5, 2.5), (-3.0, 2.0), (-4.0, 2.5), (-5.1, 2.5))  # lambda of the first ladders
HIGHEST = 4.0  # lambda; t is about 8
HARDEST, MIDDLE = 8, 4  # cases that a search follows
ROUND = 14  # trials between two checks on all cases
WEIGHINGS = 5  # rounds in which cases get new shares, for the weights of a step
RIDGE = 1e-6  # relative to the mean square of the columns
MEDIAN_DB, MIN_DB = 45.0, 42.0  # bars for the final image against 1000-step DDIM


@dataclass(frozen=True, slots=True, kw_only=True)
class FitCase:
    """A case to fit on, and the path of its reference."""

    conditioned: Any
    noise: Image  # x_T
    strip: Mask
    times: Array  # falling, the last 0
    path: Image  # [len(times), H, W]: x at these times

    def at(self, t: float) -> Image:
        """x of the reference at time t, [H, W], interpolated."""
        near = int(np.clip(np.searchsorted(-self.times, -t), 1, len(self.times) - 1))
        later, sooner = self.times[near - 1], self.times[near]
        share = np.float32((later - t) / (later - sooner))
        return np.asarray((1 - share) * self.path[near - 1] + share * self.path[near])

    def error(self, image: Image) -> float:
        """The mean square error of a clipped image inside the strip, against the reference."""
        off = np.clip(image, -1, 1) - self.path[-1]
        return float(np.mean(np.square(off[self.strip], dtype=np.float64)))


@dataclass(frozen=True, slots=True)
class FittedLadder:
    """A ladder with its weights: [N, 4] of half-log-SNR, a, b, c; the weights are those of u."""

    table: Array

    def rungs(self, schedule: Schedule) -> list[Rung]:
        """The rungs of a run, whose weights are those of x."""
        places = [self.look(i, schedule) for i in range(len(self.table))]
        after = [*(x.signal for x in places[1:]), 1.0]
        return [
            dataclasses.replace(x, a=a * s / x.signal, b=b * s, c=c * s)
            for x, s, (a, b, c) in zip(places, after, self.table[:, 1:].tolist(), strict=True)
        ]

    def look(self, i: int, schedule: Schedule) -> Rung:
        """The rung of evaluation i that returns x0-hat itself."""
        t = time_of(schedule, float(self.table[i, 0]))
        alpha = float(schedule.alpha_at(t))
        signal, noise = float(np.sqrt(alpha)), float(np.sqrt(1 - alpha))
        return Rung(t=t, signal=signal, noise=noise, a=0.0, b=1.0, c=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitProblem:
    """A plan, its schedule, and the cases to fit on."""

    plan: Plan
    schedule: Schedule
    cases: Sequence[FitCase]


@dataclass(frozen=True, slots=True)
class State:
    """The state of one case before an evaluation."""

    u: Image  # [1, 1, H, W]
    previous: Image


def walk_fit_case(
    plan: Plan, contract: Contract, conditioned: Any, noise: Image, strip: Mask
) -> FitCase:
    """Walks the reference down in at most PATH steps and stores its path."""
    times = uniform_ladder(contract.schedule, min(PATH, contract.schedule.steps))
    x, x0, path = noise, np.zeros_like(noise), [noise[0, 0]]
    for rung in rungs("ddim", contract.schedule, times):
        x, x0 = plan.step(x, x0, rung, conditioned)
        path.append(x[0, 0])
    return FitCase(
        conditioned=conditioned,
        noise=noise,
        strip=strip,
        times=np.append(times, 0.0),
        path=np.stack(path),
    )


def fit(
    problem: FitProblem, evaluations: int, calls: int, say: Say, ladders: Sequence[Array] = ()
) -> FittedLadder:
    """Finds the ladder of so many evaluations that ends nearest to the references.

    calls: network calls per case that the search follows.  It follows the hardest cases under the
    best ladder so far, and some in the middle.  All cases decide the weights, and whether a ladder
    is better.  known: half-log-SNR of ladders to start from, beside uniform ones.
    """
    starts = [*ladders, *(np.linspace(*ends, evaluations) for ends in BOUNDS)]
    first = follow(problem, starts[0])
    few, hard = pick_cases(problem, first[1])
    best = max(starts, key=lambda x: margin(follow(few, x)[1], hard))
    way, errors = max(first, follow(problem, best), key=lambda x: margin(x[1]))
    rng, trials = np.random.default_rng(0), calls // evaluations
    missed: list[int] = []
    for done in range(0, trials, ROUND):
        few, hard = pick_cases(problem, errors, missed)
        ladder = search(few, way.table[:, 0], hard, min(ROUND, trials - done), rng)
        other, off = follow(problem, ladder)
        if margin(off) > margin(errors):
            way, errors, missed = other, off, []
        else:
            missed += np.argsort(-off)[:MIDDLE].tolist()
    say(f"{evaluations} evaluations: {describe_errors(errors)} on the cases fitted to")
    return way


def grow(lambdas: Array) -> list[Array]:
    """Ladders of one more evaluation: before the first, between any two, after the last."""
    between = (lambdas[1:] + lambdas[:-1]) / 2
    behind = lambdas[-1] + max(1e-3, min(0.7, HIGHEST - lambdas[-1]))
    places = (lambdas[0] - 0.4, *between, behind)
    return [np.sort(np.append(lambdas, x)) for x in places]


def pick_cases(
    problem: FitProblem, errors: Array, also: Sequence[int] = ()
) -> tuple[FitProblem, int]:
    """The hardest cases, then some in the middle; and the number of the hardest."""
    order = np.argsort(-errors)
    hard = dict.fromkeys([*order[:HARDEST].tolist(), *also])
    middle = order[max(0, (len(order) - MIDDLE) // 2) :][:MIDDLE]
    few = [problem.cases[i] for i in (*hard, *middle)]
    return dataclasses.replace(problem, cases=few), len(hard)


def search(
    problem: FitProblem, best: Array, hard: int, trials: int, rng: np.random.Generator
) -> Array:
    """The best half-log-SNR after so many trials from `kept` ((1 + 1) evolution).

    Each trial stretches the steps of the best ladder at random: by more after a success, by less
    after a failure.  hard: the number of first cases that the median leaves out.
    """
    score_of_best, reach = margin(follow(problem, best)[1], hard), 0.1
    for _ in range(trials):
        lambdas = stretch(best, reach, rng)
        score = margin(follow(problem, lambdas)[1], hard)
        if score > score_of_best:
            best, score_of_best, reach = lambdas, score, min(0.4, 1.3 * reach)
        else:
            reach = max(0.03, 0.93 * reach)
    return best


def stretch(lambdas: Array, reach: float, rng: np.random.Generator) -> Array:
    """A ladder with its start moved and its steps stretched at random."""
    first = lambdas[0] + reach * rng.standard_normal()
    steps = np.diff(lambdas) * np.exp(reach * rng.standard_normal(len(lambdas) - 1))
    moved = first + np.append(0, np.cumsum(steps))
    return np.asarray(np.minimum(moved, HIGHEST + 1e-3 * np.arange(len(lambdas))))


def decibels(errors: Array) -> Array:
    """PSNR at range 2, dB."""
    return np.asarray(10 * np.log10(4 / errors))


def margin(errors: Array, hard: int = 0) -> float:
    """By how many dB the bars are exceeded: the lesser of the minimum's and the median's margin.

    The median leaves out the first `hard` cases.
    """
    scores = decibels(errors)
    return float(min(np.median(scores[hard:]) - MEDIAN_DB, scores.min() - MIN_DB))


def describe_errors(errors: Array) -> str:
    scores = decibels(errors)
    return f"median {np.median(scores):.1f}, minimum {scores.min():.1f} dB"


def follow(problem: FitProblem, lambdas: Array) -> tuple[FittedLadder, Array]:
    """Finds, step by step, the weights that lead nearest to the reference at the next time.

    Returns the ladder with its weights, and each case's mean square error at the end.
    """
    way = FittedLadder(np.column_stack([lambdas, np.zeros((len(lambdas), 3))]))
    looks = [way.look(i, problem.schedule) for i in range(len(lambdas))]
    after = [*((x.t, x.signal) for x in looks[1:]), (0.0, 1.0)]
    states = [_start(looks[0], x) for x in problem.cases]
    for i, (look, (t, signal)) in enumerate(zip(looks, after, strict=True)):
        pairs = list(zip(states, problem.cases, strict=True))
        estimates = [_estimate(problem.plan, look, *pair) for pair in pairs]
        columns = [
            np.stack([y[0, 0][x.strip] for y in (state.u, x0, state.previous)], axis=1)
            for (state, x), x0 in zip(pairs, estimates, strict=True)
        ]
        weights = fair_weights(columns, [x.at(t)[x.strip] / signal for x in problem.cases])
        way.table[i, 1:] = weights
        states = [_advance(weights, *pair) for pair in zip(states, estimates, strict=True)]
    ends = zip(states, problem.cases, strict=True)
    return way, np.array([x.error(state.u[0, 0]) for state, x in ends])


def _start(look: Rung, x: FitCase) -> State:
    return State(np.asarray(x.noise / np.float32(look.signal)), np.zeros_like(x.noise))


def _estimate(plan: Plan, look: Rung, state: State, x: FitCase) -> Image:
    _, x0 = plan.step(np.float32(look.signal) * state.u, state.previous, look, x.conditioned)
    return x0


def _advance(weights: Array, state: State, x0: Image) -> State:
    a, b, c = (np.float32(x) for x in weights)
    return State(a * state.u + b * x0 + c * state.previous, x0)


def fair_weights(columns: Sequence[npt.NDArray[Any]], targets: Sequence[npt.NDArray[Any]]) -> Array:
    """Least-squares weights of the columns over all cases; a column of zeros gets weight 0.

    Each round multiplies a case's share by the root of its remaining error, so that the hardest
    cases count most.  columns: [px, columns] of each case.
    """
    a = [x.astype(np.float64) / np.sqrt(len(x)) for x in columns]
    b = [x.astype(np.float64) / np.sqrt(len(x)) for x in targets]
    grams = np.stack([x.T @ x for x in a])
    sides = np.stack([x.T @ y for x, y in zip(a, b, strict=True)])
    shares = np.ones(len(a))
    weights = _solve(shares, grams, sides)
    for _ in range(WEIGHINGS):
        left = np.array([np.mean(np.square(x @ weights - y)) for x, y in zip(a, b, strict=True)])
        shares = shares * np.sqrt(left / max(float(np.median(left)), 1e-300))
        weights = _solve(shares, grams, sides)
    return weights


def _solve(shares: Array, grams: Array, sides: Array) -> Array:
    gram, side = np.tensordot(shares, grams, 1), shares @ sides
    ridge = RIDGE * max(float(np.trace(gram)) / len(gram), 1e-12)
    return np.asarray(np.linalg.solve(gram + ridge * np.eye(len(gram)), side))
