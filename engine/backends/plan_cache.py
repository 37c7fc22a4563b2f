"""The backend "tensorrt": plans are compiled once, found again on disk, and loaded.

A compiled plan belongs to one bundle, TensorRT version, kind of GPU and batch size.  It is
executable code, so it is read only from a folder that nobody else can write to, and only if its
hash is as it was recorded (P11).
"""

import contextlib
import hashlib
import json
import os
import shutil
import stat
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mcdiff_batch.engine.errors import BundleError, DeviceError
from mcdiff_batch.engine.files import cache_folder, file_sha256, workplace
from mcdiff_batch.engine.model.contract import Bundle
from mcdiff_batch.engine.model.plan import Device, Plan

from . import cuda, trt
from .backend import BUILD, CompiledFiles, graph_shapes
from .build_log import parse_log, summarise
from .gpus import Gpu, find_capability

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSet:
    """The compiled plans of a bundle for one kind of GPU and one batch size."""

    folder: Path
    build: dict[str, Any]  # the content of BUILD: what the plans were made of, and their kernels
    from_cache: bool

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 by file name."""
        return {row["file"]: row["sha256"] for row in self.build["plans"].values()}


def cache_root() -> Path:
    """The user's folder of compiled plans, under XDG_CACHE_HOME or ~/.cache."""
    return cache_folder("plans")


def plans(
    bundle: Bundle, target: str, batch: int, root: Path, say: Say, copy: Path | None = None
) -> PlanSet:
    """Finds the plans in the cache `root` or in `copy`, a run's own copy; else compiles them.

    target: such as "sm_86", or "current" for the first GPU of this machine.
    Raises DeviceError if TensorRT or that GPU is absent or TensorRT fails, UsageError for an
    unknown target, BundleError if the bundle has no float16 graphs or a tuner block is not fused.
    """
    tensorrt = trt.tensorrt()
    made_of = {
        "bundle": bundle.contract.name,
        "graphs": {x.file: x.sha256 for x in bundle.contract.graphs},
        "tensorrt": trt.flavour(tensorrt),
        "target": find_capability() if target == trt.CURRENT else target,
        "native": target == trt.CURRENT,
        "batch": batch,
        "depths": len(bundle.contract.depth_weights),
    }
    key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
    _make_private(root)
    folder = root / key[:32]
    for place in (folder, *([copy] if copy and _is_private(copy) else [])):
        build = _read_build(place, made_of)
        if build is not None:
            return PlanSet(folder=place, build=build, from_cache=True)
    with workplace(folder) as part:
        part.mkdir(mode=0o700)
        build = made_of | {"plans": _compile(tensorrt, bundle, target, batch, part, say)}
        (part / BUILD).write_text(json.dumps(build, indent=1) + "\n")
        shutil.rmtree(folder, ignore_errors=True)  # if it exists, it is damaged
        with contextlib.suppress(OSError):  # another process was faster: its plans are as good
            part.rename(folder)
    return PlanSet(folder=folder, build=build, from_cache=False)


def load(folder: Path, hashes: Mapping[str, str], device: Device, batch: int) -> Plan:
    """Loads the plans of `folder` on a GPU.  Raises DeviceError if a file's hash is another.

    The folder may be an output that others can write to, so what is loaded is what was hashed, and
    no kernels are kept there.
    """
    read = {}
    for name, expected in hashes.items():
        data = (folder / name).read_bytes()
        if hashlib.sha256(data).hexdigest() != expected:
            raise DeviceError(
                f"{folder / name}: was changed since it was compiled; delete the folder and run "
                "the same command again"
            )
        read[Path(name).stem] = data
    queue = cuda.Queue(device.index, cuda.runtime())
    kernels = folder if _is_private(folder) else None
    return trt.TrtPlan(trt.tensorrt(), queue, read, batch, kernels)


def _compile(
    tensorrt: Any, bundle: Bundle, target: str, batch: int, folder: Path, say: Say
) -> dict[str, Any]:
    rows = {}
    for name, (graph, shapes) in graph_shapes(bundle, batch).items():
        say(f"compiling {name} for {target}, batch {batch}")
        began = time.monotonic()
        compiled = trt.compile_graph(tensorrt, bundle.graph(graph, half=True), shapes, target)
        seconds = time.monotonic() - began
        kernels = summarise(parse_log(compiled.log))
        _check_fusion(bundle, name, kernels)
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


def _check_fusion(bundle: Bundle, name: str, kernels: Mapping[str, Any]) -> None:
    """Raises BundleError if a tuner block is not fused; passes if the log lists no kernels."""
    blocks, fused = kernels["tuner_blocks"], kernels["tuner_blocks_fused"]
    if fused < blocks or (kernels["kernels"] and name == "denoiser" and not blocks):
        raise BundleError(
            f"{bundle.root}: TensorRT fused {fused} of {blocks} tuner blocks of {name}, expected "
            "all; export the bundle again, or use the TensorRT that README names"
        )


def _make_private(root: Path) -> None:
    """Raises DeviceError if others can write to the folder."""
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not _is_private(root):
        raise DeviceError(
            f"{root}: others can write to this folder, and compiled plans are executed; expected a "
            "folder of yours alone: chmod 700, or set XDG_CACHE_HOME to another one"
        )


def _is_private(folder: Path) -> bool:
    """Whether the folder exists, is the user's, and its mode lets nobody else write."""
    try:
        status = folder.stat()
    except OSError:
        return False
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _read_build(folder: Path, made_of: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of the plans in `folder` if they were made of that and are undamaged."""
    try:
        build: dict[str, Any] = json.loads((folder / BUILD).read_text())
        rows = build["plans"].values()
        whole = all(file_sha256(folder / Path(x["file"]).name) == x["sha256"] for x in rows)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return build if whole and {k: build.get(k) for k in made_of} == made_of else None


@dataclass(frozen=True, slots=True)
class TensorRT:
    """A Backend for NVIDIA GPUs, on classic TensorRT or TensorRT for RTX."""

    name = "tensorrt"
    isolated = True

    def serves(self, gpu: Gpu | None) -> bool:
        if gpu is None or not self.versions() or find_spec("cuda") is None:
            return False
        return trt.serves(trt.tensorrt(), str(gpu.capability))

    def versions(self) -> dict[str, str]:
        try:
            tensorrt = trt.tensorrt()
        except DeviceError:
            return {}
        return {tensorrt.__name__.replace("_", "-"): str(tensorrt.__version__)}

    def compile(
        self, bundle: Bundle, device: Device, batch: int, cache: Path, copy: Path | None
    ) -> CompiledFiles:
        say = lambda text: print(text, file=sys.stderr)
        made = plans(bundle, _target(device), batch, cache, say, copy)
        return CompiledFiles(folder=made.folder, hashes=made.hashes)

    def load(
        self,
        bundle: Bundle,
        device: Device,
        batch: int,
        files: CompiledFiles | None = None,
        threads: int = 0,
    ) -> Plan:
        assert files is not None
        return load(files.folder, files.hashes, device, batch)


def _target(device: Device) -> str:
    """The GPU's name if TensorRT knows it, so that plans of `compile --target` are found."""
    kind = find_capability(index=device.index)
    return kind if kind in trt.targets(trt.tensorrt()) else trt.CURRENT
