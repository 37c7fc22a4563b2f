"""The networks as a plan: what the engine's sampler walks, straight from PyTorch."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mcdiff_batch.engine.image.frame import Image, Labels
from mcdiff_batch.engine.model.plan import Conditioned, numbers
from mcdiff_batch.engine.model.solver import Rung

from .graphs import Conditioner, Denoiser
from .trio import Networks


class TorchPlan:
    """Plan (engine/plan.py) by the modules that export writes out, on the networks' device.

    For samples while training and for experiments; a run uses the exported graphs.
    """

    def __init__(self, nets: Networks, batch: int) -> None:
        self.batch = batch
        self.device = nets.device
        self.conditioner = Conditioner(nets).to(self.device).eval()
        self.denoiser = Denoiser(nets).to(self.device).eval()

    @torch.no_grad()
    def condition(self, depths: Image, weights: Image, strip: Image, scan: Image) -> Conditioned:
        stack, shares, inside, seen = (self._tensor(x) for x in (depths, weights, strip, scan))
        label, *conditions = self.conditioner(stack, shares, inside)
        return Conditioned(conditions=(inside, seen, conditions), label=_array(label))

    def unconditioned(self, strip: Image, scan: Image) -> Conditioned:
        """For steps of the foundation model alone."""
        held = self._tensor(strip), self._tensor(scan), list[Tensor]()
        return Conditioned(conditions=held, label=np.zeros(strip.shape, np.uint8))

    def relabel(self, images: Image, strip: Image) -> Labels:
        weights = np.ones((len(images), 1), np.float32)
        return self.condition(images, weights, strip, images).label

    @torch.no_grad()
    def step(
        self, x: Image, previous: Image, rung: Rung, conditioned: Conditioned
    ) -> tuple[Image, Image]:
        held: Any = conditioned.conditions
        told = (self._tensor(value) for value in numbers(rung).values())
        after, x0 = self.denoiser(self._tensor(x), self._tensor(previous), *told, *held)
        return _array(after), _array(x0)

    def _tensor(self, array: Image) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(self.device)


def _array(x: Tensor) -> Any:
    return x.cpu().numpy()
