"""Chooses a bundle's gate: validation cases, sound and with planted failures, through its plan.

Half of the cases choose the thresholds, the other half say how well they do.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.backends.ort import load
from mcdiff_batch.engine.errors import CaseError, UsageError
from mcdiff_batch.engine.image.frame import Image, grey
from mcdiff_batch.engine.image.gate import TOO_HIGH, TOO_LOW, Gate, check_values, failed_checks
from mcdiff_batch.engine.image.metrics import psnr
from mcdiff_batch.engine.model import ladder
from mcdiff_batch.engine.model.batch import condition, scans, strips
from mcdiff_batch.engine.model.contract import Contract, load_bundle, write_contract
from mcdiff_batch.engine.model.framing import FramedCase, check_depths, frame_case
from mcdiff_batch.engine.model.noise import gaussian
from mcdiff_batch.engine.model.plan import Conditioned, Device, Plan
from mcdiff_batch.engine.model.sampler import draws
from mcdiff_batch.engine.model.solver import Rung
from mcdiff_batch.engine.run import finisher
from mcdiff_batch.engine.run.finisher import Sampled
from mcdiff_batch.engine.run.job import temperature

SOUND = "sound"
BUDGET = 0.05  # of false alarms
ROOM = 1.0  # standard deviations of sound cases that a threshold should have to itself
APART = 2  # a case's failures come from the one after next, so that both are of one half

Say = Callable[[str], None]
Quality = dict[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One result and its quality columns; `kind` is SOUND or the failure that was planted."""

    case: int
    kind: str
    quality: Quality
    moved_db: float = float("nan")  # PSNR against the sound result


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What a case is put through: as a run does, on one device and one case at a time."""

    plan: Plan
    contract: Contract
    count: int  # draws
    temperature: float
    walk: tuple[Rung, ...]

    def result(self, case: FramedCase, conditioned: Conditioned) -> Sampled:
        shape = (1, *case.strip.shape)
        scale = np.float32(self.temperature)
        noises = (scale * gaussian(0, case.key, shape, i)[None] for i in range(self.count))
        drawn = draws(self.plan, noises, conditioned, self.walk)
        label = conditioned.label[0]
        return self.relabelled(
            Sampled(
                case=case,
                image=drawn.mean[0, 0],
                before=label,
                after=label,
                spread=None if drawn.spread is None else drawn.spread[0, 0],
            )
        )

    def relabelled(self, done: Sampled) -> Sampled:
        black = np.where(done.case.strip, done.image, np.float32(-1))
        return replace(done, after=self.plan.relabel(black[None, None], strips([done.case]))[0])


def read_cases(data: Path, contract: Contract, count: int) -> list[FramedCase]:
    """The first `count` cases of an archive that can be read.  Raises UsageError below four."""
    archive = open_archive(data)
    check_depths(archive, contract)
    found: list[FramedCase] = []
    for index in range(archive.cases):
        if len(found) == count:
            break
        try:
            found.append(frame_case(archive.read(index), contract))
        except CaseError:
            continue
    if len(found) < 2 * APART:
        raise UsageError(f"{data}: {len(found)} cases can be read, a gate needs {2 * APART}")
    return found[: len(found) // 2 * 2]


def trials(
    plan: Plan, contract: Contract, cases: Sequence[FramedCase], count: int
) -> Iterator[Trial]:
    """Every case as it is, and with each failure planted.  `plan` takes one case at a time."""
    heat = temperature(contract, count)
    walk = tuple(ladder.walk(contract, *ladder.automatic(contract, heat, count)))
    bench = Bench(plan=plan, contract=contract, count=count, temperature=heat, walk=walk)
    sound: list[Sampled] = []
    for number, case in enumerate(cases):
        own = condition(plan, [case])
        sound.append(bench.result(case, own))
        yield _trial(number, SOUND, sound[-1])
        other = cases[(number + APART) % len(cases)]
        for kind, done in _failures(bench, case, other, own):
            yield _trial(number, kind, done, sound[-1])
    for number, done in enumerate(sound):
        other_done = sound[(number + APART) % len(sound)]
        swapped = replace(other_done, case=done.case, before=done.before)
        yield _trial(number, "swapped case", bench.relabelled(swapped), done)


def _failures(
    bench: Bench, case: FramedCase, other: FramedCase, own: Conditioned
) -> Iterator[tuple[str, Sampled]]:
    """What needs a walk of its own: conditions of another case over this one's scan; a depth that
    is black, though present by its word."""
    stack, weights = other.depths[None], other.weights[None]
    theirs = bench.plan.condition(stack, weights, strips([case]), scans([case]))
    yield "wrong conditions", bench.result(case, replace(theirs, label=own.label))
    present = [int(x) for x in np.flatnonzero(case.weights)]
    if len(present) < 2:
        return
    ranked = sorted(present, key=lambda x: (x != case.optimal, -case.weights[x]))
    for kind, depth in (("missing optimal depth", ranked[0]), ("missing other depth", ranked[1])):
        less = replace(case, depths=_without(case.depths, depth))
        yield kind, bench.result(less, condition(bench.plan, [less]))


def _without(depths: Image, depth: int) -> Image:
    left = depths.copy()
    left[depth] = -1
    return left


def _trial(number: int, kind: str, done: Sampled, sound: Sampled | None = None) -> Trial:
    image = grey(done.image, done.case.strip)
    moved = float("nan")
    if sound is not None:
        moved = psnr(done.image, sound.image, done.case.strip, data_range=2.0)
    return Trial(case=number, kind=kind, quality=finisher.measure(done, image), moved_db=moved)


def chosen(found: Sequence[Trial]) -> Gate:
    """The thresholds that the even cases ask for, with figures of the odd ones.

    One check after another, those with room to spare first (see `Cut`), until none gains.
    """
    fitting = [x for x in found if x.case % 2 == 0]
    gate = Gate()
    while cuts := [x for x in _cuts(gate, fitting) if x.gain > 0]:
        best = max(cuts, key=lambda x: (x.room >= ROOM, x.gain, x.room))
        limit: dict[str, Any] = {best.check: round(best.at, 4)}
        gate = replace(gate, **limit)
    scoring = [x for x in found if x.case % 2]
    return replace(gate, figures=_figures(gate, fitting, scoring))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A threshold that could be added, half way between two results."""

    check: str
    at: float
    gain: float  # share of failures newly caught, less that of sound cases newly flagged
    room: float  # between the two, in standard deviations of the sound ones


