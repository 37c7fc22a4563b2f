"""Batches of one fixed shape, so that the bytes of a case do not depend on its batch (P4)."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np

from mcdiff_batch.engine.image.frame import Image

from .framing import FramedCase
from .plan import Conditioning, Plan

T = TypeVar("T")


def batches(cases: Iterable[T], size: int) -> Iterator[list[T]]:
    """Groups of `size`, in order; the last may be shorter."""
    source = iter(cases)
    while batch := list(islice(source, size)):
        yield batch


def pad(batch: Sequence[T], size: int) -> list[T]:
    """Fills `batch` up to `size` by repeating its last case."""
    return [*batch, *[batch[-1]] * (size - len(batch))]


def strips(batch: Sequence[FramedCase]) -> Image:
    """[B, 1, H, W]: 1 inside the scan, 0 outside."""
    return np.stack([case.strip for case in batch])[:, None].astype(np.float32)


def scans(batch: Sequence[FramedCase]) -> Image:
    """[B, 1, H, W]: the optimal depth of each case, a second observation of its image."""
    return np.stack([case.depths[case.optimal] for case in batch])[:, None]


def condition(plan: Plan, batch: Sequence[FramedCase]) -> Conditioning:
    """Runs the conditioner once for a batch that has exactly as many cases as the plan takes."""
    assert len(batch) == plan.batch, "pad the batch first"
    depths = np.stack([case.depths for case in batch])
    weights = np.stack([case.weights for case in batch])
    return plan.condition(depths, weights, strips(batch), scans(batch))
