"""Small networks with random weights, and images for them."""

from dataclasses import replace

import torch

from mcdiff_batch.train.networks.presets import PRESETS
from mcdiff_batch.train.networks.trio import Networks


def networks(**changes):
    torch.manual_seed(0)
    nets = Networks(replace(PRESETS["toy"], **changes), torch.device("cpu"))
    for p in nets.foundation.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return nets


def drawn(nets, x, scan, conditions, *, signal=0.6, noise=0.8):
    t, *alpha = (torch.tensor([value]) for value in (500.0, signal, noise))
    return nets.x0(x, t, *alpha, scan, conditions)


def stack():
    """Depths [2, 5, 64, 16] with a black margin of three px."""
    depths = torch.rand(2, 5, 64, 16, generator=torch.Generator().manual_seed(1)) - 0.4
    depths[..., :3], depths[..., -3:] = -1, -1
    return depths
