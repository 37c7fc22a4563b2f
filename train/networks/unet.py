"""The improved-DDPM U-Net (Nichol & Dhariwal 2021), for the foundation model and the extractor.

Both have the same body; the extractor has no time embedding and four outputs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUP = 8  # channels per group: a power of two keeps TensorRT's fast GroupNorm kernel
SIGMA_SCALE = 1000  # takes sigma_b to the range of t, for which the embedding is made

Tune = Callable[[int, Tensor], Tensor]  # (skip index, f_i) -> what the decoder gets instead
Merge = Callable[[Tensor], Tensor]  # features of B * D images to those of B


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """Size of a U-Net: base channels, their multiple at each level, residual blocks per level.

    patch: side of the blocks of px that become channels first (space to depth, Shi et al. 2016).
    Norms and activations, which cost memory traffic, then run on a coarser grid with more channels.
    """

    base: int
    multipliers: tuple[int, ...] = (1, 2, 3, 4)
    blocks: int = 2
    patch: int = 1

    @property
    def factor(self) -> int:
        """Height and width must be multiples of this."""
        return int(self.patch * 2 ** (len(self.multipliers) - 1))


@dataclass(frozen=True, slots=True)
class Features:
    """The extractor's output for images [N, 1, H, W]: one encoder/decoder pair per skip (eq. 4)."""

    logits: Tensor  # [N, 4, H, W]
    encoder: list[Tensor]  # F_i
    decoder: list[Tensor]  # F*_i, which the extractor's own skip i is concatenated with


def sinusoidal(t: Tensor, width: int) -> Tensor:
    """Embeddings [N, width] of times [N]: half cosines, half sines.  Vaswani et al. 2017."""
    half = width // 2
    rates = torch.exp(-math.log(10000) / half * torch.arange(half, device=t.device))
    angles = t.float()[:, None] * rates[None]
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class NormSilu(nn.Module):
    """SiLU(GroupNorm(x) (1 + scale) + shift).

    In half precision all of it runs in float32, which TensorRT compiles to one kernel.  In bfloat16
    training PyTorch itself keeps the statistics in float32.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(channels // GROUP, channels)

    def forward(self, x: Tensor, scale_shift: Tensor | None = None) -> Tensor:
        h = self.norm(x.float() if x.dtype == torch.float16 else x)
        if scale_shift is not None:
            scale, shift = scale_shift.to(h.dtype)[:, :, None, None].chunk(2, dim=1)
            h = torch.addcmul(h + shift, h, scale)
        return F.silu(h).to(x.dtype)


class ResBlock(nn.Module):
    """Residual block with scale-shift time conditioning."""

    def __init__(self, source: int, target: int, time: int | None) -> None:
        super().__init__()
        self.first = NormSilu(source)
        self.conv1 = nn.Conv2d(source, target, 3, padding=1)
        self.time = nn.Linear(time, 2 * target) if time else None
        self.second = NormSilu(target)
        self.conv2 = _zero(nn.Conv2d(target, target, 3, padding=1))
        self.skip = nn.Conv2d(source, target, 1) if source != target else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        h = self.conv1(self.first(x))
        scale_shift = self.time(embedding) if self.time is not None else None
        h = self.conv2(self.second(h, scale_shift))
        return torch.add(self.skip(x), h)


class Attention(nn.Module):
    """Residual self-attention over all px with one head; channels last, so nothing is copied."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(channels // GROUP, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = _zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        n, c, height, width = x.shape
        qkv = self.qkv(self.norm(x)).permute(0, 2, 3, 1).reshape(n, 1, height * width, 3 * c)
        h = F.scaled_dot_product_attention(*qkv.chunk(3, dim=-1))
        out: Tensor = self.out(h.reshape(n, height, width, c).permute(0, 3, 1, 2))
        return x + out


class Block(nn.Module):
    """A residual block, followed by attention at the coarsest level."""

    def __init__(self, source: int, target: int, time: int | None, attends: bool) -> None:
        super().__init__()
        self.res = ResBlock(source, target, time)
        self.attention = Attention(target) if attends else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        out: Tensor = self.attention(self.res(x, embedding))
        return out


