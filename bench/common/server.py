"""Server programs on loopback."""

import secrets
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO

PATIENCE = 20.0  # s that a server may take to end
FIRST, LAST = 20_000, 32_767  # ports; from 32768 on, any connection may get one


@contextmanager
def started(
    words: Sequence[str], log: IO[bytes] | int = subprocess.DEVNULL
) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that ends with the block, by force if it has to.  log: takes its output."""
    process = subprocess.Popen(words, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """A port of TCP that is free now, of those that Linux gives to no connection by itself."""
    while True:
        port = FIRST + secrets.randbelow(LAST - FIRST + 1)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
