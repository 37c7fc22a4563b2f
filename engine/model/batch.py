"""Batches of one fixed shape, so that a case's bytes never depend on its batch (P4), and the
conditions that a batch's depths become, once, for every step.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np

from mcdiff_batch.engine.image.frame import Image

from .framing import FramedCase
from .plan import Conditioning, Plan

T = TypeVar("T")


def batches(cases: Iterable[T], size: int) -> Iterator[list[T]]:
    """Groups of `size` in order; the last may be short."""
    source = iter(cases)
    while batch := list(islice(source, size)):
        yield batch


def pad(batch: Sequence[T], size: int) -> list[T]:
    """`batch` filled up to `size` by repeating its last case."""
    return [*batch, *[batch[-1]] * (size - len(batch))]


def strips(batch: Sequence[FramedCase]) -> Image:
    """[B, 1, H, W], 1 where the scan is."""
    return np.stack([case.strip for case in batch])[:, None].astype(np.float32)


def scans(batch: Sequence[FramedCase]) -> Image:
    """[B, 1, H, W]: the optimal depth of each, the second observation of its image."""
    return np.stack([case.depths[case.optimal] for case in batch])[:, None]


def condition(plan: Plan, batch: Sequence[FramedCase]) -> Conditioning:
    """`batch` is full: as many cases as the plan was made for."""
    assert len(batch) == plan.batch, "pad the batch first"
    depths = np.stack([case.depths for case in batch])
    weights = np.stack([case.weights for case in batch])
    return plan.condition(depths, weights, strips(batch), scans(batch))