class Up(nn.Module):
    """Doubles the size by nearest neighbour, then convolves."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class UNet(nn.Module):
    """Maps x [N, inputs, H, W] (and t [N] or [1]) to [N, outputs, H, W].

    H and W are multiples of widths.factor.  `skip_channels` and `star_channels` are the channels
    of f_i and of what it is concatenated with.  With `middle`, the last of them belong to the
    output of the middle blocks, which is tuned like a skip.  With `sigma` the blocks are told
    sigma_b [N] or [1] too, by an embedding that is added to that of t.
    """

    def __init__(
        self,
        widths: Widths,
        *,
        outputs: int,
        timed: bool,
        inputs: int = 1,
        middle: bool = False,
        sigma: bool = False,
    ) -> None:
        super().__init__()
        self.base, self.patch, self.tunes_middle = widths.base, widths.patch, middle
        levels = [widths.base * m for m in widths.multipliers]
        time = 4 * widths.base if timed else None
        self.time = _time_mlp(widths.base, time) if time else None
        self.stem = nn.Conv2d(inputs * widths.patch**2, widths.base, 3, padding=1)
        self.skip_channels = [widths.base]
        self.encoder = nn.ModuleList()
        here = widths.base
        for level, channels in enumerate(levels):
            deepest = level == len(levels) - 1
            for _ in range(widths.blocks):
                self.encoder.append(Block(here, channels, time, deepest))
                here = channels
                self.skip_channels.append(here)
            if not deepest:
                self.encoder.append(nn.Conv2d(here, here, 3, stride=2, padding=1))
                self.skip_channels.append(here)
        self.middle = nn.ModuleList([Block(here, here, time, True), Block(here, here, time, False)])
        self.decoder = nn.ModuleList()
        stars, pending = [], list(self.skip_channels)
        for level, channels in reversed(list(enumerate(levels))):
            for i in range(widths.blocks + 1):
                stars.append(here)
                deepest = level == len(levels) - 1
                self.decoder.append(Block(here + pending.pop(), channels, time, deepest))
                here = channels
                if level and i == widths.blocks:
                    self.decoder.append(Up(here))
        self.star_channels = stars[::-1]
        if middle:
            self.skip_channels.append(levels[-1])
            self.star_channels.append(levels[-1])
        self.last = NormSilu(here)
        self.out = _zero(nn.Conv2d(here, outputs * widths.patch**2, 3, padding=1))
        self.sigma = _time_mlp(widths.base, time) if time and sigma else None

    @property
    def dtype(self) -> torch.dtype:
        """The type that x must have."""
        return self.stem.weight.dtype

    def forward(
        self,
        x: Tensor,
        t: Tensor | None = None,
        tune: Tune | None = None,
        sigma_b: Tensor | None = None,
    ) -> Tensor:
        return self._run(x, self._embed(t, sigma_b, x.dtype), tune or (lambda i, f: f)).logits

    def features(self, x: Tensor, merge: Merge = lambda f: f) -> Features:
        """The features of eq. 4.

        merge: joins the encoder's features of a case's images before they are decoded.
        """
        return self._run(x, None, lambda i, f: f, merge)

    def _run(
        self, x: Tensor, embedding: Tensor | None, tune: Tune, merge: Merge = lambda f: f
    ) -> Features:
        skips = [self.stem(F.pixel_unshuffle(x, self.patch))]
        for layer in self.encoder:
            h = layer(skips[-1], embedding) if isinstance(layer, Block) else layer(skips[-1])
            skips.append(h)
        h = skips[-1]
        for block in self.middle:
            h = block(h, embedding)
        skips, h = [merge(f) for f in skips], merge(h)
        lowest = [h] if self.tunes_middle else []
        if lowest:
            h = tune(len(skips), h)
        stars: list[Tensor] = []
        for layer in self.decoder:
            if isinstance(layer, Up):
                h = layer(h)
                continue
            stars.append(h)
            i = len(skips) - len(stars)
            h = layer(torch.cat([tune(i, skips[i]), h], dim=1), embedding)
        image = F.pixel_shuffle(self.out(self.last(h)), self.patch)
        return Features(image, skips + lowest, stars[::-1] + lowest)

    def _embed(self, t: Tensor | None, sigma_b: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        if self.time is None or t is None:
            return None
        out: Tensor = self.time(sinusoidal(t, self.base).to(dtype))
        if self.sigma is not None and sigma_b is not None:
            out = out + self.sigma(sinusoidal(SIGMA_SCALE * sigma_b, self.base).to(dtype))
        return out


def _time_mlp(base: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(base, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())


def _zero(conv: nn.Conv2d) -> nn.Conv2d:
    """Sets a convolution to zero: residual branches and outputs start there (improved DDPM)."""
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv
