"""The denoiser alone, against the time that its arithmetic takes at this machine's ceilings.

Steps are measured in blocks, and the ceilings between them.  Other programs on the machine slow
both, so blocks beside a low ceiling are left out if there are better ones.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from time import perf_counter
from typing import Any

import numpy as np

from mcdiff_batch.bench.common.ceilings import Ceilings, ceilings
from mcdiff_batch.bench.common.graph_cost import Cost
from mcdiff_batch.bench.common.physics import STEADY, costs
from mcdiff_batch.bench.common.workload import Workload
from mcdiff_batch.engine.backends.trial import maker
from mcdiff_batch.engine.model.batch import condition, pad
from mcdiff_batch.engine.model.framing import frame_case
from mcdiff_batch.engine.model.noise import gaussian

WARM_UP = 2  # steps
BLOCK = 8  # steps
Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The seconds of its steps, and the lower of the two ceilings beside it; None if unknown."""

    seconds: Sequence[float]
    top: Ceilings | None


def measure(
    workload: Workload, batches: Sequence[int], steps: int, say: Callable[[str], None]
) -> Json:
    """One row per batch size."""
    rows = []
    for batch in batches:
        say(f"step at batch {batch}: {steps} steps")
        graph_costs = costs(workload.bundle, workload.device, batch)
        blocks = list(_blocks(workload, batch, steps))
        rows.append(_row(batch, blocks, graph_costs["denoiser"] if graph_costs else None))
    return {"rows": rows}


def _blocks(workload: Workload, batch: int, steps: int) -> Iterator[Block]:
    """Measures blocks of steps down the ladder, which repeats."""
    step = _step(workload, batch)
    for _ in range(WARM_UP):
        step()
    before = ceilings(workload.device, 0.1)
    for start in range(0, steps, BLOCK):
        seconds = [step() for _ in range(min(BLOCK, steps - start))]
        after = ceilings(workload.device, 0.1)
        yield Block(seconds=seconds, top=before.lowest(after) if before and after else None)
        before = after


def _step(workload: Workload, batch: int) -> Callable[[], float]:
    """A function that does one step and returns its seconds."""
    recipe = workload.recipe(batch)
    plan = maker(workload.bundle, (workload.device,), batch)(workload.device, batch)
    cases = pad([frame_case(x, recipe.contract) for x in islice(workload.cases(), batch)], batch)
    conditioned = condition(plan, cases)
    shape = (1, recipe.contract.frame.height, recipe.contract.frame.width)
    x = np.stack([gaussian(0, case.key, shape) for case in cases])
    x0, walk = np.zeros_like(x), cycle(recipe.rungs)

    def step() -> float:
        nonlocal x, x0
        start = perf_counter()
        x, x0 = plan.step(x, x0, next(walk), conditioned)
        np.asarray(x0)  # waits for a GPU, whose plan returns before the step is done
        return perf_counter() - start

    return step


def quiet_blocks(blocks: Sequence[Block]) -> Sequence[Block]:
    """The blocks beside the highest ceilings; all blocks, if ceilings are unknown."""
    best = max((x.top.flops_per_s for x in blocks if x.top), default=0.0)
    return [x for x in blocks if x.top is None or x.top.flops_per_s >= (1 - STEADY) * best]


def _row(batch: int, blocks: Sequence[Block], cost: Cost | None) -> Json:
    """A row of the table: the median of the quiet blocks' medians, and their range."""
    counted = quiet_blocks(blocks)
    medians = [statistics.median(x.seconds) for x in counted]
    seconds = statistics.median(medians)
    row: Json = {
        "batch": batch,
        "steps": sum(len(x.seconds) for x in blocks),
        "blocks": len(blocks),
        "quiet_blocks": len(counted),
        "ms": round(1000 * seconds, 3),
        "fastest_ms": round(1000 * min(medians), 3),
        "slowest_ms": round(1000 * max(medians), 3),
    }
    tops = [x.top for x in counted if x.top]
    if cost is None or not tops:
        return row
    top = max(tops, key=lambda x: x.flops_per_s)
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


def measures(document: Json) -> tuple[dict[str, float], dict[str, str]]:
    """The measures of the first batch size."""
    row = document["rows"][0]
    if "gemm_share" not in row:
        return {"step_ms": row["ms"]}, {
            "gemm_share": "this needs the package onnx, and torch on a GPU"
        }
    return {"step_ms": row["ms"], "gemm_share": row["gemm_share"]}, {}


def as_text(document: Json) -> list[str]:
    """The table, 80 columns."""
    counted = any("gflop" in row for row in document["rows"])
    heads = f"{'GFLOP':>8}{'MB':>8}{'GFLOP/s':>9}{'of GEMM':>9}{'of roofline':>12}"
    lines = [f"{'step':<10}{'ms (range)':>24}{heads if counted else ''}"]
    for row in document["rows"]:
        name = f"batch {row['batch']}"
        ms = f"{row['ms']:.1f} ({row['fastest_ms']:.1f}..{row['slowest_ms']:.1f})"
        line = f"{name:<10}{ms:>24}"
        if "gflop" in row:
            line += f"{row['gflop']:>8.2f}{row['mbyte']:>8.1f}{row['gflops']:>9.1f}"
            line += f"{row['gemm_share']:>9.0%}{row['roofline_share']:>12.0%}"
        lines.append(line)
    if "gemm_gflops" in document["rows"][0]:
        rate = document["rows"][0]["gemm_gflops"]
        lines.append(
            f"  ceiling {rate:g} GFLOP/s, measured between blocks; MB: of convolutions, products"
        )
    for row in document["rows"]:
        if loud := row["blocks"] - row["quiet_blocks"]:
            lines.append(
                f"  batch {row['batch']}: left out {loud} of {row['blocks']} blocks, beside a "
                f"ceiling more than {STEADY:.0%} lower"
            )
    return lines
