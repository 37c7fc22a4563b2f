"""Where the program begins.

It takes a while to read its modules.  Until `cli.main` heeds the signals, and once it has ended, a
signal ends the process at once and without a word: nothing has been begun, or all has been said.
"""

import os
import signal
from importlib import import_module

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # those that ask a run to stop
DRAINED = 75  # errors.Exit.DRAINED; nothing is imported before the signals are heeded


def main() -> None:
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: os._exit(DRAINED))
    import_module("mcdiff_batch.engine.cli").main()