def _cuts(gate: Gate, found: Sequence[Trial]) -> Iterator[Cut]:
    """Every threshold of every check not yet made that keeps false alarms in the budget."""
    caught = np.array([bool(failed_checks(gate, x.quality)) for x in found])
    sound = np.array([x.kind == SOUND for x in found])
    rows = [check_values(x.quality) for x in found]
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
    plan = load(bundle, Device(kind="cpu", index=0), batch=1)
    cases = read_cases(data, contract, count)
    found: list[Trial] = []
    for trial in trials(plan, contract, cases, draw_count):
        found.append(trial)
        if trial.kind == SOUND:
            say(f"case {trial.case + 1} of {len(cases)}")
    gate = chosen(found)
    write_contract(replace(contract, gate=gate), root)
    return gate


def as_text(gate: Gate) -> str:
    """Thresholds and figures for a person, 80 columns."""
    figures = gate.figures
    lines = ["flagged where"]
    for names, word in ((TOO_LOW, "below"), (TOO_HIGH, "above")):
        limits = {name: getattr(gate, name) for name in names}
        lines += [f"  {k:<10} {word} {v:g}" for k, v in limits.items() if v is not None]
    lines += [f"on {figures['cases_scoring']} cases that chose nothing:"]
    lines += [f"  false alarms            {figures['false_alarms']}"]
    lines += [f"  planted failures caught {figures['caught']}"]
    for kind, row in figures["kinds"].items():
        moved = f"{row['psnr_to_sound_db']:.1f} dB from the sound result"
        lines.append(f"    {kind:<22}{row['caught']:<12}{moved}")
    return "\n".join(lines)


def _figures(gate: Gate, fitting: Sequence[Trial], scoring: Sequence[Trial]) -> dict[str, Any]:
    """Counts over the scoring half, and what each kind of failure did to the image."""
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
                    float(np.median([x.moved_db for x, _ in failures if x.kind == kind])), 1
                ),
            }
            for kind, count in Counter(x.kind for x, _ in failures).items()
        },
    }
