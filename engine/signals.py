"""The signals that ask a run to stop.  The main thread of the parent takes them, and no other.

Other processes of a command end with their parent.
"""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .start import SIGNALS as SIGNALS
from .start import interrupt

if TYPE_CHECKING:
    from multiprocessing.pool import Pool

PR_SET_PDEATHSIG = 1
QUIET = "ignore:resource_tracker:UserWarning:multiprocessing.resource_tracker"


@contextmanager
def handling(handler: Callable[[int, Any], Any]) -> Iterator[None]:
    """Calls `handler` on each of SIGNALS until the end of the block.

    A signal that is ignored, as under nohup, stays so.  Python allows handlers in the main thread
    only; in another thread nothing changes.
    """
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in SIGNALS if main}
    try:
        for number, old in before.items():
            if old is not signal.SIG_IGN:
                signal.signal(number, handler)
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def interrupting() -> Iterator[None]:
    """Any signal ends a command as Ctrl-C does, until the end of the block."""
    interrupt.reset()
    with handling(interrupt):
        yield


def end_with(product: Path) -> None:
    """Says what the command makes, in one step, at its end: a signal that comes later is too late,
    for the same command again would find that `product` exists."""
    interrupt.product = product


@contextmanager
def deferring() -> Iterator[None]:
    """Signals that come within the block take effect at its end."""
    came: list[int] = []
    with handling(lambda number, _: came.append(number)):
        yield
    for number in came[:1]:
        signal.raise_signal(number)


@contextmanager
def blocking(*numbers: signal.Signals) -> Iterator[None]:
    """Processes that start in the block never get these signals, not even while Python starts.

    Ctrl-C in a terminal goes to all processes of a command; its parent alone heeds it.
    """
    from multiprocessing import resource_tracker

    sys.warnoptions.append(QUIET)  # which it inherits: it says no word when this process is killed
    resource_tracker.ensure_running()  # started in the block, it would unblock them
    sys.warnoptions.remove(QUIET)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent(parent: int) -> None:
    """Ends this process, without a word, when the thread of process `parent` that started it ends,
    killed or not."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def start_pool(workers: int) -> "Pool":
    """A pool of processes that never get Ctrl-C, and end with this one."""
    from multiprocessing import get_context

    with blocking(signal.SIGINT):
        return get_context("spawn").Pool(workers, end_with_parent, (os.getpid(),))
