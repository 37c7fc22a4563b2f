"""What a case costs and what this machine could do at most: said before anything is measured."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from mcdiff_batch.engine.backends.plan_cache import graph_shapes
from mcdiff_batch.engine.model.contract import Bundle
from mcdiff_batch.engine.model.plan import Device
from mcdiff_batch.engine.telemetry.machine import cores

from .ceilings import Ceilings
from .graph_cost import Cost, graph_cost

Json = dict[str, Any]
STEADY = 0.1  # by how much a quiet machine's own ceilings may move
LOADED = "load as it begins: {load:g}; if that is others', what follows is worse than it can do"


def costs(bundle: Bundle, device: Device, batch: int) -> dict[str, Cost] | None:
    """Of conditioner, denoiser and relabel at a batch size; None without the package onnx.

    On a GPU those of the float16 graphs, where there are any.
    """
    if find_spec("onnx") is None:
        return None
    half = device.kind != "cpu" and bundle.contract.half is not None
    return {
        name: graph_cost(bundle.graph(graph, half=half), sizes)
        for name, (graph, sizes) in graph_shapes(bundle, batch).items()
    }


def physics(bundle: Bundle, top: Ceilings | None, found: Mapping[str, Cost] | None) -> Json:
    """A case at batch 1, at the recommended evaluations; times are those of the roofline."""
    evaluations = bundle.contract.sampler.nfe
    told: Json = {"evaluations": evaluations}
    if top is not None:
        told["gemm_gflops"] = round(top.flops_per_s / 1e9, 1)
        told["copy_gb_per_s"] = round(top.bytes_per_s / 1e9, 2)
    if found is None:
        return told
    times = {"conditioner": 1, "denoiser": evaluations, "relabel": 1}
    told["gflop"] = {x: round(found[x].flops / 1e9, 2) for x in times}
    told["case_gflop"] = round(sum(n * found[x].flops for x, n in times.items()) / 1e9, 1)
    if top is not None:
        at_best = sum(
            n * found[x].roofline_s(top.flops_per_s, top.bytes_per_s) for x, n in times.items()
        )
        told["case_s_at_best"] = round(at_best, 4)
        told["cases_per_hour_at_best"] = round(3600 / at_best, 1)
    return told


def quiet(measured: Sequence[Json]) -> bool | None:
    """Whether the ceilings stayed as they were; None where they were not measured twice."""
    found = [x["gemm_gflops"] for x in measured]
    return min(found) >= (1 - STEADY) * max(found) if len(found) > 1 else None


def steadiness(measured: Sequence[Json]) -> list[str]:
    """The ceilings from the start to the end, and whether the figures between them are worth
    comparing."""
    if len(measured) < 2:
        return []
    found = [x["gemm_gflops"] for x in measured]
    line = f"matrix product meanwhile: {min(found):.0f} to {max(found):.0f} GFLOP/s"
    if quiet(measured):
        return ["", f"{line}: steady"]
    return ["", f"NOT QUIET: {line}; others load this machine: measure again"]


def as_text(
    told: Json, bundle: Bundle, top: Ceilings | None, where: str, around: Json
) -> list[str]:
    contract = bundle.contract
    frame = f"{contract.frame.height} x {contract.frame.width} px"
    lines = [
        f"{contract.name}, {frame}, {len(contract.depth_weights)} depths, "
        f"{contract.sampler.solver} at {contract.sampler.nfe} evaluations, on {where}",
        f"ceiling here: {top or 'not measured, torch is not installed'}",
        *([LOADED.format(**around)] if around["load"] > cores() / 4 else []),
    ]
    if "gflop" not in told:
        return [*lines, "cost of a case: not counted, the package onnx is not installed"]
    gflop = told["gflop"]
    at_best = ""
    if top is not None:
        seconds, rate = told["case_s_at_best"], told["cases_per_hour_at_best"]
        at_best = f", at best {seconds:.3g} s, {rate:,.0f} cases/h"
    return [
        *lines,
        f"a case: {gflop['conditioner']:g} GFLOP of conditioner + {told['evaluations']} x "
        f"{gflop['denoiser']:g} of denoiser + {gflop['relabel']:g} of relabel",
        f"        = {told['case_gflop']:g} GFLOP{at_best}",
    ]
