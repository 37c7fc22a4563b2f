"""What the networks predict, and the losses of the three stages: eq. 9, 10 and 11.

Three coefficients turn a network's output into x0-hat = c_x x_t + c_b b + c_o net:

- "v" (Salimans & Ho 2022): c_x = sqrt(alpha), c_b = 0, c_o = -sqrt(1 - alpha).  The two terms of
  eq. 9 add up to the mean square of v, so eq. 9 and 11 need no weight and no cap.
- "scan": x_t and the scan b (error sd sigma_b) are two observations of x_0.  Their best linear
  estimate is l = P (x_t sqrt(alpha) / (1 - alpha) + b / sigma_b^2), its variance
  P = 1 / (alpha / (1 - alpha) + 1 / sigma_b^2), and x0-hat = l + sqrt(P) net: the
  preconditioning of Karras et al. 2022 with two observations instead of one.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Prediction = Literal["scan", "v"]


@dataclass(frozen=True, slots=True)
class Coefficients:
    """x0-hat = x * x_t + scan * b + net * output; each broadcasts over [N, 1, H, W]."""

    x: Tensor
    scan: Tensor
    net: Tensor


def coefficients(
    prediction: Prediction, signal: Tensor, noise: Tensor, sigma_b: float | Tensor
) -> Coefficients:
    """The coefficients at signal = sqrt(alpha_t), noise = sqrt(1 - alpha_t).

    Nothing divides by either alone, so both ends of the schedule are finite.
    """
    if prediction == "v":
        return Coefficients(signal, torch.zeros_like(signal), -noise)
    from_x, from_scan = (signal * sigma_b) ** 2, noise**2
    total = from_x + from_scan
    return Coefficients(
        signal * sigma_b**2 / total, from_scan / total, noise * sigma_b / total.sqrt()
    )


def diffuse(x0: Tensor, eps: Tensor, alpha: Tensor) -> Tensor:
    """x_t of eq. 1.  x0, eps: [N, 1, H, W]; alpha: [N], cumulative."""
    a = alpha[:, None, None, None]
    return a.sqrt() * x0 + (1 - a).sqrt() * eps


def denoising_loss(
    x0_hat: Tensor, x0: Tensor, scale: Tensor, inside: Tensor, power: float
) -> Tensor:
    """Eq. 9 and 11: mean square error of the output inside the strip, weighted by scale^power.

    x0_hat, x0, inside: [N, 1, H, W].  scale [N, 1, 1, 1]: sd of x0-hat's error where the output's
    error has sd 1.  At power 0 all times count alike; at power 2 it is the error of x0-hat, so high
    noise decides.
    """
    error = (x0_hat.float() - x0).square() * scale ** (power - 2)
    return (error * inside).sum() / inside.sum().clamp(min=1)


def extractor_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Eq. 10: pixel cross-entropy.  logits [N, 4, H, W], labels [N, H, W]."""
    return F.cross_entropy(logits.float(), labels.long())
