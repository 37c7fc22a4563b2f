"""Depth fusion, eq. 5: one set of features from D depths."""

from functools import partial

from torch import Tensor

from .unet import Features, UNet


def fuse(weights: Tensor, stacked: Tensor) -> Tensor:
    """Eq. 5: sum_d w_d F^d.  weights [B, D], sum 1; stacked [B * D, C, H, W] -> [B, C, H, W]."""
    batch, depths = weights.shape
    split = stacked.reshape(batch, depths, *stacked.shape[1:])
    return (weights[:, :, None, None, None].to(stacked.dtype) * split).sum(dim=1)


def early(extractor: UNet, images: Tensor, weights: Tensor) -> Features:
    """Features of images [B * D, 1, H, W], fused before they are decoded: one decoder pass a case.

    The decoder is three quarters of a pass; eq. 5 has it decode every depth.
    """
    return extractor.features(images, partial(fuse, weights))


def late(extractor: UNet, images: Tensor, weights: Tensor) -> Features:
    """Eq. 5 as written: every depth is decoded, then the features and probabilities are fused."""
    each = extractor.features(images)
    likely = fuse(weights, each.logits.float().softmax(dim=1))
    return Features(
        likely.log(),
        [fuse(weights, x) for x in each.encoder],
        [fuse(weights, x) for x in each.decoder],
    )
