"""What goes wrong in a scan, done to the depths that the networks read; targets stay as they are.

Stage III then learns to restore: from a degraded stack to the optimal image that the scanner did
give.  Nothing here needs a clean target, so that a clinic can do the same on its own archive.

Sizes are shares of the frame, drawn per case.  A wedge, a dropout and the tone are common to the
stack, as contact, motion and gain are; haze, dashes and speckle are each depth's own, and haze
never hides a place at every depth.  Single bones, by the label map, fade at the optimal depth and
others, but stay at one beside it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from .data import Batch

BLOBS = 6  # patches of haze a case
COARSE = (12, 6)  # cells of the local mean
OFTEN = 0.5  # each fault's chance in a corrupted case
BONES_FADE = 0.8  # of `without_bones`: what costs a reader a level is taught most


def corrupted(batch: Batch, share: float, rng: np.random.Generator) -> Batch:
    """The batch with the depths of about `share` of its cases corrupted; image and label stay."""
    if share == 0:
        return batch
    chosen = torch.from_numpy(rng.random(len(batch.depths)) < share)
    draw = torch.Generator().manual_seed(int(rng.integers(2**62)))
    depths = batch.depths.clone()
    for i in torch.nonzero(chosen).flatten().tolist():
        depths[i] = without_bones(depths[i], batch.label[i], int(batch.optimal[i]), rng)
    if chosen.any():
        depths[chosen] = corrupt(depths[chosen], draw)
    return batch._replace(depths=depths)


def without_bones(depths: Tensor, label: Tensor, optimal: int, rng: np.random.Generator) -> Tensor:
    """One case's depths [D, H, W] in [-1, 1], some of its bones faded into the tissue around.

    A bone is a connected part of one class of label [H, W].  It fades at the optimal depth, and by
    chance at the others, but for one beside it, where the scan still shows it.
    """
    count, height = len(depths), label.shape[0]
    if count < 2 or rng.random() > BONES_FADE:
        return depths
    stack, classes = depths.numpy(), label.numpy()
    strip = (stack > -1 + 1e-3).any(axis=0)
    veil = np.zeros_like(stack)
    share = rng.uniform(0.05, 0.5)
    for kind in range(1, int(classes.max(initial=0)) + 1):
        parts, number = ndimage.label(classes == kind)
        for part in range(1, number + 1):
            if rng.random() > share:
                continue
            fades = rng.random(count) < 0.5
            fades[optimal] = True
            beside = optimal + (1 if rng.random() < 0.5 else -1)
            fades[beside if 0 <= beside < count else 2 * optimal - beside] = False
            reach = np.where(fades, rng.uniform(0.6, 1.0), 0.0)
            veil = np.maximum(veil, reach[:, None, None] * (parts == part))
    soft = (0, height / 256, height / 256)
    veil = ndimage.gaussian_filter(ndimage.grey_dilation(veil, size=(1, 3, 3)), soft)
    tissue = strip & (classes == 0)
    around = (0, height / 32, height / 32)
    mean = ndimage.gaussian_filter(np.where(tissue, stack, 0), around)
    mean /= np.maximum(ndimage.gaussian_filter(tissue.astype(np.float32), around[1:]), 1e-3)
    faded = np.where(strip, stack + veil * (mean - stack), stack)
    return torch.from_numpy(np.asarray(faded, np.float32))


def corrupt(depths: Tensor, draw: torch.Generator) -> Tensor:
    """Every case of depths [B, D, H, W] in [-1, 1] corrupted; black outside the strip stays."""
    strip = (depths > -1 + 1e-3).any(dim=1, keepdim=True)
    dice = Dice(draw, len(depths))
    level = (depths + 1) / 2
    for fault in (_haze, _speckle, _tone, _wedge, _dropout, _dashes):
        on = dice.often()
        level = torch.where(on, fault(level, strip, dice), level)
    return torch.where(strip, (2 * level - 1).clamp(-1, 1), depths)


@dataclass(frozen=True, slots=True)
class Dice:
    """Uniform draws, one a case, shaped to broadcast over [B, D, H, W]."""

    draw: torch.Generator
    cases: int

    def often(self) -> Tensor:
        return self.between(0, 1) < OFTEN

    def between(self, low: float, high: float, *more: int) -> Tensor:
        """[B, 1, 1, 1], or [B, *more]."""
        shape = (self.cases, *(more or (1, 1, 1)))
        return low + (high - low) * torch.rand(shape, generator=self.draw)

    def normal(self, *more: int) -> Tensor:
        return torch.randn((self.cases, *more), generator=self.draw)


def _axes(level: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [1, 1, H, 1] and columns [1, 1, 1, W], each 0..1."""
    height, width = level.shape[2:]
    y, x = (torch.arange(n) + 0.5 for n in (height, width))
    return (y / height)[None, None, :, None], (x / width)[None, None, None, :]


