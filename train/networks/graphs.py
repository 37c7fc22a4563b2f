"""The two graphs of a bundle as PyTorch modules.  Export writes them and checks against them."""

import torch
from torch import Tensor, nn

from .trio import Networks


class Conditioner(nn.Module):
    """Computes once per case what every step needs.

    Takes depths [B, D, H, W], weights [B, D] and strip [B, 1, H, W].  Returns the label [B, H, W],
    then down_i and star_i for every skip i.  In half precision these are half too, and the label
    is int32, because TensorRT does not compute uint8.
    """

    def __init__(self, nets: Networks) -> None:
        super().__init__()
        self.extractor, self.tuner = nets.extractor, nets.tuner
        self.features, self.tuner_inputs = nets.features, nets.tuner_inputs

    def forward(self, depths: Tensor, weights: Tensor, strip: Tensor) -> tuple[Tensor, ...]:
        dtype = self.extractor.dtype
        features = self.features(depths.to(dtype), weights)
        kind = torch.int32 if dtype == torch.float16 else torch.uint8
        label = features.logits.argmax(dim=1).to(kind) * strip[:, 0].to(kind)
        folded = self.tuner.fold(*self.tuner_inputs(features))
        return label, *(x for pair in folded for x in pair)


class Denoiser(nn.Module):
    """One whole solver step: x' = a x + b x0-hat + c x0-hat_prev, with x0-hat clamped.

    Arithmetic and images are float32, whatever the networks are; x0-hat is black outside the
    strip.  Without conditions it is a step of the foundation model.
    coefficients [5]: sqrt(alpha_t), sqrt(1 - alpha_t), a, b, c; t [1]; images [B, 1, H, W].
    """

    def __init__(self, nets: Networks) -> None:
        super().__init__()
        self.foundation, self.tuner, self.x0 = nets.foundation, nets.tuner, nets.x0

    def forward(
        self,
        x: Tensor,
        previous: Tensor,
        t: Tensor,
        coefficients: Tensor,
        strip: Tensor,
        scan: Tensor,
        conditions: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        folded = list(zip(conditions[::2], conditions[1::2], strict=True))
        signal, noise, a, b, c = coefficients.unbind()
        x0 = self.x0(x, t, signal, noise, scan, folded).clamp(-1, 1)
        x0 = strip * x0 - (1 - strip)
        return a * x + b * x0 + c * previous, x0


def condition_names(nets: Networks) -> list[str]:
    """Names of the conditions in the order of the graphs: down_0, star_0, down_1, ..."""
    return [f"{kind}_{i}" for i in range(len(nets.tuner)) for kind in ("down", "star")]
