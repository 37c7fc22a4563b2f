"""The losses of the three stages, eq. 9, 10 and 11."""

import torch
from torch import Tensor
from torch.nn import functional as F


def diffuse(x0: Tensor, eps: Tensor, alpha: Tensor) -> Tensor:
    """Eq. 1: x_t.  x0, eps [N, 1, H, W]; alpha [N], cumulative."""
    a = alpha[:, None, None, None]
    return a.sqrt() * x0 + (1 - a).sqrt() * eps


def denoising_loss(eps_hat: Tensor, eps: Tensor, alpha: Tensor, cap: float) -> Tensor:
    """Eq. 9: eps-MSE + x0-MSE; eq. 11, eps-MSE alone, at cap 0.  Scaled to be near 1 at the start.

    The x0 term is (1 - alpha) / alpha times the eps term, without bound: capped.
    """
    weight = 1 + torch.clamp((1 - alpha) / alpha, max=cap)
    return (weight * _mse(eps_hat, eps)).mean() / (1 + cap / 2)


def extractor_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Eq. 10: pixel cross-entropy.  logits [N, 4, H, W], labels [N, H, W]."""
    return F.cross_entropy(logits.float(), labels.long())


def _mse(a: Tensor, b: Tensor) -> Tensor:
    return (a.float() - b.float()).square().mean(dim=(1, 2, 3))
