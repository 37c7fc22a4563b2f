"""Whether a machine may be deployed: requirements, an earlier bench as baseline, capacity."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcdiff_batch.bench.common.percentiles import PERCENTS
from mcdiff_batch.bench.common.physics import is_quiet
from mcdiff_batch.engine.errors import UsageError

LOWER, HIGHER = "<=", ">="  # which values are better
MEASURES = {
    **{f"p{percent}_latency_ms": LOWER for percent in PERCENTS},
    "cold_start_s": LOWER,
    "cases_per_hour": HIGHER,
    "devices_over_one": HIGHER,
    "memory_mib": LOWER,
    "host_cases_per_s": HIGHER,
    "step_ms": LOWER,
    "gemm_share": HIGHER,
    "psnr_db": HIGHER,
}
NUMBER = r"[0-9]+(?:\.[0-9]+)?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """A measure and its bound, such as p95_latency_ms<=400."""

    measure: str
    bound: float

    def __str__(self) -> str:
        return f"{self.measure}{MEASURES[self.measure]}{self.bound:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Whether one criterion is met, in words."""

    met: bool
    text: str

    def __str__(self) -> str:
        return f"{'met  ' if self.met else 'FAILS'}  {self.text}"


def parse_requirements(text: str) -> list[Requirement]:
    """Parses "p95_latency_ms<=400, cases_per_hour>=1800".  Raises UsageError."""
    return [_parse_requirement(part.strip()) for part in text.split(",")]


def _parse_requirement(text: str) -> Requirement:
    match = re.fullmatch(rf"(\w+) *([<>]=) *({NUMBER})", text)
    if not match:
        raise UsageError(
            f"--require: {text!r} is not a requirement; write for example p95_latency_ms<=400"
        )
    measure, sign, bound = match.groups()
    if measure not in MEASURES:
        measures = ", ".join(f"{name}{better}" for name, better in MEASURES.items())
        raise UsageError(f"--require: {measure!r} is not a measure; expected one of {measures}")
    if sign != MEASURES[measure]:
        raise UsageError(
            f"--require: {text!r} would pass a worse machine; write {measure}{MEASURES[measure]}"
        )
    return Requirement(measure=measure, bound=float(bound))


def judge(
    requirements: Sequence[Requirement], measures: Mapping[str, float], unknown: Mapping[str, str]
) -> list[Judgement]:
    """Judges each requirement; one whose measure is absent is not met, and `unknown` says why."""
    return [_judge(x, measures.get(x.measure), unknown.get(x.measure)) for x in requirements]


def _judge(requirement: Requirement, value: float | None, why: str | None) -> Judgement:
    if value is None:
        return Judgement(met=False, text=f"{requirement}: not measured, {why or 'by this command'}")
    met = _no_worse(requirement.measure, value, requirement.bound)
    return Judgement(met=met, text=f"{requirement}: {value:.6g}")


def _no_worse(measure: str, value: float, bound: float) -> bool:
    return value <= bound if MEASURES[measure] == LOWER else value >= bound


def parse_tolerance(text: str) -> float:
    """Parses "5%" to 0.05.  Raises UsageError."""
    match = re.fullmatch(rf"({NUMBER}) *%", text.strip())
    if not match or not 0 <= float(match[1]) < 100:
        raise UsageError(
            f"--tolerance: {text!r} is not a percentage from 0% to below 100%; write for example 5%"
        )
    return float(match[1]) / 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """The measures of an earlier bench, and the facts under which they are comparable."""

    measures: dict[str, float]
    facts: dict[str, str]

    def differences(self, now: Mapping[str, str]) -> list[str]:
        """One note on each fact that differs now."""
        pairs = ((name, self.facts.get(name, "unknown"), x) for name, x in now.items())
        return [
            f"note: {name} of the baseline is {was}, now {x}" for name, was, x in pairs if was != x
        ]


def facts(document: Mapping[str, Any]) -> dict[str, str]:
    """The facts of a bench's document.  Raises KeyError, TypeError."""
    bundle, machine = document["bundle"], document["machine"]
    steady = is_quiet(document.get("surroundings", {}).get("ceilings", []))
    return {
        "cpu": str(machine["cpu"]),
        "where": str(document["where"]),
        "bundle": f"{bundle['name']} {bundle['sha256'][:12]}",
        "surroundings": {True: "quiet", False: "not quiet", None: "not known"}[steady],
    }


def read_baseline(path: Path) -> Baseline:
    """Reads the document of an earlier bench.  Raises UsageError."""
    try:
        document = json.loads(path.read_bytes())
        measures, conditions = document["measures"], facts(document)
        values = {name: float(measures[name]) for name in MEASURES if name in measures}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"--against {path}: is not a result of a bench ({error}); give a file that `bench "
            "--output` wrote"
        ) from error
    if not values or not all(math.isfinite(x) for x in values.values()):
        raise UsageError(f"--against {path}: holds no known measure; measure again")
    return Baseline(measures=values, facts=conditions)


def compare(
    before: Mapping[str, float],
    measures: Mapping[str, float],
    unknown: Mapping[str, str],
    allowed: float,
) -> list[Judgement]:
    """Compares the measures with those of an earlier bench.

    A measure fails if it is worse by more than the share `allowed`, or if this bench could not take
    it.  Measures of parts that did not run are left out.
    """
    bounds = {LOWER: 1 + allowed, HIGHER: 1 - allowed}
    judgements = []
    for name in (x for x in before if x in measures or x in unknown):
        requirement = Requirement(measure=name, bound=before[name] * bounds[MEASURES[name]])
        judgement = _judge(requirement, measures.get(name), unknown.get(name))
        judgements.append(
            Judgement(met=judgement.met, text=f"{judgement.text} (was {before[name]:.6g})")
        )
    if not judgements:
        raise UsageError("--against: the baseline has no measure in common with this command")
    return judgements


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """Whether a number of cases fits in some hours."""

    cases: int
    hours: float
    hours_needed: float
    where: str  # "2 x NVIDIA RTX A6000"

    @property
    def judgement(self) -> Judgement:
        share = self.hours_needed / self.hours
        cases = f"{self.cases:,} cases"
        if share <= 1:
            text = f"{cases} fit in {self.hours:g} h on {self.where} with {1 - share:.0%} to spare"
        else:
            text = f"{cases} do not fit in {self.hours:g} h on {self.where}: they take "
            text += f"{self.hours_needed:.1f} h, {share:.1f} times as long"
        return Judgement(met=share <= 1, text=text.replace("%", " %"))


def capacity(
    cases: int, hours: float, *, start_s: float, cases_per_hour: float, where: str
) -> Capacity:
    """The capacity of a machine that does `cases_per_hour` after `start_s` seconds."""
    taken = start_s / 3600 + cases / cases_per_hour
    return Capacity(cases=cases, hours=hours, hours_needed=taken, where=where)
