"""Depth fusion, eq. 5: one set of features from D depths."""

from torch import Tensor

from .unet import Features


def fuse(weights: Tensor, stacked: Tensor) -> Tensor:
    """Eq. 5: sum_d w_d F^d.  weights [B, D], sum 1; stacked [B * D, C, H, W] -> [B, C, H, W]."""
    batch, depths = weights.shape
    split = stacked.reshape(batch, depths, *stacked.shape[1:])
    return (weights[:, :, None, None, None].to(stacked.dtype) * split).sum(dim=1)


def fused_probabilities(weights: Tensor, logits: Tensor) -> Tensor:
    """Class probabilities [B, 4, H, W] from logits [B * D, 4, H, W], weighted as in eq. 5."""
    return fuse(weights, logits.float().softmax(dim=1))


def fused(weights: Tensor, features: Features) -> tuple[list[Tensor], list[Tensor]]:
    """Fused encoder and decoder features, a pair per skip."""
    return (
        [fuse(weights, x) for x in features.encoder],
        [fuse(weights, x) for x in features.decoder],
    )
