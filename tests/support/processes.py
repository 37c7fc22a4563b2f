"""Processes that have to end, and waiting for what has to happen."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterable

import psutil

Command = subprocess.Popen[str] | subprocess.Popen[bytes]
PATIENCE = 120.0  # s that anything in a test may take on a loaded machine


def wait_for(what: Callable[[], object], limit: float = PATIENCE) -> None:
    """Returns as soon as `what` is true."""
    end = time.monotonic() + limit
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def still_running(
    family: Iterable[psutil.Process], limit: float = PATIENCE
) -> list[psutil.Process]:
    """Those that have not ended after `limit` seconds; returns as soon as there are none.

    A process has ended too if it waits for a parent to ask how: in a container, nobody may do so.
    """
    end = time.monotonic() + limit
    while (left := [x for x in family if _lives(x)]) and time.monotonic() < end:
        time.sleep(0.05)
    return left


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def find_family(process: Command) -> list[psutil.Process]:
    """The processes below one, unless it has ended."""
    if process.poll() is not None:
        return []
    return psutil.Process(process.pid).children(recursive=True)


def find_workers(pid: int) -> list[psutil.Process]:
    """The workers of a process; spawn's resource tracker is none."""
    return [x for x in psutil.Process(pid).children() if "spawn_main" in _words(x)]


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has ended meanwhile
        return ""


def kill_alone(process: Command) -> list[psutil.Process]:
    """Kills a process.  Those below it then; it stands still first, so that it starts no other."""
    process.send_signal(signal.SIGSTOP)
    family = find_family(process)
    process.kill()
    process.wait()
    return family
