"""What the engine asks of a compiled model, whoever runs it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mcdiff_batch.engine.image.frame import Image, Labels

from .solver import Rung


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditioning:
    """What a case's depths come to; `conditions` is the plan's own and stays where it computes."""

    conditions: object
    label: Labels  # [B, H, W]


@dataclass(frozen=True, slots=True)
class OnDevice:
    """A tensor that stays where it was computed, until numpy asks for it."""

    handle: Any
    fetch: Callable[[], Image]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Image:
        return np.asarray(self.fetch(), dtype)


def step_inputs(rung: Rung) -> dict[str, Image]:
    """A rung as the denoiser's inputs."""
    scalars = [rung.signal, rung.noise, rung.a, rung.b, rung.c]
    return {"t": np.array([rung.t], np.float32), "coefficients": np.array(scalars, np.float32)}


class Plan(Protocol):
    """A bundle, loaded on one device for one batch size."""

    @property
    def batch(self) -> int: ...

    def condition(self, depths: Image, weights: Image, strip: Image, scan: Image) -> Conditioning:
        """depths [B, D, H, W] in [-1, 1], weights [B, D]; strip of 0 and 1 and scan, the optimal
        depth, [B, 1, H, W], are for the steps too."""
        ...

    def relabel(self, images: Image, strip: Image) -> Labels:
        """Label map [B, H, W] of single images [B, 1, H, W]."""
        ...

    def step(
        self, x: Image, previous: Image, rung: Rung, conditioned: Conditioning
    ) -> tuple[Image, Image]:
        """One solver step: next x and x0-hat, both [B, 1, H, W].

        What it returns may stay on the device until numpy asks for it, and is good until the next
        call; x and previous may be that.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Where a worker computes, as the user names it: "cpu:0", "cuda:1"."""

    kind: str
    index: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.index}"


PlanMaker = Callable[[Device, int], Plan]  # (device, batch); picklable, called inside the worker
