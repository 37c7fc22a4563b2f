"""What can happen to one call: an error, a kill, half a write, or the end of the power."""

import errno
import os
import signal
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.support.disk import CHANGES, ERRORS, REAL, Call, Disk

from .night import PowerCut

KILL, TEAR, SHORT, POWER = "kill", "tear", "short write", "power"


@dataclass(slots=True, kw_only=True)
class Strike:
    """A Heed that strikes at one call; an error that lasts strikes at every later call too."""

    at: str  # the call, as `str` writes it
    what: str  # KILL, TEAR, SHORT, POWER or the name of an error
    lasts: bool = False
    struck: bool = False

    def __str__(self) -> str:
        return f"{self.what}{' from' if self.lasts else ' at'} {self.at}"

    def __call__(self, disk: Disk, call: Call) -> int | None:
        again = self.struck and self.lasts and self.what in ERRORS[call.kind]
        if str(call) != self.at and not again:
            return None
        self.struck = True
        if self.what == SHORT:
            return 1
        if self.what == POWER:
            disk.power = False
            raise PowerCut
        if self.what in (KILL, TEAR):
            if self.what == TEAR:
                REAL["write"](call.descriptor, call.data[: len(call.data) // 2])
            disk.before_kill()
            os.kill(os.getpid(), signal.SIGKILL)
        if call.kind == "fsync":
            _lose(call.descriptor)
        code = getattr(errno, self.what)
        raise OSError(code, os.strerror(code), f"{disk.root}/{call.name}")


def _lose(descriptor: int) -> None:
    """The kernel drops the pages that it could not write: a second fsync would succeed (P3)."""
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode):
        REAL["ftruncate"](descriptor, 0)
        REAL["ftruncate"](descriptor, status.st_size)


def error_strikes(calls: Sequence[Call]) -> Iterator[Strike]:
    """Every error at every call, once; then those that do not go away by themselves."""
    for call in calls:
        for name in ERRORS[call.kind]:
            yield Strike(at=str(call), what=name)
        if call.kind == "write" and len(call.data) > 1:
            yield Strike(at=str(call), what=SHORT)
    for call in calls:
        for name in ("ENOSPC", "EROFS"):
            if call.kind in ("create", "write", "rename") and name in ERRORS[call.kind]:
                yield Strike(at=str(call), what=name, lasts=True)


def kill_strikes(calls: Sequence[Call]) -> Iterator[Strike]:
    """A kill before every call that changes the disk, and in the middle of every write."""
    for call in calls:
        if call.kind in CHANGES:
            yield Strike(at=str(call), what=KILL)
        if call.kind == "write" and len(call.data) > 1:
            yield Strike(at=str(call), what=TEAR)
