"""Examines a machine: what it has, what a run would use, and whether its plans can be trusted."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mcdiff_batch.engine.errors import McdiffError
from mcdiff_batch.engine.model.contract import Bundle
from mcdiff_batch.engine.model.plan import Device
from mcdiff_batch.engine.telemetry.machine import cores, machine
from mcdiff_batch.engine.text import pluralise

from .backend import BUILD, Backend
from .devices import BACKENDS, backend_for, backends_on, devices, no_backend
from .gpus import Gpu, driver_version, gpus
from .ort import CPU
from .trial import prepare_plan

BATCH = 2  # made-up cases


def examine(bundle: Bundle, cache: Path) -> dict[str, Any]:
    """The document of `doctor --json`.  `faults` is empty if every plan can be trusted."""
    available = gpus()
    chosen = devices("auto", available)
    places: dict[Device, Gpu | None] = {
        CPU: None,
        **{Device(kind="cuda", index=gpu.index): gpu for gpu in available},
    }
    plans = {
        f"{backend.name}, {device}": _try(backend, bundle, device, cache)
        for device, gpu in places.items()
        for backend in backends_on(gpu)
    }
    return {
        "machine": machine(),
        "packages": _packages(),
        "driver": driver_version(),
        "gpus": [asdict(gpu) for gpu in available],
        "plan_cache": {"folder": str(cache), "plans": len(list(cache.glob(f"*/{BUILD}")))},
        "bundle": {"name": bundle.contract.name, "sha256": bundle.sha256},
        "run_would_take": [str(x) for x in chosen],
        "because": _because(chosen[0], available),
        "plans": plans,
        "faults": [f"{name}: {text}" for name, row in plans.items() for text in row["faults"]],
    }


def _try(backend: Backend, bundle: Bundle, device: Device, cache: Path) -> dict[str, Any]:
    try:
        _, result = prepare_plan(backend, bundle, (device,), BATCH, cache)
    except McdiffError as error:
        return {"faults": [str(error)]}
    return asdict(result) | {"faults": result.faults}


def _because(device: Device, available: Sequence[Gpu]) -> str:
    """Why a run would use a device."""
    name = backend_for(device).name
    if device.kind != "cpu":
        return f"{name} on {available[device.index].name}"
    reason = no_backend(available[0]) if available else "no GPU is found"
    return f"{name} on {_describe_cores()}: {reason}"


def _describe_cores() -> str:
    """Those that a run may use, and those of the machine if there are more."""
    usable, whole = cores(), os.cpu_count() or 1
    text = pluralise(usable, "core")
    return text if usable == whole else f"{text} of {whole}, by affinity or CPU quota"


def _packages() -> dict[str, str | None]:
    """Versions of the installed backends' packages, and of PyTorch, which training needs."""
    versions = {name: x for backend in BACKENDS for name, x in backend.versions().items()}
    return {**versions, "torch": _version("torch")}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
