"""The three networks of a preset, and what the tuner is told of a case."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .fusion import fused
from .presets import Preset
from .tuner import Folded, Tuners
from .unet import UNet

CLASSES = ("background", "transverse process", "rib", "lumbar lump")


class Networks:
    """The three networks of a preset, on a device."""

    def __init__(self, preset: Preset, device: torch.device) -> None:
        self.preset = preset
        self.foundation = UNet(preset.widths, outputs=1, timed=True)
        self.extractor = UNet(preset.widths, outputs=len(CLASSES), timed=False)
        told = len(CLASSES) if preset.conditions == "segmentation" else None
        self.tuner = Tuners(self.foundation, residual=preset.residual, told=told)
        for model in self.all().values():
            model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def all(self) -> dict[str, nn.Module]:
        return {"foundation": self.foundation, "extractor": self.extractor, "tuner": self.tuner}

    @torch.no_grad()
    def read(
        self, depths: Tensor, weights: Tensor, optimal: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """F and F* for every skip, from depths [B, D, H, W], weights [B, D], optimal [B].

        Table V's three conditions: features of all depths fused (eq. 5), features of the optimal
        one (eq. 5 with one-hot weights), or its label map, one-hot, on each skip's grid.
        """
        if self.preset.conditions == "depths":
            return fused(weights, self.extractor.features(depths.flatten(0, 1)[:, None]))
        image = depths[torch.arange(len(depths)), optimal][:, None]
        features = self.extractor.features(image)
        if self.preset.conditions == "optimal":
            return features.encoder, features.decoder
        chosen = F.one_hot(features.logits.argmax(1), len(CLASSES)).permute(0, 3, 1, 2)
        grids = [f.shape[2:] for f in features.encoder]
        told = [F.interpolate(chosen.to(image.dtype), grid, mode="area") for grid in grids]
        return told, told

    def conditions(self, depths: Tensor, weights: Tensor, optimal: Tensor) -> Folded:
        """What `read` gives, folded for every skip; only the tuner gets gradients."""
        return self.tuner.fold(*self.read(depths, weights, optimal))

    def eps(self, x: Tensor, t: Tensor, conditions: Folded) -> Tensor:
        """eps-hat of x_t [B, 1, H, W] under conditions."""
        return self.foundation(x, t, lambda i, f: self.tuner.tune(conditions, i, f))  # type: ignore[no-any-return]
