"""A bench from end to end: cost and ceiling, parts, table, judgements, document."""

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
from mcdiff_batch.bench.common.document import publish
from mcdiff_batch.bench.common.percentiles import PERCENTS, samples_needed
from mcdiff_batch.bench.common.workload import SEED, Workload, describe_devices
from mcdiff_batch.engine.backends.devices import devices
from mcdiff_batch.engine.errors import SpaceError, UsageError, VerificationError
from mcdiff_batch.engine.files import workplace
from mcdiff_batch.engine.model.contract import SHIPPED, load_bundle
from mcdiff_batch.engine.telemetry.machine import machine
from mcdiff_batch.engine.text import format_bytes
from mcdiff_batch.train.phantom.archive import write_phantoms

from .requirements import (
    Baseline,
    Judgement,
    Requirement,
    capacity,
    compare,
    facts,
    judge,
    parse_requirements,
    parse_tolerance,
    read_baseline,
)

PACKAGES = ("onnx", "torch", "diffusers", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx")
CASE_BYTES = 1_500_000  # largest size of a phantom on disk
MEASURES_OF = {
    "latency": (*(f"p{x}_latency_ms" for x in PERCENTS), "cold_start_s"),
    "throughput": ("cases_per_hour", "devices_over_one", "memory_mib"),
    "io": ("host_cases_per_s",),
    "step": ("step_ms", "gemm_share"),
    "fidelity": ("psnr_db",),
}
Json = dict[str, Any]
Measure = Callable[[Workload, Json], Json]  # (subject, documents of the parts before)


def say(text: str) -> None:
    """Prints progress on stderr, because stdout is the result."""
    click.echo(f"  ... {text}", err=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a bench.  `module` has `measures` for the judgement and `as_text` for the table."""

    name: str
    module: ModuleType
    measure: Measure


@dataclass(frozen=True, slots=True, kw_only=True)
class Criteria:
    """What a machine has to reach: requirements, a baseline, a number of cases in some hours."""

    requirements: Sequence[Requirement]
    baseline: Baseline | None
    tolerance: float  # share by which a measure may be worse than the baseline
    cases: int | None
    hours: float | None

    @property
    def measures(self) -> set[str]:
        """The measures that are judged."""
        before = self.baseline.measures if self.baseline else {}
        return {x.measure for x in self.requirements} | set(before)

    @property
    def samples(self) -> int:
        """The fewest samples that support the percentiles among the measures."""
        needed = (samples_needed(x) for x in PERCENTS if f"p{x}_latency_ms" in self.measures)
        return max(needed, default=1)

    def judge(self, document: Json) -> list[Judgement]:
        """One judgement per criterion.  document: of this bench."""
        measures, unknown = document["measures"], document["unknown"]
        judgements = judge(self.requirements, measures, unknown)
        if self.baseline is not None:
            judgements += compare(self.baseline.measures, measures, unknown, self.tolerance)
        if self.cases is not None and self.hours is not None:
            best = document["parts"]["throughput"]["best"]
            room = capacity(
                self.cases,
                self.hours,
                start_s=best["start_s"]["median"],
                cases_per_hour=best["cases_per_hour"]["median"],
                where=document["parts"]["throughput"]["where"],
            )
            judgements.append(room.judgement)
        return judgements


def read_criteria(options: Mapping[str, Any], parts: Sequence[str]) -> Criteria:
    """Reads the criteria from the options, before anything is measured.  Raises UsageError."""
    requirements = parse_requirements(options["require"]) if options["require"] else []
    measured = {x for part in parts for x in MEASURES_OF.get(part, ())}
    for x in requirements:
        if x.measure not in measured:
            raise UsageError(f"--require: this command does not measure {x.measure}; use `bench`")
    if (options["cases"] is None) != (options["hours"] is None):
        raise UsageError("--cases and --hours: give both or none")
    if options["cases"] is not None and "throughput" not in parts:
        raise UsageError("--cases: this command does not measure the rate; use `bench`")
    return Criteria(
        requirements=requirements,
        baseline=read_baseline(options["against"]) if options["against"] else None,
        tolerance=parse_tolerance(options["tolerance"]),
        cases=options["cases"],
        hours=options["hours"],
    )


@contextmanager
def workload(options: Mapping[str, Any], cases: int) -> Iterator[Workload]:
    """The workload: the user's archive, or so many different phantoms.  Raises SpaceError."""
    parent = Path(options["scratch"] or tempfile.gettempdir())
    with workplace(parent / "mcdiff-bench") as scratch:
        scratch.mkdir()
        bundle = load_bundle(options["bundle"] or SHIPPED)
        path = options["archive"] or scratch / "phantoms.zarr"
        work = Workload(
            bundle=bundle, path=path, scratch=scratch, devices=options["devices"] or "auto"
        )
        devices(work.devices)  # raises for a wrong --devices before phantoms are drawn
        if options["archive"] is None:
            if shutil.disk_usage(scratch).free < cases * CASE_BYTES:
                raise SpaceError(
                    f"{parent}: has no room for {cases} phantoms, which take up to "
                    f"{format_bytes(cases * CASE_BYTES)}; use another --scratch, or fewer --samples"
                )
            say(f"drawing {cases} different phantoms")
            write_phantoms(path, cases=cases, seed=SEED)
        yield work


def carry_out(
    workload: Workload, parts: Sequence[Part], criteria: Criteria, output: Path | None
) -> None:
    """Measures all parts; prints cost, table, judgements and, last, the document on one line.

    Raises VerificationError if a criterion is not met.
    """
    start = time.monotonic()
    document = _head(workload)
    tables: list[str] = []
    for part in parts:
        result = part.measure(workload, document["parts"])
        document["parts"][part.name] = result
        figures, unknown = part.module.measures(result)
        document["measures"] |= figures
        document["unknown"] |= unknown
        tables += ["", *part.module.as_text(result)]
        document["surroundings"]["ceilings"] += _ceilings_after(workload, part.name)
    document["surroundings"]["after"] = surroundings()
    tables += physics.steadiness(document["surroundings"]["ceilings"])
    document["seconds"] = round(time.monotonic() - start, 1)
    baseline, judgements = criteria.baseline, criteria.judge(document)
    notes = baseline.differences(facts(document)) if baseline else []
    document["gate"] = [{"met": x.met, "text": x.text} for x in judgements]
    click.echo("\n".join([*tables, "", *notes, *map(str, judgements)]))
    publish(document, output)
    failing = [x.text for x in judgements if not x.met]
    if failing:
        raise VerificationError(f"not fit for deployment: {'; '.join(failing)}")


def _ceilings_after(workload: Workload, part: str) -> list[Json]:
    """Measures the ceilings again after a part; they fall if other programs load the machine."""
    top = ceilings(workload.device, 0.3)
    return [top.as_dict(part)] if top else []


def _installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def _head(workload: Workload) -> Json:
    """Prints the cost of a case and the ceilings; the document before any part."""
    before, top = surroundings(), ceilings(workload.device)
    facts_of_case = physics.physics(
        workload.bundle, top, physics.costs(workload.bundle, workload.device, 1)
    )
    place = describe_devices(devices(workload.devices))
    for line in physics.as_text(facts_of_case, workload.bundle, top, place, before):
        click.echo(line)
    return {
        "what": "bench",
        "schema": 1,
        "machine": machine(tuple(name for name in PACKAGES if _installed(name))),
        "surroundings": {"before": before, "ceilings": [top.as_dict("start")] if top else []},
        "bundle": {"name": workload.bundle.contract.name, "sha256": workload.bundle.sha256},
        "where": place,
        "cases": workload.archive.cases,
        "physics": facts_of_case,
        "parts": {},
        "measures": {},
        "unknown": {},
    }
