"""Chooses a bundle's gate on validation cases, which are sampled sound and with planted failures.

Half of the cases choose the thresholds, the other half measure them.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.backends.ort import CPU, REFERENCE
from mcdiff_batch.engine.errors import CaseError, UsageError
from mcdiff_batch.engine.image.frame import Image, grey
from mcdiff_batch.engine.image.gate import TOO_HIGH, TOO_LOW, Gate, check_values, failed_checks
from mcdiff_batch.engine.image.metrics import psnr
from mcdiff_batch.engine.model import ladder
from mcdiff_batch.engine.model.batch import condition, scans, strips
from mcdiff_batch.engine.model.contract import Contract, load_bundle, write_contract
from mcdiff_batch.engine.model.framing import FramedCase, check_depths, frame_case
from mcdiff_batch.engine.model.noise import gaussian
from mcdiff_batch.engine.model.plan import Conditioning, Plan
from mcdiff_batch.engine.model.sampler import sample_draws
from mcdiff_batch.engine.model.solver import Rung
from mcdiff_batch.engine.run import finisher
from mcdiff_batch.engine.run.finisher import Enhancement
from mcdiff_batch.engine.run.job import temperature

from .card import write_card

SOUND = "sound"
BUDGET = 0.05  # largest share of false alarms
ENOUGH = 0.9  # share of the planted failures to catch, below which the command warns
ROOM = 1.0  # gap around a threshold, in standard deviations of sound cases, that is enough
APART = 2  # a case's failures come from the case after next, so that both are in one half

Say = Callable[[str], None]
Quality = dict[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One result and its quality columns; `kind` is SOUND or the planted failure."""

    case: int
    kind: str
    quality: Quality
    psnr_to_sound_db: float = float("nan")  # PSNR of the image against the sound one


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseSampler:
    """Samples one case at a time, as a run does."""

    plan: Plan
    contract: Contract
    count: int  # draws
    temperature: float
    walk: tuple[Rung, ...]

    def sample(self, case: FramedCase, conditioned: Conditioning) -> Enhancement:
        shape = (1, *case.strip.shape)
        scale = np.float32(self.temperature)
        noises = (scale * gaussian(0, case.key, shape, i)[None] for i in range(self.count))
        drawn = sample_draws(self.plan, noises, conditioned, self.walk)
        label = conditioned.label[0]
        return self.relabel(
            Enhancement(
                case=case,
                image=drawn.mean[0, 0],
                before=label,
                after=label,
                spread=None if drawn.spread is None else drawn.spread[0, 0],
            )
        )

    def relabel(self, done: Enhancement) -> Enhancement:
        """The result with a label map of its own image."""
        black = np.where(done.case.strip, done.image, np.float32(-1))
        return replace(done, after=self.plan.relabel(black[None, None], strips([done.case]))[0])


