"""The host's work around the model: decode, frame, quality, encode, write; and its ceiling.

First one process alone gives the milliseconds per case.  Then one process per core, each with its
own output, gives the host's ceiling.
"""

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice, pairwise
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from mcdiff_batch.bench.common.workload import Workload
from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.backends.trial import maker
from mcdiff_batch.engine.image.frame import Labels
from mcdiff_batch.engine.model.framing import frame_case
from mcdiff_batch.engine.output.units import make_unit
from mcdiff_batch.engine.run import finisher
from mcdiff_batch.engine.run.finisher import Enhancement, Work
from mcdiff_batch.engine.run.protocol import Recipe, Task
from mcdiff_batch.engine.telemetry.machine import cores
from mcdiff_batch.engine.telemetry.timesheet import summarise_spans

READING = ("decode", "frame")
FINISHING = ("quality", "encode", "write", "fsync", "commit")
RATES = (10.0, 50.0, 200.0)  # cases/s of a device, if none was measured
Json = dict[str, Any]
_barrier: Any = None  # a barrier, in the children


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One process's work on its cases; clock times are comparable between processes."""

    start: float
    end: float
    seconds: dict[str, float]  # by stage


def measure(workload: Workload, cases: int, rate: float | None, say: Callable[[str], None]) -> Json:
    """Measures the host.  rate: cases/s of a device that is to be kept busy."""
    say(f"host: {cases} cases in 1 process, then in {cores()}")
    labels = _labels(workload, cases)
    with tempfile.TemporaryDirectory(dir=workload.scratch) as name:
        recipe = replace(workload.recipe(1), output=Path(name) / "alone")
        process_cases(replace(recipe, output=Path(name) / "warm-up"), labels)
        alone = process_cases(recipe, labels)
        seconds = _run_together(recipe, labels, cores())
    ms = {stage: 1000 * alone.seconds[stage] / len(labels) for stage in (*READING, *FINISHING)}
    rates = RATES if rate is None else (rate,)
    return {
        "cases": len(labels),
        "ms_per_case": {stage: round(x, 3) for stage, x in ms.items()},
        "processes": cores(),
        "cases_per_s": round(len(labels) / seconds, 2),
        "needed": [processes_needed(x, ms) for x in rates],
    }


def processes_needed(rate: float, ms: Mapping[str, float]) -> Json:
    """The processes that must read, and finish, for one device of `rate` cases/s."""
    many = lambda stages: max(1, math.ceil(rate * sum(ms[x] for x in stages) / 1000))
    return {"cases_per_s": round(rate, 2), "readers": many(READING), "finishers": many(FINISHING)}


def _labels(workload: Workload, cases: int) -> dict[int, Labels]:
    """Label maps of the originals, because the time for quality depends on them."""
    plan = maker(workload.bundle, (workload.device,), 1)(workload.device, 1)
    out = {}
    for case in islice(workload.cases(), cases):
        framed = frame_case(case, workload.bundle.contract)
        strip = framed.strip[None, None].astype(np.float32)
        out[case.index] = plan.relabel(framed.depths[framed.optimal][None, None], strip)[0]
    return out


def process_cases(recipe: Recipe, labels: Mapping[int, Labels]) -> Timing:
    """Does everything that a worker does with cases, except the model, in one thread."""
    archive, size = open_archive(recipe.archive), recipe.layout.unit_size
    recipe.output.mkdir(parents=True, exist_ok=True)
    spent: Counter[str] = Counter(dict.fromkeys((*READING, *FINISHING), 0))
    start = perf_counter()
    for number, group in groupby(labels, key=lambda index: index // size):
        cases = tuple(group)
        work = Work(task=Task(unit=make_unit(number, archive.cases, size), cases=cases))
        for index in cases:
            begin = perf_counter()
            case = archive.read(index)
            decoded = perf_counter()
            framed = frame_case(case, recipe.contract)
            spent["decode"] += decoded - begin  # type: ignore[assignment]
            spent["frame"] += perf_counter() - decoded  # type: ignore[assignment]
            image, label = framed.depths[framed.optimal], labels[index]
            done = Enhancement(case=framed, image=image, before=label, after=label)
            finisher.finish_case(work, done, recipe)
        log = finisher.commit(work, recipe).log
        spent.update(summarise_spans(log.spans, 0.0)["lanes"]["finishing"])
    return Timing(start=start, end=perf_counter(), seconds=dict(spent))


def _run_together(recipe: Recipe, labels: Mapping[int, Labels], processes: int) -> float:
    """The seconds of all processes together, from the first start to the last end."""
    context = get_context("spawn")
    shares = [
        (
            replace(recipe, output=recipe.output.with_name(f"share-{k}")),
            {index: labels[index] for index in part},
        )
        for k, part in enumerate(_shares(list(labels), processes))
    ]
    barrier = context.Barrier(len(shares))
    with context.Pool(len(shares), _wait_at, (barrier,)) as pool:
        timings = pool.starmap(_share, shares, chunksize=1)
    return max(x.end for x in timings) - min(x.start for x in timings)


def _shares(indices: Sequence[int], count: int) -> list[Sequence[int]]:
    cuts = np.linspace(0, len(indices), count + 1).astype(int).tolist()
    parts = [indices[low:high] for low, high in pairwise(cuts)]
    return [part for part in parts if part]


def _wait_at(barrier: Any) -> None:
    global _barrier
    _barrier = barrier


def _share(recipe: Recipe, labels: dict[int, Labels]) -> Timing:
    _barrier.wait()
    return process_cases(recipe, labels)


def measures(document: Json) -> tuple[dict[str, float], dict[str, str]]:
    return {"host_cases_per_s": document["cases_per_s"]}, {}


def as_text(document: Json) -> list[str]:
    """The table, 80 columns."""
    ms = document["ms_per_case"] | {"all": sum(document["ms_per_case"].values())}
    lines = [
        f"{'host, ms a case':<16}" + "".join(f"{stage:>8}" for stage in ms),
        f"{'1 process':<16}" + "".join(f"{x:>8.2f}" for x in ms.values()),
        f"  ceiling: {document['cases_per_s']:.1f} cases/s without model, processes: "
        f"{document['processes']}",
    ]
    for row in document["needed"]:
        lines.append(
            f"  processes for a device of {row['cases_per_s']:g} cases/s: {row['readers']} to read "
            f"and {row['finishers']} to finish"
        )
    return lines
