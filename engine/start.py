"""Where the program begins, and where it ends.

It takes a while to read its modules.  Until `cli.main` heeds the signals, a signal ends the process
at once and without a word: nothing has been begun.  Once all has been said, no signal changes the
exit code.
"""

import math
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path
    from threading import Event

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # those that ask a run to stop
DRAINED = 75  # errors.Exit.DRAINED; nothing is imported before the signals are heeded
SAME_TIME = 1.0  # s in which several signals are one wish
REPEAT_TIME = 0.02  # s
_hanging: list[object] = []


def main() -> None:
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)
    sys.unraisablehook = _repeat
    run(import_module("mcdiff_batch.engine.cli").main)


def _end(*_: object) -> None:
    os._exit(DRAINED if interrupt.code is None else interrupt.code)


class Interrupt:
    """The handler for commands: a signal ends them as Ctrl-C does, so that they can clean up.

    A terminal that closes, or systemd, sends several signals at once.  What comes soon after the
    first is ignored, for it would cut the cleaning short; later it gets through, should that hang.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.product: Path | None = None  # what a command makes in one step, at its end
        self.code: int | None = None  # its exit code, once all has been said
        self.came = False
        self._last = -math.inf

    def __call__(self, *_: object) -> None:
        now = time.monotonic()
        done = self.code is not None or (self.product and os.path.lexists(self.product))
        if not done and now - self._last >= SAME_TIME:
            self._last, self.came = now, True
            warnings.simplefilter("ignore")  # of a library, that it could not end what it began
            raise KeyboardInterrupt

    def forget(self) -> None:
        """The last one was lost."""
        self._last = -math.inf


interrupt = Interrupt()


def _repeat(lost: "sys.UnraisableHookArgs") -> None:
    """Python drops a KeyboardInterrupt that comes within a callback of its own, so it comes again,
    when that is over."""
    if not issubclass(lost.exc_type, KeyboardInterrupt):
        if not interrupt.came:  # else it is of an object that was only half made
            sys.__unraisablehook__(lost)
        return
    from threading import Event, Thread

    over = Event()
    Thread(target=_send_again, args=(over,), daemon=True).start()
    over.set()  # from here on it is soon over, also where the thread takes long to start


def _send_again(over: "Event") -> None:
    over.wait()
    time.sleep(REPEAT_TIME)
    interrupt.forget()
    os.kill(os.getpid(), signal.SIGINT)


def run(program: Callable[[], object]) -> None:
    """Runs what ends with `sys.exit`.  Python waits for nothing that hangs."""
    try:
        program()
    except SystemExit as end:
        if not _hanging or not isinstance(end.code, int):
            raise
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(end.code)


def leave_hanging(what: object) -> None:
    """Notes what cannot be ended: a library that waits for ever in threads of its own."""
    _hanging.append(what)
