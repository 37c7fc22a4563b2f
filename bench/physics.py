"""What a case costs and what this machine could do at most: said before anything is measured."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from mcdiff_batch.engine.contract import Bundle
from mcdiff_batch.engine.devices import cores
from mcdiff_batch.engine.plans import graph_shapes

from .ceilings import Ceilings
from .graph_cost import Cost, graph_cost

Json = dict[str, Any]
QUIET = "NOT QUIET: others load this machine ({load:g}); what follows is worse than it can do"


def costs(bundle: Bundle, batch: int) -> dict[str, Cost] | None:
    """Of conditioner, denoiser and relabel at a batch size; None without the package onnx."""
    if find_spec("onnx") is None:
        return None
    shapes = graph_shapes(bundle, batch)
    return {name: graph_cost(bundle.graph(graph), sizes) for name, (graph, sizes) in shapes.items()}


def physics(bundle: Bundle, ceilings: Ceilings, found: Mapping[str, Cost] | None) -> Json:
    """A case at batch 1, at the recommended evaluations; times are those of the roofline."""
    evaluations = bundle.contract.sampler.nfe
    told: Json = {
        "evaluations": evaluations,
        "gemm_gflops": round(ceilings.flops_per_s / 1e9, 1),
        "copy_gb_per_s": round(ceilings.bytes_per_s / 1e9, 2),
    }
    if found is None:
        return told
    times = {"conditioner": 1, "denoiser": evaluations, "relabel": 1}
    at_best = sum(
        n * found[x].roofline_s(ceilings.flops_per_s, ceilings.bytes_per_s)
        for x, n in times.items()
    )
    return told | {
        "gflop": {x: round(found[x].flops / 1e9, 2) for x in times},
        "case_gflop": round(sum(n * found[x].flops for x, n in times.items()) / 1e9, 1),
        "case_s_at_best": round(at_best, 4),
        "cases_per_hour_at_best": round(3600 / at_best, 1),
    }


def as_text(told: Json, bundle: Bundle, ceilings: Ceilings, where: str, around: Json) -> list[str]:
    contract = bundle.contract
    frame = f"{contract.frame.height} x {contract.frame.width} px"
    lines = [
        f"{contract.name}, {frame}, {len(contract.depth_weights)} depths, "
        f"{contract.sampler.solver} at {contract.sampler.nfe} evaluations, on {where}",
        f"ceiling here: {ceilings}",
        *([QUIET.format(**around)] if around["load"] > cores() / 4 else []),
    ]
    if "gflop" not in told:
        return [*lines, "cost of a case: not counted, the package onnx is not installed"]
    gflop = told["gflop"]
    return [
        *lines,
        f"a case: {gflop['conditioner']:g} GFLOP of conditioner + {told['evaluations']} x "
        f"{gflop['denoiser']:g} of denoiser + {gflop['relabel']:g} of relabel",
        f"        = {told['case_gflop']:g} GFLOP, at best {told['case_s_at_best']:.3g} s, "
        f"{told['cases_per_hour_at_best']:,.0f} cases/h",
    ]
