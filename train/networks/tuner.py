"""The morphology tuner, eq. 7 and 8, in the folded form that training and plans share.

`fold` computes once per case what depends on the conditions alone: W_down F + b_down and the
projected F* + b_up.  A step is left with two 1x1 convolutions.

Eq. 8 as written drops the pretrained skip f_i where W_up is zero, and training starves.  With
`residual`, as in SCEdit, the skip becomes f_i + T + P F*; W_up and P start at zero, so stage III
starts at the pretrained model.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from .unet import UNet

Folded = list[tuple[Tensor, Tensor]]  # per skip: W_down F + b_down, P F* + b_up


class Tuner(nn.Module):
    """The tuner of one skip: f and F are [B, C, H, W], F* is [B, C*, H, W]; share x C is its width.

    map_channels: a label map with so many classes replaces F and F*, through its own 1x1
    projections.
    """

    def __init__(
        self,
        channels: int,
        star_channels: int,
        *,
        residual: bool,
        share: float = 0.5,
        map_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.residual = residual
        width = max(8, round(share * channels))
        self.down = nn.Conv2d(channels, width, 1)
        self.up = nn.Conv2d(width, channels, 1)
        self.star = nn.Conv2d(map_channels or star_channels, channels, 1, bias=False)
        self.project = nn.Conv2d(map_channels, channels, 1) if map_channels else nn.Identity()
        if residual:
            for weight in (self.up.weight, self.up.bias, self.star.weight):
                assert weight is not None
                nn.init.zeros_(weight)

    def fold(self, feature: Tensor, star: Tensor) -> tuple[Tensor, Tensor]:
        """The per-case constants W_down F + b_down [B, C', H, W] and P F* + b_up [B, C, H, W]."""
        assert self.up.bias is not None
        return self.down(self.project(feature)), self.star(star) + self.up.bias[:, None, None]

    def forward(self, f: Tensor, down: Tensor, star: Tensor) -> Tensor:
        """Eq. 7 and 8: W_up SiLU(W_down (f + F)) + F*, plus f if `residual`."""
        tuned = F.conv2d(F.silu(F.conv2d(f, self.down.weight) + down), self.up.weight) + star
        return f + tuned if self.residual else tuned


class Tuners(nn.ModuleList):
    """One tuner per skip of a U-Net."""

    def __init__(
        self, unet: UNet, *, residual: bool, share: float = 0.5, map_channels: int | None = None
    ) -> None:
        pairs = zip(unet.skip_channels, unet.star_channels, strict=True)
        super().__init__(
            Tuner(*x, residual=residual, share=share, map_channels=map_channels) for x in pairs
        )

    def fold(self, encoder: list[Tensor], decoder: list[Tensor]) -> Folded:
        pairs = zip(encoder, decoder, strict=True)
        return [self._at(i).fold(*pair) for i, pair in enumerate(pairs)]

    def tune(self, folded: Folded, i: int, f: Tensor) -> Tensor:
        tuned: Tensor = self._at(i)(f, *folded[i])
        return tuned

    def _at(self, i: int) -> Tuner:
        tuner = self[i]
        assert isinstance(tuner, Tuner)
        return tuner
