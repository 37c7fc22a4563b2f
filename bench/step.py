"""The denoiser alone, against what its arithmetic would take at this machine's ceilings."""

import statistics
from collections.abc import Callable, Sequence
from itertools import islice
from time import perf_counter
from typing import Any

import numpy as np

from mcdiff_batch.engine.batcher import padded
from mcdiff_batch.engine.conditioner import condition
from mcdiff_batch.engine.noise import gaussian
from mcdiff_batch.engine.preflight import maker
from mcdiff_batch.engine.reader import frame_case

from .ceilings import Ceilings, ceilings
from .graph_cost import Cost
from .physics import costs
from .subject import Subject

WARM_UP = 2  # steps
Json = dict[str, Any]


def measure(
    subject: Subject, batches: Sequence[int], steps: int, say: Callable[[str], None]
) -> Json:
    """A row a batch size; the ceilings are measured before and after each, the best counts."""
    rows = []
    for batch in batches:
        say(f"step at batch {batch}: {steps} steps")
        before = ceilings(subject.device, 0.3)
        taken = _seconds(subject, batch, steps)
        after = ceilings(subject.device, 0.3)
        found = costs(subject.bundle, subject.device, batch)
        top = before.highest(after) if before and after else None
        rows.append(_row(batch, taken, found["denoiser"] if found else None, top))
    return {"rows": rows}


def _seconds(subject: Subject, batch: int, steps: int) -> list[float]:
    """Of each of `steps` steps down the ladder, again from its top where it ends."""
    recipe = subject.recipe(batch)
    plan = maker(subject.bundle, (subject.device,), batch)(subject.device, batch)
    cases = padded([frame_case(x, recipe.contract) for x in islice(subject.cases(), batch)], batch)
    conditioned = condition(plan, cases)
    shape = (1, recipe.contract.frame.height, recipe.contract.frame.width)
    x = np.stack([gaussian(0, case.key, shape) for case in cases])
    x0, taken = np.zeros_like(x), []
    for k in range(WARM_UP + steps):
        start = perf_counter()
        x, x0 = plan.step(x, x0, recipe.rungs[k % len(recipe.rungs)], conditioned)
        np.asarray(x0)  # a GPU's plan returns before its step is done
        taken.append(perf_counter() - start)
    return taken[WARM_UP:]


def _row(batch: int, taken: Sequence[float], cost: Cost | None, top: Ceilings | None) -> Json:
    seconds = statistics.median(taken)
    row: Json = {
        "batch": batch,
        "steps": len(taken),
        "ms": round(1000 * seconds, 3),
        "fastest_ms": round(1000 * min(taken), 3),
        "slowest_ms": round(1000 * max(taken), 3),
    }
    if cost is None or top is None:
        return row
    return row | {
        "gemm_gflops": round(top.flops_per_s / 1e9, 1),
        "copy_gb_per_s": round(top.bytes_per_s / 1e9, 2),
        "gflop": round(cost.flops / 1e9, 3),
        "mbyte": round(cost.bytes / 1e6, 1),
        "mbyte_unfused": round(cost.bytes_unfused / 1e6, 1),
        "gflops": round(cost.flops / seconds / 1e9, 1),
        "gemm_share": round(cost.flops / seconds / top.flops_per_s, 4),
        "roofline_share": round(cost.roofline_s(top.flops_per_s, top.bytes_per_s) / seconds, 4),
    }


def measures(found: Json) -> tuple[dict[str, float], dict[str, str]]:
    """For the gate: of the first batch size."""
    row = found["rows"][0]
    if "gemm_share" not in row:
        return {"step_ms": row["ms"]}, {
            "gemm_share": "that takes the package onnx, on a GPU torch too"
        }
    return {"step_ms": row["ms"], "gemm_share": row["gemm_share"]}, {}


def as_text(found: Json) -> list[str]:
    """The table, 80 columns."""
    lines = [
        f"{'step':<10}{'ms (range)':>24}{'GFLOP':>8}{'MB':>8}{'GFLOP/s':>9}{'of GEMM':>9}"
        f"{'of roofline':>12}"
    ]
    for row in found["rows"]:
        name = f"batch {row['batch']}"
        ms = f"{row['ms']:.1f} ({row['fastest_ms']:.1f}..{row['slowest_ms']:.1f})"
        line = f"{name:<10}{ms:>24}"
        if "gflop" in row:
            line += f"{row['gflop']:>8.2f}{row['mbyte']:>8.1f}{row['gflops']:>9.1f}"
            line += f"{row['gemm_share']:>9.0%}{row['roofline_share']:>12.0%}"
        lines.append(line)
    if "gemm_gflops" in found["rows"][0]:
        top = f"ceiling {found['rows'][0]['gemm_gflops']:g} GFLOP/s, measured before and after"
        lines.append(f"  {top}; MB: of convolutions and products")
    return lines