def _haze(level: Tensor, strip: Tensor, dice: Dice) -> Tensor:
    """Patches where an image fades to its local mean; one depth, drawn a patch, is spared."""
    depths = level.shape[1]
    y, x = _axes(level)
    inside = strip.to(level.dtype)
    coarse = lambda z: F.adaptive_avg_pool2d(z, COARSE)
    mean = coarse(level * inside) / coarse(inside).clamp(min=1e-3)
    mean = F.interpolate(mean, level.shape[2:], mode="bilinear", align_corners=False)
    veil = torch.zeros_like(level)
    for _ in range(BLOBS):
        down = (y - dice.between(0, 1)) / dice.between(0.02, 0.15)
        across = (x - dice.between(0, 1)) / dice.between(0.1, 0.6)
        patch = torch.exp(-(down.square() + across.square()))
        reach = dice.between(0.3, 1.0, depths, 1, 1) * (dice.between(0, 1, depths, 1, 1) < 0.6)
        spared = dice.between(0, depths).long().clamp(max=depths - 1)
        reach = reach * (torch.arange(depths)[None, :, None, None] != spared)
        veil = torch.maximum(veil, (1.5 * patch * reach).clamp(max=1))
    return level + veil * (mean - level)


def _speckle(level: Tensor, strip: Tensor, dice: Dice) -> Tensor:
    """Grain, correlated along a row, and a gain that jitters from row to row."""
    grain = F.avg_pool2d(dice.normal(*level.shape[1:]), (1, 3), stride=1, padding=(0, 1)) * 3**0.5
    rows = dice.normal(level.shape[1], level.shape[2], 1)
    return level * (1 + dice.between(0.02, 0.2) * grain + dice.between(0, 0.1) * rows)


def _tone(level: Tensor, strip: Tensor, dice: Dice) -> Tensor:
    """Gamma, and contrast about the mean of the scan."""
    bent = level.clamp(1e-3, 1) ** torch.exp(dice.between(-0.4, 0.4))
    count = (strip.sum((1, 2, 3), keepdim=True) * level.shape[1]).clamp(min=1)
    mean = (bent * strip).sum((1, 2, 3), keepdim=True) / count
    return mean + dice.between(0.7, 1.2) * (bent - mean)


def _wedge(level: Tensor, strip: Tensor, dice: Dice) -> Tensor:
    """Contact lost from one edge of the strip inwards, narrowing to a point."""
    y, _ = _axes(level)
    inside = strip.to(level.dtype)
    left, wide = inside.cumsum(3), inside.sum(3, keepdim=True).clamp(min=1)
    right = inside.flip(3).cumsum(3).flip(3)
    reached = torch.where(dice.between(0, 1) < 0.5, left, right) / wide
    half = dice.between(0.02, 0.08)
    front = dice.between(0.2, 0.6) * (1 - (y - dice.between(0, 1)).abs() / half)
    dark = torch.sigmoid((front - reached) / 0.04)
    return level * (1 - dice.between(0.6, 1) * dark)


def _dropout(level: Tensor, strip: Tensor, dice: Dice) -> Tensor:
    """Dark bands right across, where the probe moved too fast."""
    y, _ = _axes(level)
    out = level
    for _ in range(2):
        band = torch.exp(-(((y - dice.between(0, 1)) / dice.between(0.003, 0.015)) ** 4))
        out = out * (1 - dice.between(0.3, 1) * band)
    return out


def _dashes(level: Tensor, strip: Tensor, dice: Dice) -> Tensor:
    """Short dark dashes along rows that no voxel hit, in a band of the scan."""
    y, _ = _axes(level)
    depths, height, width = level.shape[1:]
    band = (y - dice.between(0, 1)).abs() < dice.between(0.05, 0.3)
    started = dice.between(0, 1, depths, height, width) < dice.between(0.01, 0.06)
    long = F.max_pool2d((started & band).to(level.dtype), (1, 3), stride=1, padding=(0, 1))
    return level * (1 - dice.between(0.4, 1) * long)
