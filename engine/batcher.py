"""Cases into batches of one fixed shape, so that a case's bytes never depend on its batch (P4)."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def batches(cases: Iterable[T], size: int) -> Iterator[list[T]]:
    """Groups of `size` in order; the last may be short."""
    source = iter(cases)
    while batch := list(islice(source, size)):
        yield batch


def padded(batch: Sequence[T], size: int) -> list[T]:
    """`batch` filled up to `size` by repeating its last case."""
    return [*batch, *[batch[-1]] * (size - len(batch))]
