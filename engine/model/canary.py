"""The canary: what a plan makes of a made-up case, as a digest.

Machines whose canaries are equal compute the same bits, so they may share a run.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mcdiff_batch.engine.image.frame import Image, Labels

from .contract import Contract
from .ladder import recommended_rungs
from .noise import gaussian
from .plan import Device, Plan
from .sampler import sample


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeUp:
    """What a plan made of a batch of made-up cases."""

    before: Labels  # [B, H, W]
    images: Image  # [B, 1, H, W]
    after: Labels  # [B, H, W]

    @property
    def digest(self) -> str:
        """SHA-256 of all bits of the first case."""
        parts = (self.before[0], self.images[0], self.after[0])
        return hashlib.sha256(b"".join(x.tobytes() for x in parts)).hexdigest()


def find_canary(plan: Plan, contract: Contract, device: Device) -> str:
    """The canary of a plan.  On the CPU, where any number of cases is a batch, it costs one."""
    cases = 1 if device.kind == "cpu" else plan.batch
    return enhance_made_up(plan, contract, range(cases)).digest


def enhance_made_up(plan: Plan, contract: Contract, cases: Sequence[int]) -> MadeUp:
    """Walks the made-up cases with these numbers down the recommended ladder, from noise of
    temperature 1."""
    depths, shape = len(contract.depth_weights), (contract.frame.height, contract.frame.width)
    stacks = np.stack([_stack(case, depths, shape) for case in cases])
    weights = np.tile(np.asarray(contract.depth_weights, np.float32), (len(stacks), 1))
    strip, scan = np.ones((len(stacks), 1, *shape), np.float32), stacks[:, depths // 2, None]
    conditioned = plan.condition(stacks, weights, strip, scan)
    x = np.stack([gaussian(0, f"self-test {case}", (1, *shape)) for case in cases])
    images = sample(plan, x, conditioned, recommended_rungs(contract))
    return MadeUp(before=conditioned.label, images=images, after=plan.relabel(images, strip))


def _stack(case: int, depths: int, shape: tuple[int, int]) -> Image:
    """[D, H, W] in [-1, 1]: bright and dark bars, whose number grows with the depth, and grain."""
    y, x = np.meshgrid(*(np.linspace(0, 1, n, dtype=np.float32) for n in shape), indexing="ij")
    bars = [
        0.4 * np.sin((12 + depth) * np.pi * y + case) * np.abs(x - 0.5) for depth in range(depths)
    ]
    grain = 0.05 * gaussian(1, f"self-test {case}", (depths, *shape))
    return np.asarray(np.clip(np.stack(bars) + grain, -1, 1), np.float32)