def read_cases(data: Path, contract: Contract, count: int) -> list[FramedCase]:
    """The first `count` cases of an archive that can be read.  Raises UsageError below four."""
    archive = open_archive(data)
    check_depths(archive, contract)
    cases: list[FramedCase] = []
    for index in range(archive.cases):
        if len(cases) == count:
            break
        try:
            cases.append(frame_case(archive.read(index), contract))
        except CaseError:
            continue
    if len(cases) < 2 * APART:
        raise UsageError(
            f"{data}: {len(cases)} cases can be read, a gate needs {2 * APART}; give more cases"
        )
    return cases[: len(cases) // 2 * 2]


def sample_with_failures(
    plan: Plan, contract: Contract, cases: Sequence[FramedCase], count: int
) -> Iterator[Result]:
    """Samples every case as it is and with each planted failure.  plan: of batch size 1."""
    heat = temperature(contract, count)
    walk = tuple(ladder.find_rungs(contract, *ladder.choose_default(contract, heat, count)))
    sampler = CaseSampler(plan=plan, contract=contract, count=count, temperature=heat, walk=walk)
    sound: list[Enhancement] = []
    for number, case in enumerate(cases):
        own = condition(plan, [case])
        sound.append(sampler.sample(case, own))
        yield _result(number, SOUND, sound[-1])
        other = cases[(number + APART) % len(cases)]
        for kind, done in _failures(sampler, case, other, own):
            yield _result(number, kind, done, sound[-1])
    for number, done in enumerate(sound):
        other_done = sound[(number + APART) % len(sound)]
        swapped = replace(other_done, case=done.case, before=done.before)
        yield _result(number, "swapped case", sampler.relabel(swapped), done)


def _failures(
    sampler: CaseSampler, case: FramedCase, other: FramedCase, own: Conditioning
) -> Iterator[tuple[str, Enhancement]]:
    """Results of failures that need a walk of their own.

    These are the conditions of another case over this one's scan, and a depth that is black
    although the archive says that it is present.
    """
    stack, weights = other.depths[None], other.weights[None]
    theirs = sampler.plan.condition(stack, weights, strips([case]), scans([case]))
    yield "wrong conditions", sampler.sample(case, replace(theirs, label=own.label))
    present = [int(x) for x in np.flatnonzero(case.weights)]
    if len(present) < 2:
        return
    ranked = sorted(present, key=lambda x: (x != case.optimal, -case.weights[x]))
    for kind, depth in (("missing optimal depth", ranked[0]), ("missing other depth", ranked[1])):
        damaged = replace(case, depths=_without(case.depths, depth))
        yield kind, sampler.sample(damaged, condition(sampler.plan, [damaged]))


def _without(depths: Image, depth: int) -> Image:
    left = depths.copy()
    left[depth] = -1
    return left


def _result(number: int, kind: str, done: Enhancement, sound: Enhancement | None = None) -> Result:
    image = grey(done.image, done.case.strip)
    moved = float("nan")
    if sound is not None:
        moved = psnr(done.image, sound.image, done.case.strip, data_range=2.0)
    return Result(
        case=number, kind=kind, quality=finisher.measure(done, image), psnr_to_sound_db=moved
    )


def choose_gate(results: Sequence[Result]) -> Gate:
    """The thresholds that the even cases choose, with figures of the odd ones.

    Adds one check after another, those with enough room first (see `Cut`), until none gains.
    """
    fitting = [x for x in results if x.case % 2 == 0]
    gate = Gate()
    while cuts := [x for x in _cuts(gate, fitting) if x.gain > 0]:
        best = max(cuts, key=lambda x: (x.room >= ROOM, x.gain, x.room))
        limit: dict[str, Any] = {best.check: round(best.at, 4)}
        gate = replace(gate, **limit)
    scoring = [x for x in results if x.case % 2]
    return replace(gate, figures=_figures(gate, fitting, scoring))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A candidate threshold, half way between two results."""

    check: str
    at: float
    gain: float  # share of failures newly caught, less the share of sound cases newly flagged
    room: float  # gap between the two results, in standard deviations of the sound ones


def _cuts(gate: Gate, results: Sequence[Result]) -> Iterator[Cut]:
    """Every threshold of a check not made yet that keeps false alarms within the budget."""
    caught = np.array([bool(failed_checks(gate, x.quality)) for x in results])
    sound = np.array([x.kind == SOUND for x in results])
    rows = [check_values(x.quality) for x in results]
    for check in (*TOO_LOW, *TOO_HIGH):
        if getattr(gate, check) is not None:
            continue
        values = np.array([row[check] for row in rows])
        usual = values[sound & np.isfinite(values)]
        scale = max(float(usual.std()), 1e-6) if len(usual) else 1.0
        asked = np.unique(values[np.isfinite(values) & (sound | ~caught)])
        for low, high in pairwise(asked.tolist()):
            at = (low + high) / 2
            hit = (values < at) if check in TOO_LOW else (values > at)
            if (hit | caught)[sound].mean() <= BUDGET:
                new = hit & ~caught
                gain = float(new[~sound].mean() - new[sound].mean())
                yield Cut(check=check, at=at, gain=gain, room=(high - low) / scale)


def calibrate(root: Path, data: Path, count: int, draw_count: int, say: Say) -> Gate:
    """Chooses the gate of the bundle at `root` and writes it into its contract."""
    bundle = load_bundle(root)
    contract = bundle.contract
    plan = REFERENCE.load(bundle, CPU, batch=1)
    cases = read_cases(data, contract, count)
    results: list[Result] = []
    for result in sample_with_failures(plan, contract, cases, draw_count):
        results.append(result)
        if result.kind == SOUND:
            say(f"case {result.case + 1} of {len(cases)}")
    gate = choose_gate(results)
    write_contract(replace(contract, gate=gate), root)
    write_card(load_bundle(root))
    return gate


def as_text(gate: Gate) -> str:
    """Thresholds and figures for a person, 80 columns."""
    figures = gate.figures
    lines = ["flagged where"]
    for names, word in ((TOO_LOW, "below"), (TOO_HIGH, "above")):
        limits = {name: getattr(gate, name) for name in names}
        lines += [f"  {k:<10} {word} {v:g}" for k, v in limits.items() if v is not None]
    lines += [f"on {figures['cases_scoring']} cases that had no part in the choice:"]
    lines += [f"  false alarms            {figures['false_alarms']}"]
    lines += [f"  planted failures caught {figures['caught']}"]
    for kind, row in figures["kinds"].items():
        moved = f"{row['psnr_to_sound_db']:.1f} dB from the sound result"
        lines.append(f"    {kind:<22}{row['caught']:<12}{moved}")
    caught, _, planted = str(figures["caught"]).partition(" of ")
    if int(caught) < ENOUGH * int(planted):
        lines.append("warning: this bundle's flags miss many wrong results; train it for longer")
    return "\n".join(lines)


def _figures(gate: Gate, fitting: Sequence[Result], scoring: Sequence[Result]) -> dict[str, Any]:
    """Counts over the scoring half, and how far each kind of failure changed the image."""
    hit = [(x, failed_checks(gate, x.quality)) for x in scoring]
    failures = [(x, names) for x, names in hit if x.kind != SOUND]
    alarms = [names for x, names in hit if x.kind == SOUND]
    return {
        "cases_fitting": len({x.case for x in fitting}),
        "cases_scoring": len({x.case for x in scoring}),
        "false_alarms": f"{sum(map(bool, alarms))} of {len(alarms)}",
        "caught": f"{sum(bool(names) for _, names in failures)} of {len(failures)}",
        "kinds": {
            kind: {
                "caught": f"{sum(bool(n) for x, n in failures if x.kind == kind)} of {count}",
                "psnr_to_sound_db": round(
                    float(np.median([x.psnr_to_sound_db for x, _ in failures if x.kind == kind])), 1
                ),
            }
            for kind, count in Counter(x.kind for x, _ in failures).items()
        },
    }
