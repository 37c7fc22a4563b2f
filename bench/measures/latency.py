"""How long a case takes, alone or in a batch: frame, condition, steps, relabel, quality."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from mcdiff_batch.bench.common.percentiles import PERCENTS, Percentile, percentile
from mcdiff_batch.bench.common.workload import STAGES, LocalWorker, Workload
from mcdiff_batch.engine.errors import UsageError
from mcdiff_batch.engine.model.batch import batches as make_batches
from mcdiff_batch.engine.model.contract import load_bundle

WARM_UP = 1  # batches
CHILD = "import sys; from mcdiff_batch.bench.measures.latency import first; first(*sys.argv[1:])"
Json = dict[str, Any]


def measure(
    workload: Workload, batches: Sequence[int], samples: int, say: Callable[[str], None]
) -> Json:
    """One row per batch size.  A sample is one batch of new cases, which all wait for its end.

    cold_start_s: seconds from the start of a new process to its first result.
    """
    say("cold start")
    cold = cold_start(workload)
    rows = []
    for batch in batches:
        say(f"latency at batch {batch}: {samples} samples")
        rows.append(_row(workload, batch, samples))
    return {"rows": rows, "cold_start_s": round(cold, 3)}


def _row(workload: Workload, batch: int, samples: int) -> Json:
    local_worker = LocalWorker(workload, batch)
    full = (x for x in make_batches(workload.cases(), batch) if len(x) == batch)
    walks = [local_worker.process(cases) for cases in islice(full, WARM_UP + samples)][WARM_UP:]
    if not walks:
        raise UsageError(
            f"{workload.path}: has too few cases for latency at batch {batch}; expected more than "
            f"{WARM_UP * batch}"
        )
    seconds = [walk["total"] for walk in walks]
    return {
        "batch": batch,
        "samples": len(walks),
        "fastest_ms": _ms(min(seconds)),
        "median_ms": _ms(statistics.median(seconds)),
        "slowest_ms": _ms(max(seconds)),
        "percentiles": [_in_ms(percentile(seconds, x)) for x in PERCENTS],
        "stages_ms": {
            stage: _ms(statistics.median(walk[stage] for walk in walks)) for stage in STAGES
        },
    }


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 2)


def _in_ms(result: Percentile) -> Json:
    row = asdict(result)
    for name in ("measured", "estimate"):
        row[f"{name}_ms"] = None if row[name] is None else _ms(row[name])
        del row[name]
    return row


def cold_start(workload: Workload) -> float:
    """The seconds from a new process's start to its first result; files are in the disk cache."""
    words = [workload.bundle.root, workload.path, workload.scratch, workload.devices]
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, *map(str, words)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        line = child.stdout.readline()
        seconds = time.perf_counter() - start
    if line != "first\n":
        raise RuntimeError(f"the first case of a new process failed (exit {child.returncode})")
    return seconds


def first(bundle: str, archive: str, scratch: str, devices: str) -> None:
    """Enhances the first case; called in the child."""
    workload = Workload(
        bundle=load_bundle(Path(bundle)),
        path=Path(archive),
        scratch=Path(scratch),
        devices=devices,
    )
    LocalWorker(workload, workload.batch).process([workload.archive.read(0)])
    print("first", flush=True)


def measures(document: Json) -> tuple[dict[str, float], dict[str, str]]:
    """MLPerf's estimates of the first batch size; and why other percentiles are unknown."""
    figures, unknown = {"cold_start_s": document["cold_start_s"]}, {}
    for row in document["rows"][0]["percentiles"]:
        name = f"p{row['percent']}_latency_ms"
        if row["estimate_ms"] is None:
            unknown[name] = f"{row['samples']} samples, {row['needed']} are needed"
        else:
            figures[name] = row["estimate_ms"]
    return figures, unknown


def as_text(document: Json) -> list[str]:
    """The table, 80 columns."""
    rows = [
        {x["percent"]: x["estimate_ms"] for x in row["percentiles"]} for row in document["rows"]
    ]
    shown = [x for x in PERCENTS if any(row[x] is not None for row in rows)]
    heads = "".join(f"{f'p{x}':>8}" for x in shown)
    lines = [f"{'latency, ms':<12}{'samples':>8}{'median (range)':>28}{heads}"]
    lines += [_line(row, shown) for row in document["rows"]]
    if shown:
        lines.append("  p: MLPerf's estimates, no lower than the truth at 99 % confidence")
    refused = [x for x in document["rows"][0]["percentiles"] if x["estimate_ms"] is None]
    if refused:
        needs = ", ".join(f"p{x['percent']} {x['needed']}" for x in refused)
        lines.append(f"  other percentiles take more --samples: {needs}")
    for row in document["rows"]:
        parts = ", ".join(f"{stage} {ms:.0f}" for stage, ms in row["stages_ms"].items())
        lines.append(f"  batch {row['batch']}, medians: {parts}")
    lines.append(f"  cold start, process start to first result: {document['cold_start_s']:.1f} s")
    return lines


def _line(row: Json, percents: Sequence[int]) -> str:
    """percents: those that a row of the table has; an estimate that is missing is left out."""
    estimates = {x["percent"]: x["estimate_ms"] for x in row["percentiles"]}
    cell = lambda ms: "" if ms is None else f"{ms:.1f}"
    middle = f"{row['median_ms']:.1f} ({row['fastest_ms']:.1f}..{row['slowest_ms']:.1f})"
    cells = "".join(f"{cell(estimates[x]):>8}" for x in percents)
    return f"{'batch ' + str(row['batch']):<12}{row['samples']:>8}{middle:>28}{cells}"
