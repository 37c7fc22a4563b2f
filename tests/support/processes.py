"""Processes that have to end."""

import time
from collections.abc import Iterable

import psutil


def still_running(family: Iterable[psutil.Process], limit: float = 30) -> list[psutil.Process]:
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
