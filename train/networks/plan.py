"""The networks as an engine plan, so that the engine's sampler can walk them in PyTorch."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mcdiff_batch.engine.image.frame import Image, Labels
from mcdiff_batch.engine.model.plan import Conditioning, step_inputs
from mcdiff_batch.engine.model.solver import Rung

from .graphs import Conditioner, Denoiser
from .trio import Networks


class TorchPlan:
    """A `Plan` made of the modules that export writes, on the networks' device.

    It serves samples during training and experiments; a run uses the exported graphs.
    """

    def __init__(self, nets: Networks, batch: int) -> None:
        self.batch = batch
        self.device = nets.device
        self.conditioner = Conditioner(nets).to(self.device).eval()
        self.denoiser = Denoiser(nets).to(self.device).eval()

    @torch.no_grad()
    def condition(self, depths: Image, weights: Image, strip: Image, scan: Image) -> Conditioning:
        stack, shares, inside, second = (self._tensor(x) for x in (depths, weights, strip, scan))
        label, *conditions = self.conditioner(stack, shares, inside)
        return Conditioning(conditions=(inside, second, conditions), label=_array(label))

    def unconditioned(self, strip: Image, scan: Image) -> Conditioning:
        """The state for steps of the foundation model alone."""
        conditions = self._tensor(strip), self._tensor(scan), list[Tensor]()
        return Conditioning(conditions=conditions, label=np.zeros(strip.shape, np.uint8))

    def relabel(self, images: Image, strip: Image) -> Labels:
        weights = np.ones((len(images), 1), np.float32)
        return self.condition(images, weights, strip, images).label

    @torch.no_grad()
    def step(
        self, x: Image, previous: Image, rung: Rung, conditioned: Conditioning
    ) -> tuple[Image, Image]:
        conditions: Any = conditioned.conditions
        scalars = (self._tensor(value) for value in step_inputs(rung).values())
        after, x0 = self.denoiser(self._tensor(x), self._tensor(previous), *scalars, *conditions)
        return _array(after), _array(x0)

    def _tensor(self, array: Image) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(self.device)


def _array(x: Tensor) -> Any:
    return x.cpu().numpy()
