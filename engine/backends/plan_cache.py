"""Plans on disk: compiled once for a bundle, a TensorRT, a kind of GPU and a batch, then found.

A plan is executable code: it is read from a private folder of our own only, after our own hash.
"""

import contextlib
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcdiff_batch.engine.errors import BundleError, DeviceError
from mcdiff_batch.engine.files import file_sha256
from mcdiff_batch.engine.model.contract import Bundle
from mcdiff_batch.engine.model.plan import Device, Plan

from . import cuda, trt
from .build_log import listed, summary
from .gpus import capability

BUILD = "build.json"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSet:
    """The plans of a bundle for one kind of GPU and one batch size."""

    folder: Path
    build: dict[str, Any]  # what they were made of, and what TensorRT made of them
    found: bool  # in the cache

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of each file."""
        return {row["file"]: row["sha256"] for row in self.build["plans"].values()}


def cache_root() -> Path:
    """The user's own; XDG_CACHE_HOME where that is set."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "mcdiff-batch" / "plans"


def plans(
    bundle: Bundle, target: str, batch: int, root: Path, say: Say, kept: Path | None = None
) -> PlanSet:
    """Finds the plans under `root`, or in `kept`, a run's own copy; or compiles them.

    `target` "current": the first GPU of this machine.  Raises DeviceError where TensorRT or that
    is absent or TensorRT fails, UsageError for an unknown target,
    BundleError where the bundle has no float16 graphs or a tuner block is not fused.
    """
    tensorrt = trt.tensorrt()
    made_of = {
        "bundle": bundle.contract.name,
        "graphs": {x.file: x.sha256 for x in bundle.contract.graphs},
        "tensorrt": trt.flavour(tensorrt),
        "target": capability() if target == trt.CURRENT else target,
        "native": target == trt.CURRENT,
        "batch": batch,
        "depths": len(bundle.contract.depth_weights),
    }
    key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
    _private(root)
    folder = root / key[:32]
    for place in (folder, *([kept] if kept and _ours_alone(kept) else [])):
        build = _read(place, made_of)
        if build is not None:
            return PlanSet(folder=place, build=build, found=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".compile-") as name:
        part = Path(name) / "plans"
        part.mkdir(mode=0o700)
        build = made_of | {"plans": _compiled(tensorrt, bundle, target, batch, part, say)}
        (part / BUILD).write_text(json.dumps(build, indent=1) + "\n")
        shutil.rmtree(folder, ignore_errors=True)  # damaged, or there would be nothing to do
        with contextlib.suppress(OSError):  # another process was first: its plans are as good
            part.rename(folder)
    return PlanSet(folder=folder, build=build, found=False)


def load(folder: Path, hashes: Mapping[str, str], device: Device, batch: int) -> Plan:
    """The plans of `folder` on a GPU.  Raises DeviceError where a file is not what `hashes` say."""
    for name, expected in hashes.items():
        if file_sha256(folder / name) != expected:
            raise DeviceError(
                f"{folder / name}: was changed since it was compiled; delete the folder and run "
                "again"
            )
    queue = cuda.Queue(device.index, cuda.runtime())
    return trt.TrtPlan(trt.tensorrt(), queue, folder, batch)


def graph_shapes(bundle: Bundle, batch: int) -> dict[str, tuple[str, trt.Shapes]]:
    """Each plan's graph and free dimensions; a result is labelled as a stack of one depth."""
    depths = len(bundle.contract.depth_weights)
    return {
        "conditioner": ("conditioner", {"batch": batch, "depths": depths}),
        "relabel": ("conditioner", {"batch": batch, "depths": 1}),
        "denoiser": ("denoiser", {"batch": batch}),
    }


def _compiled(
    tensorrt: Any, bundle: Bundle, target: str, batch: int, folder: Path, say: Say
) -> dict[str, Any]:
    rows = {}
    for name, (graph, shapes) in graph_shapes(bundle, batch).items():
        say(f"compiling {name} for {target}, batch {batch}")
        began = time.monotonic()
        compiled = trt.compile_graph(tensorrt, bundle.graph(graph, half=True), shapes, target)
        seconds = time.monotonic() - began
        kernels = summary(listed(compiled.log))
        _check(bundle, name, kernels)
        file = folder / f"{name}.plan"
        file.write_bytes(compiled.plan)
        rows[name] = {
            "file": file.name,
            "sha256": file_sha256(file),
            "plan_bytes": len(compiled.plan),
            "seconds": round(seconds, 2),
            "flops": compiled.flops,
            **kernels,
        }
    return rows


def _check(bundle: Bundle, name: str, kernels: Mapping[str, Any]) -> None:
    """The fusion that this engine is built on; a log that lists no kernels cannot tell."""
    blocks, fused = kernels["tuner_blocks"], kernels["tuner_blocks_fused"]
    if fused < blocks or (kernels["kernels"] and name == "denoiser" and not blocks):
        raise BundleError(
            f"{bundle.root}: TensorRT fused {fused} of {blocks} tuner blocks of {name}, expected "
            "all; export the bundle again, or use the TensorRT that README names"
        )


def _private(root: Path) -> None:
    """Raises DeviceError where somebody else could write plans."""
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not _ours_alone(root):
        raise DeviceError(
            f"{root}: others may write here, and plans are executed; expected a folder of yours "
            "alone: chmod 700, or set XDG_CACHE_HOME to another one"
        )


def _ours_alone(folder: Path) -> bool:
    """Whether nobody else may write there, as far as its own mode tells."""
    try:
        found = folder.stat()
    except OSError:
        return False
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _read(folder: Path, made_of: Mapping[str, Any]) -> dict[str, Any] | None:
    """The build of plans that are there and whole."""
    try:
        build: dict[str, Any] = json.loads((folder / BUILD).read_text())
        rows = build["plans"].values()
        whole = all(file_sha256(folder / Path(x["file"]).name) == x["sha256"] for x in rows)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return build if whole and {k: build.get(k) for k in made_of} == made_of else None
