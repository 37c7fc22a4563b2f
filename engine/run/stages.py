"""Runs the stages of a worker side by side, each in a thread."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from queue import Queue
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None


def run_ahead(source: Iterable[T], depth: int, gauge: Callable[[T, int], None]) -> Iterator[T]:
    """Yields the items of `source` in order, which a thread computes up to `depth` items ahead.

    With depth 0 items are computed on demand, without a thread.  `gauge` is called with each item
    and the number of those that are ready behind it.  An error of `source` is raised in the place
    of its item.  If the caller stops early, the thread waits for ever: use it only in processes
    that end by `os._exit`.
    """
    if depth == 0:
        yield from source
        return
    queue: Queue[T | _End] = Queue(depth)
    Thread(target=_pump, args=(source, queue), daemon=True).start()
    while not isinstance(item := queue.get(), _End):
        gauge(item, queue.qsize())
        yield item
    if item.error is not None:
        raise item.error


def _pump(source: Iterable[T], queue: "Queue[T | _End]") -> None:
    error: BaseException | None = None
    try:
        for item in source:
            queue.put(item)
    except BaseException as raised:
        error = raised
    queue.put(_End(error))
