"""A bench from end to end: physics, parts, table, gate, document."""

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from mcdiff_batch.bench.common import physics
from mcdiff_batch.bench.common.ceilings import ceilings, surroundings
from mcdiff_batch.bench.common.percentiles import PERCENTS, needed
from mcdiff_batch.bench.common.workload import SEED, Workload, describe_devices
from mcdiff_batch.engine.backends.devices import devices
from mcdiff_batch.engine.errors import SpaceError, UsageError, VerificationError
from mcdiff_batch.engine.model.contract import SHIPPED, load_bundle
from mcdiff_batch.engine.telemetry.machine import machine
from mcdiff_batch.train.phantom.archive import write_phantoms

from .requirements import (
    Baseline,
    Requirement,
    Verdict,
    baseline,
    capacity,
    compared,
    facts,
    judged,
    requirements,
    tolerance,
)

ALSO = ("onnx", "torch", "diffusers", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx")
CASE_BYTES = 1_500_000  # of a phantom on disk, at most
GIVES = {
    "latency": (*(f"p{x}_latency_ms" for x in PERCENTS), "cold_start_s"),
    "throughput": ("cases_per_hour", "devices_over_one", "memory_mib"),
    "io": ("host_cases_per_s",),
    "step": ("step_ms", "gemm_share"),
    "fidelity": ("psnr_db",),
}
Json = dict[str, Any]
Measure = Callable[[Workload, Json], Json]  # (subject, documents of the parts before)


def say(text: str) -> None:
    """Progress goes to stderr: stdout is the result."""
    click.echo(f"  ... {text}", err=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a command measures.  `module` tells the figures for the gate and the table."""

    name: str
    module: ModuleType
    measure: Measure


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    asked: Sequence[Requirement]
    before: Baseline | None
    allowed: float  # share that a measure may be worse than before
    cases: int | None
    hours: float | None

    @property
    def wanted(self) -> set[str]:
        return {x.measure for x in self.asked} | set(self.before.measures if self.before else ())

    @property
    def samples(self) -> int:
        """The fewest that the percentiles asked for can be told from."""
        return max((needed(x) for x in PERCENTS if f"p{x}_latency_ms" in self.wanted), default=1)

    def verdicts(self, document: Json) -> list[Verdict]:
        measures, unknown = document["measures"], document["unknown"]
        out = judged(self.asked, measures, unknown)
        if self.before is not None:
            out += compared(self.before.measures, measures, unknown, self.allowed)
        if self.cases is not None and self.hours is not None:
            best = document["parts"]["throughput"]["best"]
            told = capacity(
                self.cases,
                self.hours,
                start_s=best["start_s"]["median"],
                cases_per_hour=best["cases_per_hour"]["median"],
                where=document["parts"]["throughput"]["where"],
            )
            out.append(told.verdict)
        return out


def gate(options: Mapping[str, Any], parts: Sequence[str]) -> Gate:
    """From the command line, before anything is measured.  Raises UsageError."""
    asked = requirements(options["require"]) if options["require"] else []
    given = {x for part in parts for x in GIVES.get(part, ())}
    for x in asked:
        if x.measure not in given:
            raise UsageError(f"--require: {x.measure} is not measured by this command; use `bench`")
    if (options["cases"] is None) != (options["hours"] is None):
        raise UsageError("--cases and --hours: one needs the other; expected both or none")
    if options["cases"] is not None and "throughput" not in parts:
        raise UsageError("--cases: the rate is not measured by this command; use `bench`")
    before = baseline(options["against"]) if options["against"] else None
    return Gate(
        asked=asked,
        before=before,
        allowed=tolerance(options["tolerance"]),
        cases=options["cases"],
        hours=options["hours"],
    )


@contextmanager
def workload(options: Mapping[str, Any], cases: int) -> Iterator[Workload]:
    """Over the user's archive, or `cases` phantoms, every one another.  Raises SpaceError."""
    with tempfile.TemporaryDirectory(dir=options["scratch"], prefix="mcdiff-bench-") as name:
        scratch = Path(name)
        bundle = load_bundle(options["bundle"] or SHIPPED)
        path = options["archive"] or scratch / "phantoms.zarr"
        found = Workload(
            bundle=bundle, path=path, scratch=scratch, devices=options["devices"] or "auto"
        )
        devices(found.devices)  # what is wrong is said first
        if options["archive"] is None:
            if shutil.disk_usage(scratch).free < cases * CASE_BYTES:
                raise SpaceError(
                    f"{scratch.parent}: has no room for {cases} phantoms, up to "
                    f"{cases * CASE_BYTES >> 20} MiB; use another --scratch, or fewer --samples"
                )
            say(f"drawing {cases} phantoms, every one another")
            write_phantoms(path, cases=cases, seed=SEED)
        yield found


def carry_out(workload: Workload, parts: Sequence[Part], asked: Gate, output: Path | None) -> None:
    """Prints physics, table, verdicts and, last, the document on one line.

    Raises VerificationError where a requirement is not met.
    """
    start = time.monotonic()
    document = _head(workload)
    tables: list[str] = []
    for part in parts:
        found = part.measure(workload, document["parts"])
        document["parts"][part.name] = found
        known, unknown = part.module.measures(found)
        document["measures"] |= known
        document["unknown"] |= unknown
        tables += ["", *part.module.as_text(found)]
        document["surroundings"]["ceilings"] += _meanwhile(workload, part.name)
    document["surroundings"]["after"] = surroundings()
    tables += physics.steadiness(document["surroundings"]["ceilings"])
    document["seconds"] = round(time.monotonic() - start, 1)
    notes = asked.before.differences(facts(document)) if asked.before else []
    verdicts = asked.verdicts(document)
    document["gate"] = [{"met": x.met, "text": x.text} for x in verdicts]
    click.echo("\n".join([*tables, "", *notes, *map(str, verdicts)]))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(document, indent=1) + "\n")
    click.echo(json.dumps(document))
    failing = [x.text for x in verdicts if not x.met]
    if failing:
        raise VerificationError(f"not fit to be deployed: {'; '.join(failing)}")


def _meanwhile(workload: Workload, part: str) -> list[Json]:
    """The ceilings again, behind a part: what others took of the machine shows in them."""
    top = ceilings(workload.device, 0.3)
    return [top.as_dict(part)] if top else []


def _installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def _head(workload: Workload) -> Json:
    """What is known before anything is measured; printed at once."""
    before, top = surroundings(), ceilings(workload.device)
    told = physics.physics(workload.bundle, top, physics.costs(workload.bundle, workload.device, 1))
    place = describe_devices(devices(workload.devices))
    for line in physics.as_text(told, workload.bundle, top, place, before):
        click.echo(line)
    return {
        "what": "bench",
        "schema": 1,
        "machine": machine(tuple(name for name in ALSO if _installed(name))),
        "surroundings": {"before": before, "ceilings": [top.as_dict("start")] if top else []},
        "bundle": {"name": workload.bundle.contract.name, "sha256": workload.bundle.sha256},
        "where": place,
        "cases": workload.archive.cases,
        "physics": told,
        "parts": {},
        "measures": {},
        "unknown": {},
    }
