"""What this machine has, what a run would take, and whether its plan computes what it should."""

from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mcdiff_batch.engine.errors import McdiffError
from mcdiff_batch.engine.model.contract import Bundle
from mcdiff_batch.engine.model.plan import Device
from mcdiff_batch.engine.telemetry.machine import cores, machine

from . import ort
from .devices import CPU, devices, no_plan, plans_on
from .gpus import Gpu, driver, gpus
from .plan_cache import BUILD
from .selftest import tried
from .trial import elsewhere

PACKAGES = ("tensorrt-rtx", "tensorrt", "onnxruntime-gpu", "torch")
BATCH = 2  # of the golden cases: slots are what is compared


def examined(bundle: Bundle, cache: Path) -> dict[str, Any]:
    """Everything, for a person or a supervisor.  `faults` is empty where a run can be trusted."""
    found = gpus()
    chosen = devices("auto", found)
    plans = {f"{CPU}, cpu, float32": _cpu(bundle)}
    for gpu in found:
        plans |= {f"{x}, cuda:{gpu.index}": _gpu(bundle, x, gpu, cache) for x in plans_on(gpu)}
    return {
        "machine": machine(),
        "packages": {name: _version(name) for name in PACKAGES},
        "driver": driver(),
        "gpus": [asdict(gpu) for gpu in found],
        "plan_cache": {"folder": str(cache), "plans": len(list(cache.glob(f"*/{BUILD}")))},
        "bundle": {"name": bundle.contract.name, "sha256": bundle.sha256},
        "run_would_take": [str(x) for x in chosen],
        "because": _because(chosen, found),
        "plans": plans,
        "faults": [f"{name}: {text}" for name, row in plans.items() for text in row["faults"]],
    }


def _cpu(bundle: Bundle) -> dict[str, Any]:
    device = Device(kind="cpu", index=0)
    plan, reference = (ort.load(bundle, device, n, threads=cores()) for n in (BATCH, 1))
    verdict = tried(plan, bundle.contract, reference)
    return asdict(verdict) | {"faults": verdict.faults}


def _gpu(bundle: Bundle, plan: str, gpu: Gpu, cache: Path) -> dict[str, Any]:
    try:
        device = Device(kind="cuda", index=gpu.index)
        _, verdict = elsewhere(bundle, plan, device, BATCH, cache, None)
    except McdiffError as error:
        return {"faults": [str(error)]}
    return asdict(verdict) | {"faults": verdict.faults}


def _because(chosen: Sequence[Device], found: Sequence[Gpu]) -> str:
    if chosen[0].kind == "cuda":
        return f"{plans_on(found[chosen[0].index])[0]} on {found[chosen[0].index].name}"
    kind = f"{CPU} on {cores()} cores"
    return f"{kind}: {no_plan(found[0])}" if found else f"{kind}: no GPU is found"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
