"""The three networks of a preset, and the conditions that the tuner gets from a case."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .fusion import fuse_after_decoding, fuse_before_decoding
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
        both = preset.prediction == "scan" and preset.reads == "both"
        self.foundation = body(
            outputs=1, timed=True, inputs=2 if both else 1, sigma=preset.sigma_b_input
        )
        self.extractor = body(outputs=len(CLASSES), timed=False)
        map_channels = len(CLASSES) if preset.conditions == "segmentation" else None
        self.tuner = Tuners(
            self.foundation,
            residual=preset.residual,
            share=preset.tuner_share,
            map_channels=map_channels,
        )
        for model in self.all().values():
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.to(device)

    def all(self) -> dict[str, nn.Module]:
        return {"foundation": self.foundation, "extractor": self.extractor, "tuner": self.tuner}

    def module_of(self, stage: str) -> nn.Module:
        """The network that a stage trains; in stage III the preset's `tunes` decides."""
        own = self.all()[stage]
        if stage != "tuner" or self.preset.tunes == "tuner":
            return own
        return nn.ModuleDict({"tuner": own, "foundation": self.foundation})

    def parameters_of(self, stage: str) -> Iterator[nn.Parameter]:
        """The parameters that a stage trains."""
        for name, parameter in self.module_of(stage).named_parameters():
            part, _, inner = name.partition(".")
            frozen = stage == "tuner" and part == "foundation" and self.preset.tunes == "decoder"
            if not frozen or inner.split(".")[0] in ("decoder", "last", "out"):
                yield parameter

    @property
    def device(self) -> torch.device:
        return next(self.foundation.parameters()).device

    def to(self, device: torch.device) -> None:
        for model in self.all().values():
            model.to(device)

    def features(self, depths: Tensor, weights: Tensor) -> Features:
        """The extractor's features of depths [B, D, H, W], fused by weights [B, D]."""
        images = depths.reshape(-1, 1, *depths.shape[2:])
        fuse = fuse_before_decoding if self.preset.early_fusion else fuse_after_decoding
        return fuse(self.extractor, images, weights)

    def tuner_inputs(self, features: Features) -> tuple[list[Tensor], list[Tensor]]:
        """F and F* for every skip, from fused features.

        Table V has three conditions: features of all depths, fused (eq. 5); features of the optimal
        depth alone, which is eq. 5 with one-hot weights; or the one-hot label map on each skip's
        grid.
        """
        if self.preset.conditions != "segmentation":
            return features.encoder, features.decoder
        label = features.logits.argmax(dim=1)
        classes = F.one_hot(label, len(CLASSES)).permute(0, 3, 1, 2).to(features.logits.dtype)
        grids = [f.shape[2:] for f in features.encoder]
        maps = [F.interpolate(classes, grid, mode="area") for grid in grids]
        return maps, maps

    def conditions(self, depths: Tensor, weights: Tensor) -> Folded:
        """The tuner's per-case constants of depths [B, D, H, W]; no gradient to the extractor."""
        with torch.no_grad():
            inputs = self.tuner_inputs(self.features(depths, weights))
        return self.tuner.fold(*inputs)

    def coefficients(
        self, signal: Tensor, noise: Tensor, sigma_b: Tensor | None = None
    ) -> Coefficients:
        """The coefficients that turn the network's output into x0-hat.

        signal = sqrt(alpha_t), noise = sqrt(1 - alpha_t); sigma_b: [B], or the preset's.
        """
        sd = self.preset.sigma_b if sigma_b is None else sigma_b[:, None, None, None]
        return coefficients(self.preset.prediction, signal, noise, sd)

    def x0(
        self,
        x: Tensor,
        t: Tensor,
        signal: Tensor,
        noise: Tensor,
        scan: Tensor,
        conditions: Folded | None,
        sigma_b: Tensor | None = None,
    ) -> Tensor:
        """x0-hat, float32 and not clamped, from x_t [B, 1, H, W] and the scan [B, 1, H, W].

        signal, noise: sqrt(alpha_t) and sqrt(1 - alpha_t), broadcast over the batch; t: [B] or [1].
        Without conditions it is the foundation model alone.  sigma_b: [B], or the preset's.
        """
        c = self.coefficients(signal, noise, sigma_b)
        linear = c.x * x + c.scan * scan
        if self.preset.prediction == "v" or self.preset.reads == "x":
            read = x
        else:
            read = torch.cat([linear, scan], dim=1) if self.preset.reads == "both" else linear
        folded = conditions or None
        tune = None if folded is None else lambda i, f: self.tuner.tune(folded, i, f)
        if self.preset.sigma_b_input and sigma_b is None:
            sigma_b = torch.full((1,), self.preset.sigma_b, device=x.device)
        output: Tensor = self.foundation(read.to(self.foundation.dtype), t, tune, sigma_b)
        return linear + c.net * output.float()


def to_half(nets: Networks) -> Networks:
    """A copy of the networks in float16; only NormSilu stays in float32."""
    half = Networks(nets.preset, torch.device("cpu"))
    for name, model in half.all().items():
        model.load_state_dict(nets.all()[name].state_dict())
        model.half().eval()
        for part in model.modules():
            if isinstance(part, NormSilu):
                part.float()
    return half
