"""The protocol of a plan: a bundle that a backend has loaded on a device."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mcdiff_batch.engine.image.frame import Image, Labels
from mcdiff_batch.engine.text import name_device

from .solver import Rung


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditioning:
    """What the conditioner makes of a batch's depths."""

    conditions: object  # in the plan's own form, on its device
    label: Labels  # [B, H, W]


@dataclass(frozen=True, slots=True)
class OnDevice:
    """A tensor on a device, which is copied only when numpy needs it."""

    handle: Any
    fetch: Callable[[], Image]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Image:
        return np.asarray(self.fetch(), dtype)


def step_inputs(rung: Rung) -> dict[str, Image]:
    """The inputs of the denoiser that depend on the rung."""
    scalars = [rung.signal, rung.noise, rung.a, rung.b, rung.c]
    return {"t": np.array([rung.t], np.float32), "coefficients": np.array(scalars, np.float32)}


class Plan(Protocol):
    """A bundle, loaded on one device for one batch size."""

    @property
    def batch(self) -> int:
        """Cases in a batch."""
        ...

    def condition(self, depths: Image, weights: Image, strip: Image, scan: Image) -> Conditioning:
        """Runs the conditioner, once per batch.

        depths: [B, D, H, W] in [-1, 1]; weights: [B, D].
        strip: [B, 1, H, W], 0 or 1; scan: [B, 1, H, W], the optimal depth.  Steps use both too.
        """
        ...

    def relabel(self, images: Image, strip: Image) -> Labels:
        """Label maps [B, H, W] of images [B, 1, H, W]."""
        ...

    def step(
        self, x: Image, previous: Image, rung: Rung, conditioned: Conditioning
    ) -> tuple[Image, Image]:
        """One solver step.  Returns the next x and x0-hat, both [B, 1, H, W].

        The results may stay on the device, and are valid until the next call, which may take them
        as `x` and `previous`.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Where a worker computes.  As text, "cpu:0", "cuda:1", "cuda:1.1" for the second worker on
    that GPU or, on a host of a cluster, "host2/cuda:1"; for people, "CPU", "GPU 1", "GPU 1 worker
    2" or "GPU 1 of host 2"."""

    kind: str
    index: int
    host: int = 0  # number of a host of a cluster; 0: this machine
    worker: int = 0  # number of a worker among those that share a GPU

    @property
    def title(self) -> str:
        return name_device(str(self))

    def __str__(self) -> str:
        host = f"host{self.host}/" if self.host else ""
        worker = f".{self.worker}" if self.worker else ""
        return f"{host}{self.kind}:{self.index}{worker}"


PlanMaker = Callable[[Device, int], Plan]  # (device, batch); pickled, and called in the worker
