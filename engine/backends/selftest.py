"""What a plan has to show before it is trusted: the same bits in every slot, and the right ones."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mcdiff_batch.engine.image.frame import Image
from mcdiff_batch.engine.image.metrics import psnr
from mcdiff_batch.engine.model.contract import Contract
from mcdiff_batch.engine.model.ladder import recommended
from mcdiff_batch.engine.model.noise import gaussian
from mcdiff_batch.engine.model.plan import Plan
from mcdiff_batch.engine.model.sampler import sample

EXACT_DB = 140.0  # said of results that are equal bit for bit
ENOUGH_DB = 55.0  # PERFORMANCE.md: a float16 run against float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a plan did with made-up cases."""

    finite: bool
    slots_equal: bool  # one case in every slot comes to the same bits
    order_free: bool  # and cases that change places to the same bits in theirs (P4)
    psnr_db: float  # range 2, against the reference
    seconds: float  # the walk down, and conditioning

    @property
    def mixes_cases(self) -> bool:
        """Whether a case's result depends on where in its batch it is, or beside what."""
        return not (self.slots_equal and self.order_free)

    @property
    def faults(self) -> list[str]:
        wrong = {
            "results are not finite": not self.finite,
            "a case's bits depend on its slot": not self.slots_equal,
            "a case's bits depend on its neighbours": not self.order_free,
            f"results are {self.psnr_db:.0f} dB from float32, expected {ENOUGH_DB:.0f}": (
                self.psnr_db < ENOUGH_DB
            ),
        }
        return [text for text, found in wrong.items() if found]


def tried(plan: Plan, contract: Contract, reference: Plan) -> Verdict:
    """Walks made-up cases down the recommended ladder.  `reference`: float32, of one case."""
    rows = range(plan.batch)
    began = time.perf_counter()
    same = _results(plan, contract, [0] * plan.batch)
    seconds = time.perf_counter() - began
    here, there = _results(plan, contract, rows), _results(plan, contract, rows[::-1])
    known = _results(reference, contract, [0])[0]
    return Verdict(
        finite=bool(np.isfinite(same).all() and np.isfinite(here).all()),
        slots_equal=all(_bits(x) == _bits(same[0]) for x in same),
        order_free=_bits(here) == _bits(there[::-1]),
        psnr_db=min(EXACT_DB, psnr(same[0], known, np.ones(known.shape, np.bool_), data_range=2)),
        seconds=seconds,
    )


def _bits(x: Image) -> bytes:
    return np.ascontiguousarray(x).tobytes()


def _results(plan: Plan, contract: Contract, cases: Sequence[int]) -> Image:
    """[B, 1, H, W] of made-up case numbers, from noise, whatever the contract's temperature."""
    depths, shape = len(contract.depth_weights), (contract.frame.height, contract.frame.width)
    stacks = np.stack([_stack(int(case), depths, shape) for case in cases])
    weights = np.tile(np.asarray(contract.depth_weights, np.float32), (len(stacks), 1))
    strip, scan = np.ones((len(stacks), 1, *shape), np.float32), stacks[:, depths // 2, None]
    conditioned = plan.condition(stacks, weights, strip, scan)
    x = np.stack([gaussian(0, f"self-test {case}", (1, *shape)) for case in cases])
    return sample(plan, x, conditioned, recommended(contract))


def _stack(case: int, depths: int, shape: tuple[int, int]) -> Image:
    """[D, H, W] in [-1, 1]: a bright field with dark bars, one more a depth, and grain."""
    y, x = np.meshgrid(*(np.linspace(0, 1, n, dtype=np.float32) for n in shape), indexing="ij")
    bars = [
        0.4 * np.sin((12 + depth) * np.pi * y + case) * np.abs(x - 0.5) for depth in range(depths)
    ]
    grain = 0.05 * gaussian(1, f"self-test {case}", (depths, *shape))
    return np.asarray(np.clip(np.stack(bars) + grain, -1, 1), np.float32)
