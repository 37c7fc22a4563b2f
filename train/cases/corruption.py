"""Corrupts the depths that the networks read, as scans are corrupted; targets do not change.

Stage III then learns to restore the optimal image that the scanner gave.  Nothing here needs a
clean target, so a clinic can do the same on its own archive.

The worst fault is clutter: mottled bright veils at several scales that fill the shadows of bone,
and bones that pale.  These differ from depth to depth, and so do speckle, mottle, row gain and
dashes.  Shading, tone, lost contact, dropouts and dim ends are the same in all depths of a case,
because contact, motion and gain are.
Sizes are shares of the frame and are drawn per case.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .data import Batch

OFTEN = 0.5  # chance of each fault in a corrupted case
COARSE = 4  # px of the grid on which veils are drawn
Knots = tuple[int, int]  # knots of a smooth field over the height and the width of a frame


def corrupt_batch(batch: Batch, share: float, rng: np.random.Generator, tall: int) -> Batch:
    """Corrupts the depths of about `share` of the batch's cases; image and label do not change.

    tall: rows of the whole frame; the batch may be a crop of it.
    """
    chosen = torch.from_numpy(rng.random(len(batch.depths)) < share)
    draw = torch.Generator().manual_seed(int(rng.integers(2**62)))
    if not chosen.any():
        return batch
    depths = batch.depths.clone()
    depths[chosen] = corrupt_depths(depths[chosen], batch.label[chosen], draw, tall)
    return batch._replace(depths=depths)


def corrupt_depths(depths: Tensor, label: Tensor, draw: torch.Generator, tall: int) -> Tensor:
    """Corrupts every case of depths [B, D, H, W] in [-1, 1]; black outside the strip stays black.

    label: [B, H, W], 0 where there is no bone.
    """
    strip = (depths > -1 + 1e-3).any(dim=1, keepdim=True)
    dice = Dice(draw, len(depths), tall)
    level = (depths + 1) / 2
    level = torch.where(dice.often(), _pale(level, strip, label, dice), level)
    level = _veil(level, strip, dice)
    for fault in (_shading, _speckle, _tone, _wedge, _dropout, _ends, _dashes):
        level = torch.where(dice.often(), fault(level, strip, dice), level)
    return torch.where(strip, (2 * level - 1).clamp(-1, 1), depths)


@dataclass(frozen=True, slots=True)
class Dice:
    """Random draws, one per case, shaped to broadcast over [B, D, H, W]."""

    draw: torch.Generator
    cases: int
    tall: int  # rows of the whole frame

    def often(self) -> Tensor:
        return self.between(0, 1) < OFTEN

    def between(self, low: float, high: float, *more: int) -> Tensor:
        """Uniform draws [B, 1, 1, 1], or [B, *more]."""
        shape = (self.cases, *(more or (1, 1, 1)))
        return low + (high - low) * torch.rand(shape, generator=self.draw)

    def normal(self, *more: int) -> Tensor:
        return torch.randn((self.cases, *more), generator=self.draw)

    def field(self, depths: int, knots: Knots, size: tuple[int, int]) -> Tensor:
        """A Gaussian field [B, depths, *size] of about unit variance, linear between knots.

        knots: over the whole frame; `size` is the size of the crop on the grid of COARSE px.
        """
        rows = max(2, round(knots[0] * size[0] * COARSE / self.tall))
        coarse = self.normal(depths, min(rows, size[0]), min(knots[1], size[1]))
        return 1.5 * F.interpolate(coarse, size, mode="bilinear", align_corners=False)

    def rows(self, level: Tensor) -> tuple[Tensor, float]:
        """The place of each row [1, 1, H, 1] and of the end, in heights of the whole frame."""
        height = level.shape[2]
        y = (torch.arange(height) + 0.5) / self.tall
        return y[None, None, :, None], height / self.tall


def _pale(level: Tensor, strip: Tensor, label: Tensor, dice: Dice) -> Tensor:
    """Fades bones into the tissue, some more than others; differs between depths."""
    depths, height, width = level.shape[1:]
    bone = (label > 0)[:, None].to(level.dtype)
    tissue = strip * (1 - bone)
    mean = (level * tissue).sum((2, 3), keepdim=True) / tissue.sum((2, 3), keepdim=True).clamp(
        min=1
    )
    soft = F.avg_pool2d(bone, 5, stride=1, padding=2)
    uneven = dice.field(depths, (21, 7), (height // COARSE, width // COARSE))
    uneven = F.interpolate(uneven, (height, width), mode="bilinear", align_corners=False)
    fade = dice.between(0.1, 0.9) * dice.between(0.5, 1, depths, 1, 1) * torch.sigmoid(2 * uneven)
    return level + fade * soft * (mean - level)


def _veil(level: Tensor, strip: Tensor, dice: Dice) -> Tensor:
    """Mixes in bright clutter through a veil; both differ between depths."""
    depths, height, width = level.shape[1:]
    grid = (height // COARSE, width // COARSE)
    fine = lambda x: F.interpolate(x, (height, width), mode="bilinear", align_corners=False)
    q = dice.between(0.05, 1.0) * dice.between(0.6, 1.3, depths, 1, 1)
    broad, middling = dice.field(depths, (21, 7), grid), dice.field(depths, (68, 15), grid)
    veil = (q * (0.35 + 0.45 * broad + 0.3 * middling)).clamp(0, 0.95)
    mottle = 0.3 * dice.field(depths, (44, 10), grid) + 0.2 * dice.field(depths, (120, 22), grid)
    inside = strip.sum((2, 3), keepdim=True).clamp(min=1)
    mean = (level * strip).sum((2, 3), keepdim=True) / inside
    bright = (mean * dice.between(1.1, 1.8)).clamp(max=0.95)
    clutter = bright * torch.exp(fine(mottle))
    clutter = clutter * (1 + 0.1 * dice.normal(depths, height, width))
    return level + fine(veil) * (clutter - level)


def _shading(level: Tensor, strip: Tensor, dice: Dice) -> Tensor:
    """Brightens and darkens broad parts, and adds mottle that differs between depths."""
    grid = (level.shape[2] // COARSE, level.shape[3] // COARSE)
    log = dice.between(0.05, 0.3) * dice.field(1, (12, 5), grid)
    log = log + dice.between(0, 0.3) * dice.field(level.shape[1], (68, 15), grid)
    log = F.interpolate(log, level.shape[2:], mode="bilinear", align_corners=False)
    return level * torch.exp(log)


def _speckle(level: Tensor, strip: Tensor, dice: Dice) -> Tensor:
    """Adds grain, a gain that jitters from row to row, and combing of alternate rows."""
    depths, height, width = level.shape[1:]
    comb = dice.between(0, 0.06) * (torch.arange(height) % 2)[:, None]
    rows = dice.between(0, 0.08) * dice.normal(depths, height, 1) - comb
    return level * (1 + rows + dice.between(0.01, 0.1) * dice.normal(depths, height, width))


def _tone(level: Tensor, strip: Tensor, dice: Dice) -> Tensor:
    """Changes gamma and gain."""
    bent = level.clamp(1e-3, 1) ** torch.exp(dice.between(-0.3, 0.3))
    return bent * dice.between(0.8, 1.4)


def _wedge(level: Tensor, strip: Tensor, dice: Dice) -> Tensor:
    """Darkens a wedge from one edge of the strip inwards, where the probe lost contact."""
    y, last = dice.rows(level)
    inside = strip.to(level.dtype)
    left, wide = inside.cumsum(3), inside.sum(3, keepdim=True).clamp(min=1)
    reached = left / wide
    reached = torch.where(dice.between(0, 1) < 0.5, reached, 1 - reached)
    half = dice.between(0.02, 0.08)
    front = dice.between(0.2, 0.6) * (1 - (y - dice.between(0, last)).abs() / half)
    return level * (1 - dice.between(0.5, 1) * torch.sigmoid((front - reached) / 0.04))


def _dropout(level: Tensor, strip: Tensor, dice: Dice) -> Tensor:
    """Darkens bands across the scan, where the probe moved too fast."""
    y, last = dice.rows(level)
    gain = torch.ones(())
    for _ in range(2):
        band = torch.exp(-(((y - dice.between(0, last)) / dice.between(0.003, 0.02)) ** 4))
        gain = gain * (1 - dice.between(0.2, 0.9) * band)
    return level * gain


def _ends(level: Tensor, strip: Tensor, dice: Dice) -> Tensor:
    """Dims the top or the bottom of the scan, or a section of it."""
    y, last = dice.rows(level)
    middle = torch.where(dice.between(0, 1) < 0.7, last, dice.between(0, last))
    dim = torch.sigmoid((dice.between(0.05, 0.3) - (y - middle).abs()) / 0.03)
    return level * (1 - dice.between(0.2, 0.7) * dim)


def _dashes(level: Tensor, strip: Tensor, dice: Dice) -> Tensor:
    """Draws short dark dashes along rows that no voxel hit, in a band of the scan."""
    y, last = dice.rows(level)
    height, width = level.shape[2:]
    band = (y - dice.between(0, last)).abs() < dice.between(0.02, 0.1)
    started = dice.between(0, 1, 1, height, width) < dice.between(0.01, 0.08)
    long = F.max_pool2d((started & band).to(level.dtype), (1, 5), stride=1, padding=(0, 2))
    return level * (1 - dice.between(0.4, 1) * long)
