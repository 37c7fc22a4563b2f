"""What the engine asks of a backend: a way to compute plans, such as TensorRT or ONNX Runtime."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from mcdiff_batch.engine.image.frame import Image
from mcdiff_batch.engine.model.contract import Bundle
from mcdiff_batch.engine.model.plan import Device, Plan

from .gpus import Gpu

BUILD = "build.json"
Shapes = Mapping[str, int]  # sizes of the free dimensions of a graph


def graph_shapes(bundle: Bundle, batch: int) -> dict[str, tuple[str, Shapes]]:
    """The graph and the free dimensions of each part of a plan.  "relabel" takes results as stacks
    of one depth."""
    depths = len(bundle.contract.depth_weights)
    return {
        "conditioner": ("conditioner", {"batch": batch, "depths": depths}),
        "relabel": ("conditioner", {"batch": batch, "depths": 1}),
        "denoiser": ("denoiser", {"batch": batch}),
    }


def pad_depths(depths: Image, weights: Image, count: int) -> tuple[Image, Image]:
    """Adds black depths of weight 0 to depths [B, D, H, W] and weights [B, D], up to the `count`
    that a plan of fixed sizes takes: an archive may have one depth only."""
    more = (0, count - depths.shape[1])
    return (
        np.pad(depths, ((0, 0), more, (0, 0), (0, 0)), constant_values=-1),
        np.pad(weights, ((0, 0), more)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledFiles:
    """The files of a compiled plan.  The folder also contains `BUILD`, the record of the build."""

    folder: Path
    hashes: Mapping[str, str]  # SHA-256 by file name; the fingerprint of a run includes them


class Backend(Protocol):
    """One way to compute plans.

    To add a backend, write a class with these members in a file of its own, and add an instance to
    `BACKENDS` in devices.py.  Instances are pickled, since every worker process needs one.
    """

    @property
    def name(self) -> str:
        """The kind of plan, as run.json records it."""
        ...

    @property
    def isolated(self) -> bool:
        """Whether plans are tried in a process of their own, which leaves nothing on the device
        and may crash without ending the run."""
        ...

    def serves(self, gpu: Gpu | None) -> bool:
        """Whether the backend is installed and computes on `gpu`, or on the CPU if that is None."""
        ...

    def versions(self) -> dict[str, str]:
        """Versions of the packages that results depend on; empty if they are not installed."""
        ...

    def compile(
        self, bundle: Bundle, device: Device, batch: int, cache: Path, copy: Path | None
    ) -> CompiledFiles | None:
        """Finds or makes the files of a plan.  Returns None if the backend needs no files.

        cache: folder of files for all runs.  copy: folder of the files that a run was begun with.
        Raises DeviceError, BundleError.
        """
        ...

    def load(
        self,
        bundle: Bundle,
        device: Device,
        batch: int,
        files: CompiledFiles | None = None,
        threads: int = 0,
    ) -> Plan:
        """Loads a plan.  threads: how many CPU threads it may use; 0 means one per core."""
        ...
