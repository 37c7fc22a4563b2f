"""The cost of a case and what this machine could do at most, printed before any measure."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from mcdiff_batch.engine.backends.backend import graph_shapes
from mcdiff_batch.engine.model.contract import Bundle
from mcdiff_batch.engine.model.plan import Device
from mcdiff_batch.engine.telemetry.machine import cores
from mcdiff_batch.engine.text import pluralise

from .ceilings import Ceilings
from .graph_cost import Cost, graph_cost

Json = dict[str, Any]
STEADY = 0.1  # share by which the ceilings of a quiet machine may change
LOADED = "load at the start: {load:g}; other programs make the figures below too low"


def costs(bundle: Bundle, device: Device, batch: int) -> dict[str, Cost] | None:
    """The costs of conditioner, denoiser and relabel at a batch size; None without onnx.

    On a GPU these are the costs of the float16 graphs, if there are any.
    """
    if find_spec("onnx") is None:
        return None
    half = device.kind != "cpu" and bundle.contract.half is not None
    return {
        name: graph_cost(bundle.graph(graph, half=half), sizes)
        for name, (graph, sizes) in graph_shapes(bundle, batch).items()
    }


def physics(bundle: Bundle, top: Ceilings | None, graph_costs: Mapping[str, Cost] | None) -> Json:
    """The cost of a case at batch 1 and the recommended evaluations; times by the roofline."""
    evaluations = bundle.contract.sampler.nfe
    document: Json = {"evaluations": evaluations}
    if top is not None:
        document["gemm_gflops"] = round(top.flops_per_s / 1e9, 1)
        document["copy_gb_per_s"] = round(top.bytes_per_s / 1e9, 2)
    if graph_costs is None:
        return document
    times = {"conditioner": 1, "denoiser": evaluations, "relabel": 1}
    document["gflop"] = {x: round(graph_costs[x].flops / 1e9, 2) for x in times}
    document["case_gflop"] = round(sum(n * graph_costs[x].flops for x, n in times.items()) / 1e9, 1)
    if top is not None:
        at_best = sum(
            n * graph_costs[x].roofline_s(top.flops_per_s, top.bytes_per_s)
            for x, n in times.items()
        )
        document["case_s_at_best"] = round(at_best, 4)
        document["cases_per_hour_at_best"] = round(3600 / at_best, 1)
    return document


def is_quiet(measured: Sequence[Json]) -> bool | None:
    """Whether the ceilings stayed the same; None if they were not measured twice."""
    rates = [x["gemm_gflops"] for x in measured]
    return min(rates) >= (1 - STEADY) * max(rates) if len(rates) > 1 else None


def steadiness(measured: Sequence[Json]) -> list[str]:
    """Lines on the range of the ceilings, and whether the figures are comparable."""
    if len(measured) < 2:
        return []
    rates = [x["gemm_gflops"] for x in measured]
    line = f"matrix product meanwhile: {min(rates):.0f} to {max(rates):.0f} GFLOP/s"
    if is_quiet(measured):
        return ["", f"{line}: steady"]
    return ["", f"NOT QUIET: {line}; measure again"]


def as_text(
    document: Json, bundle: Bundle, top: Ceilings | None, where: str, around: Json
) -> list[str]:
    contract = bundle.contract
    frame = f"{contract.frame.height} x {contract.frame.width} px"
    lines = [
        f"{contract.name}, {frame}, {len(contract.depth_weights)} depths, "
        f"{contract.sampler.solver} at {pluralise(contract.sampler.nfe, 'evaluation')}",
        f"on {where}",
        f"ceiling here: {top or 'not measured, because torch is not installed'}",
        *([LOADED.format(**around)] if around["load"] > cores() / 4 else []),
    ]
    if "gflop" not in document:
        return [*lines, "cost of a case: not counted, because onnx is not installed"]
    gflop = document["gflop"]
    at_best = ""
    if top is not None:
        seconds, rate = document["case_s_at_best"], document["cases_per_hour_at_best"]
        at_best = f", at best {seconds:.3g} s, {rate:,.0f} cases/h"
    return [
        *lines,
        f"a case: {gflop['conditioner']:g} GFLOP of conditioner + {document['evaluations']} x "
        f"{gflop['denoiser']:g} of denoiser + {gflop['relabel']:g} of relabel",
        f"        = {document['case_gflop']:g} GFLOP{at_best}",
    ]
