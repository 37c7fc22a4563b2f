"""The three networks of a preset, and what the tuner is told of a case."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .fusion import early, late
from .losses import Coefficients, coefficients
from .presets import Preset
from .tuner import Folded, Tuners
from .unet import Features, NormSilu, UNet

CLASSES = ("background", "transverse process", "rib", "lumbar lump")


class Networks:
    """The three networks of a preset, on a device."""

    def __init__(self, preset: Preset, device: torch.device) -> None:
        self.preset = preset
        body = partial(UNet, preset.widths, middle=preset.middle)
        self.foundation = body(outputs=1, timed=True, inputs=2 if preset.reads == "both" else 1)
        self.extractor = body(outputs=len(CLASSES), timed=False)
        told = len(CLASSES) if preset.conditions == "segmentation" else None
        self.tuner = Tuners(
            self.foundation, residual=preset.residual, share=preset.tuner_share, told=told
        )
        for model in self.all().values():
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.to(device)

    def all(self) -> dict[str, nn.Module]:
        return {"foundation": self.foundation, "extractor": self.extractor, "tuner": self.tuner}

    def trained(self, stage: str) -> nn.Module:
        """What a stage changes: its own network, in stage III as the preset's `tunes` has it."""
        own = self.all()[stage]
        if stage != "tuner" or self.preset.tunes == "tuner":
            return own
        return nn.ModuleDict({"tuner": own, "foundation": self.foundation})

    def thawed(self, stage: str) -> Iterator[nn.Parameter]:
        """The parameters of `trained` that have gradients."""
        for name, parameter in self.trained(stage).named_parameters():
            part, _, inner = name.partition(".")
            kept = stage == "tuner" and part == "foundation" and self.preset.tunes == "decoder"
            if not kept or inner.split(".")[0] in ("decoder", "last", "out"):
                yield parameter

    @property
    def device(self) -> torch.device:
        return next(self.foundation.parameters()).device

    def to(self, device: torch.device) -> None:
        for model in self.all().values():
            model.to(device)

    def features(self, depths: Tensor, weights: Tensor) -> Features:
        """The extractor's, fused over depths [B, D, H, W] by weights [B, D]."""
        images = depths.reshape(-1, 1, *depths.shape[2:])
        return (early if self.preset.early_fusion else late)(self.extractor, images, weights)

    def told(self, features: Features) -> tuple[list[Tensor], list[Tensor]]:
        """F and F* for every skip, from fused features.

        Table V's three conditions: features of all depths, fused (eq. 5); features of the optimal
        one, eq. 5 with one-hot weights; or the label map, one-hot, on the grid of each skip.
        """
        if self.preset.conditions != "segmentation":
            return features.encoder, features.decoder
        label = features.logits.argmax(dim=1)
        classes = F.one_hot(label, len(CLASSES)).permute(0, 3, 1, 2).to(features.logits.dtype)
        grids = [f.shape[2:] for f in features.encoder]
        maps = [F.interpolate(classes, grid, mode="area") for grid in grids]
        return maps, maps

    def conditions(self, depths: Tensor, weights: Tensor) -> Folded:
        """What depths [B, D, H, W] come to at every skip; only the tuner gets gradients."""
        with torch.no_grad():
            told = self.told(self.features(depths, weights))
        return self.tuner.fold(*told)

    def coefficients(self, signal: Tensor, noise: Tensor) -> Coefficients:
        """How the output becomes x0-hat, at sqrt(alpha_t) and sqrt(1 - alpha_t)."""
        return coefficients(self.preset.prediction, signal, noise, self.preset.sigma_b)

    def x0(
        self,
        x: Tensor,
        t: Tensor,
        signal: Tensor,
        noise: Tensor,
        scan: Tensor,
        conditions: Folded | None,
    ) -> Tensor:
        """x0-hat, float32, not clamped, of x_t [B, 1, H, W] and the scan [B, 1, H, W].

        signal, noise: sqrt(alpha_t) and sqrt(1 - alpha_t), broadcast over the batch; t [B] or [1].
        No conditions: the foundation model alone.
        """
        c = self.coefficients(signal, noise)
        linear = c.x * x + c.scan * scan
        if self.preset.prediction == "v" or self.preset.reads == "x":
            read = x
        else:
            read = torch.cat([linear, scan], dim=1) if self.preset.reads == "both" else linear
        folded = conditions or None
        tune = None if folded is None else lambda i, f: self.tuner.tune(folded, i, f)
        output: Tensor = self.foundation(read.to(self.foundation.dtype), t, tune)
        return linear + c.net * output.float()


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
