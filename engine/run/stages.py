"""Stages that run side by side: an iterable, carried on in a thread of its own."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from queue import Queue
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None


def ahead(
    source: Iterable[T], depth: int, gauge: Callable[[T, int], None] = lambda *_: None
) -> Iterator[T]:
    """`source` in order, worked on up to `depth` items ahead; 0: on demand, with no thread.

    `gauge` is told of each item taken, and how many more are ready.  An error comes out where the
    item would have.  Left early, the thread stays behind, stuck: for processes that end by
    `os._exit`.
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
