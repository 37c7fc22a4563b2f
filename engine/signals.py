"""The signals that ask a run to stop.  The main thread of the parent takes them, and no other."""

import signal

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
