"""The signals that ask a run to end; only the main thread takes them."""

import signal

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
