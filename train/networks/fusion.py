"""Depth fusion, eq. 5: one set of features from D depths."""

from functools import partial

from torch import Tensor

from .unet import Features, UNet


def fuse(weights: Tensor, stacked: Tensor) -> Tensor:
    """Eq. 5: sum_d w_d F^d.  weights [B, D], sum 1; stacked [B * D, C, H, W] -> [B, C, H, W]."""
    batch, depths = weights.shape
    split = stacked.reshape(batch, depths, *stacked.shape[1:])
    return (weights[:, :, None, None, None].to(stacked.dtype) * split).sum(dim=1)


def fuse_before_decoding(extractor: UNet, images: Tensor, weights: Tensor) -> Features:
    """Features of images [B * D, 1, H, W], fused before the decoder, which then runs once per case.

    The decoder is three quarters of a pass.  Eq. 5 as written decodes every depth.
    """
    return extractor.features(images, partial(fuse, weights))


def fuse_after_decoding(extractor: UNet, images: Tensor, weights: Tensor) -> Features:
    """Eq. 5 as written: decodes every depth, then fuses the features and the probabilities."""
    features = extractor.features(images)
    probabilities = fuse(weights, features.logits.float().softmax(dim=1))
    return Features(
        probabilities.log(),
        [fuse(weights, x) for x in features.encoder],
        [fuse(weights, x) for x in features.decoder],
    )
