"""Where the program begins, and where it ends.

It takes a while to read its modules.  Until `cli.main` heeds the signals, and once it has ended, a
signal ends the process at once and without a word: nothing has been begun, or all has been said.
"""

import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # those that ask a run to stop
DRAINED = 75  # errors.Exit.DRAINED; nothing is imported before the signals are heeded
REPEAT_TIME = 0.02  # s
_hanging: list[object] = []


def main() -> None:
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: os._exit(DRAINED))
    sys.unraisablehook = _repeat
    run(import_module("mcdiff_batch.engine.cli").main)


def _repeat(lost: "sys.UnraisableHookArgs") -> None:
    """Python drops a KeyboardInterrupt that comes within a callback of its own, so it comes again,
    when that is over."""
    if not issubclass(lost.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(lost)
        return
    from threading import Timer

    again = Timer(REPEAT_TIME, os.kill, (os.getpid(), signal.SIGINT))
    again.daemon = True
    again.start()


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
