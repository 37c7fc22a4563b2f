"""The three networks of a preset, and what the tuner is told of a case."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .fusion import fused, fused_probabilities
from .presets import Preset
from .tuner import Folded, Tuners
from .unet import Features, NormSilu, UNet

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
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.to(device)

    def all(self) -> dict[str, nn.Module]:
        return {"foundation": self.foundation, "extractor": self.extractor, "tuner": self.tuner}

    @property
    def device(self) -> torch.device:
        return next(self.foundation.parameters()).device

    def to(self, device: torch.device) -> None:
        for model in self.all().values():
            model.to(device)

    def told(self, weights: Tensor, features: Features) -> tuple[list[Tensor], list[Tensor]]:
        """F and F* for every skip, from weights [B, D] and features of B * D images.

        Table V's three conditions: features of all depths, fused (eq. 5); features of the optimal
        one, eq. 5 with one-hot weights; or the label map, one-hot, on the grid of each skip.
        """
        if self.preset.conditions != "segmentation":
            return fused(weights, features)
        label = fused_probabilities(weights, features.logits).argmax(dim=1)
        classes = F.one_hot(label, len(CLASSES)).permute(0, 3, 1, 2).to(weights.dtype)
        grids = [f.shape[2:] for f in features.encoder]
        maps = [F.interpolate(classes, grid, mode="area") for grid in grids]
        return maps, maps

    def conditions(self, depths: Tensor, weights: Tensor) -> Folded:
        """What depths [B, D, H, W] come to at every skip; only the tuner gets gradients."""
        with torch.no_grad():
            features = self.extractor.features(depths.flatten(0, 1)[:, None])
            told = self.told(weights, features)
        return self.tuner.fold(*told)

    def eps(self, x: Tensor, t: Tensor, conditions: Folded) -> Tensor:
        """eps-hat of x_t [B, 1, H, W] under conditions."""
        return self.foundation(x, t, lambda i, f: self.tuner.tune(conditions, i, f))  # type: ignore[no-any-return]


def halved(nets: Networks) -> Networks:
    """The same networks in float16, but for NormSilu, a float32 island."""
    half = Networks(nets.preset, torch.device("cpu"))
    for name, model in half.all().items():
        model.load_state_dict(nets.all()[name].state_dict())
        model.half().eval()
        for part in model.modules():
            if isinstance(part, NormSilu):
                part.float()
    return half
