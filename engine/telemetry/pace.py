"""Says now and then how far a long step is."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

EVERY = 30.0  # s
Item = TypeVar("Item")


def paced(
    items: Iterable[Item], total: int, done: str, tell: Callable[[str], None]
) -> Iterator[Item]:
    """The items; `tell` gets a line such as "120 of 4000 images fetched" every 30 s."""
    last = time.monotonic()
    for count, item in enumerate(items):
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            tell(f"{count} of {total} {done}")
        yield item
