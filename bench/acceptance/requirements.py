"""Whether a machine may be deployed: requirements, an earlier bench as baseline, and capacity."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcdiff_batch.bench.common.percentiles import PERCENTS
from mcdiff_batch.bench.common.physics import quiet
from mcdiff_batch.engine.errors import UsageError

LOWER, HIGHER = "<=", ">="  # what is good
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
    measure: str
    bound: float

    def __str__(self) -> str:
        return f"{self.measure}{MEASURES[self.measure]}{self.bound:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    met: bool
    text: str

    def __str__(self) -> str:
        return f"{'met  ' if self.met else 'FAILS'}  {self.text}"


def requirements(text: str) -> list[Requirement]:
    """ "p95_latency_ms<=400, cases_per_hour>=1800".  Raises UsageError."""
    return [_requirement(part.strip()) for part in text.split(",")]


def _requirement(text: str) -> Requirement:
    found = re.fullmatch(rf"(\w+) *([<>]=) *({NUMBER})", text)
    if not found:
        raise UsageError(f"--require: {text!r} is none; expected such as p95_latency_ms<=400")
    measure, sign, bound = found.groups()
    if measure not in MEASURES:
        known = ", ".join(f"{name}{better}" for name, better in MEASURES.items())
        raise UsageError(f"--require: {measure!r} is not measured; expected one of {known}")
    if sign != MEASURES[measure]:
        raise UsageError(
            f"--require: {text!r} would pass the worse machine; write {measure}{MEASURES[measure]}"
        )
    return Requirement(measure=measure, bound=float(bound))


def judged(
    asked: Sequence[Requirement], measures: Mapping[str, float], unknown: Mapping[str, str]
) -> list[Verdict]:
    """What was not measured is not met; `unknown` says why it was not."""
    return [_judged(x, measures.get(x.measure), unknown.get(x.measure)) for x in asked]


def _judged(asked: Requirement, found: float | None, why: str | None) -> Verdict:
    if found is None:
        return Verdict(met=False, text=f"{asked}: not measured, {why or 'by this command'}")
    met = _no_worse(asked.measure, found, asked.bound)
    return Verdict(met=met, text=f"{asked}: {found:.6g}")


def _no_worse(measure: str, found: float, bound: float) -> bool:
    return found <= bound if MEASURES[measure] == LOWER else found >= bound


def tolerance(text: str) -> float:
    """ "5%" as 0.05.  Raises UsageError."""
    found = re.fullmatch(rf"({NUMBER}) *%", text.strip())
    if not found or not 0 <= float(found[1]) < 100:
        raise UsageError(f"--tolerance: {text!r} is none; expected 0% to under 100%, such as 5%")
    return float(found[1]) / 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """An earlier bench."""

    measures: dict[str, float]
    facts: dict[str, str]  # that should be the same now

    def differences(self, now: Mapping[str, str]) -> list[str]:
        """What the figures are not comparable for, if anything."""
        pairs = ((name, self.facts.get(name, "unknown"), x) for name, x in now.items())
        return [
            f"note: {name} of the baseline is {was}, now {x}" for name, was, x in pairs if was != x
        ]


def facts(document: Mapping[str, Any]) -> dict[str, str]:
    """Of a bench's document.  Raises KeyError, TypeError."""
    bundle, machine = document["bundle"], document["machine"]
    steady = quiet(document.get("surroundings", {}).get("ceilings", []))
    return {
        "cpu": str(machine["cpu"]),
        "where": str(document["where"]),
        "bundle": f"{bundle['name']} {bundle['sha256'][:12]}",
        "surroundings": {True: "quiet", False: "not quiet", None: "not known"}[steady],
    }


def baseline(path: Path) -> Baseline:
    """From a document of an earlier bench.  Raises UsageError."""
    try:
        told = json.loads(path.read_bytes())
        measures, same = told["measures"], facts(told)
        kept = {name: float(measures[name]) for name in MEASURES if name in measures}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"--against {path}: is no result of a bench ({error}); expected a file that `bench "
            "--output` wrote"
        ) from error
    if not kept or not all(math.isfinite(x) for x in kept.values()):
        raise UsageError(f"--against {path}: holds no measure that is known here; measure again")
    return Baseline(measures=kept, facts=same)


def compared(
    before: Mapping[str, float],
    measures: Mapping[str, float],
    unknown: Mapping[str, str],
    allowed: float,
) -> list[Verdict]:
    """A measure worse than before by more than a share of `allowed` fails, and so does one that
    this run meant to take and could not.  Those of parts that were not run are left out."""
    bounds = {LOWER: 1 + allowed, HIGHER: 1 - allowed}
    out = []
    for name in (x for x in before if x in measures or x in unknown):
        asked = Requirement(measure=name, bound=before[name] * bounds[MEASURES[name]])
        verdict = _judged(asked, measures.get(name), unknown.get(name))
        out.append(Verdict(met=verdict.met, text=f"{verdict.text} (was {before[name]:.6g})"))
    if not out:
        raise UsageError("--against: the baseline has no measure in common with this command")
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """Whether a night is long enough."""

    cases: int
    hours: float
    hours_needed: float
    where: str  # "2 x NVIDIA RTX A6000"

    @property
    def verdict(self) -> Verdict:
        share = self.hours_needed / self.hours
        asked = f"{self.cases:,} cases"
        if share <= 1:
            text = f"{asked} fit in {self.hours:g} h on {self.where} with {1 - share:.0%} to spare"
        else:
            text = f"{asked} do not fit in {self.hours:g} h on {self.where}: they take "
            text += f"{self.hours_needed:.1f} h, {share:.1f} times as long"
        return Verdict(met=share <= 1, text=text.replace("%", " %"))


def capacity(
    cases: int, hours: float, *, start_s: float, cases_per_hour: float, where: str
) -> Capacity:
    """`cases_per_hour` once running, after `start_s` seconds."""
    taken = start_s / 3600 + cases / cases_per_hour
    return Capacity(cases=cases, hours=hours, hours_needed=taken, where=where)
