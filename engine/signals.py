"""The signals that ask a run to stop.  The main thread of the parent takes them, and no other."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .start import SIGNALS as SIGNALS

if TYPE_CHECKING:
    from multiprocessing.pool import Pool


@contextmanager
def handling(handler: Callable[[int, Any], Any]) -> Iterator[None]:
    """Calls `handler` on each of SIGNALS until the end of the block.

    A signal that is ignored, as under nohup, stays so.  Python allows handlers in the main thread
    only; in another thread nothing changes.
    """
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in SIGNALS if main}
    for number, old in before.items():
        if old is not signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def blocking(*numbers: signal.Signals) -> Iterator[None]:
    """Processes that start in the block never get these signals, not even while Python starts.

    Ctrl-C in a terminal goes to all processes of a command; its parent alone heeds it.
    """
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # started in the block, it would unblock them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_pool(workers: int) -> "Pool":
    """A pool of processes that never get Ctrl-C."""
    from multiprocessing import get_context

    with blocking(signal.SIGINT):
        return get_context("spawn").Pool(workers)
