"""Who may write to an output at one time: a run that has it for itself, or the parts of a run.

A run locks the file `.lock`.  A part shares that lock with other parts and has one of its own, in
its folder.  A lock ends with its processes, so a lock file alone means nothing (P7).  What is
committed is locked in `.lock.units`, for the moment that it takes: one unit, or all of them.
"""

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

from mcdiff_batch.engine.errors import McdiffError, OutputLockedError, UsageError, explain

from . import durable
from .units import Part

LOCK = ".lock"
UNITS = ".lock.units"
PARTS = "parts"  # a folder for each part: its lock, its incidents and its part of the report
LOCK_WAIT = 3.0  # s: the workers of a killed run hold its lock for a moment longer


class HeldLock:
    """Open lock files.  Workers inherit them, so the lock lasts until the last of them ends."""

    def __init__(self, *descriptors: int) -> None:
        self.descriptors = descriptors

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, tuple(map(DupFd, self.descriptors))


def _rebuild(*handles: Any) -> HeldLock:
    return HeldLock(*(handle.detach() for handle in handles))


@contextmanager
def lock(root: Path, part: Part | None = None) -> Iterator[HeldLock]:
    """Creates `root` and locks it, so that no other run writes there; for a part, no other run but
    other parts.

    A lock whose processes have ended is ignored (P7).  Raises OutputLockedError, UsageError where
    `root` cannot be written to or locked, SpaceError, McdiffError.
    """
    with ExitStack() as stack:
        if part is None:
            descriptors = [_hold(stack, root, fcntl.LOCK_EX, root)]
        else:
            descriptors = [_hold(stack, root, fcntl.LOCK_SH, root)]
            descriptors.append(_hold(stack, part_folder(root, part), fcntl.LOCK_EX, root, part))
            _check_count(root, part)
        yield HeldLock(*descriptors)


def _hold(stack: ExitStack, folder: Path, kind: int, root: Path, part: Part | None = None) -> int:
    try:
        durable.make_folder(root, folder)
        descriptor = _open_lock(folder / LOCK)
    except OSError as error:
        raise explain(error, error.filename or folder) from error
    stack.callback(_close, descriptor)
    end = time.monotonic() + LOCK_WAIT
    while not _lock_or_explain(root, descriptor, kind):
        if time.monotonic() > end:
            raise OutputLockedError(_describe_holder(root, part))
        time.sleep(0.05)
    return descriptor


def _close(descriptor: int) -> None:
    with suppress(OSError):  # nothing was written to it
        os.close(descriptor)


def _describe_holder(root: Path, part: Part | None) -> str:
    """part: the one that could not be locked; None: the whole output."""
    see = f"(see `mcdiff-batch status {root}`)"
    if part is not None:
        return f"{root}: part {part} is being done by another process; wait until it ends {see}"
    if living := find_living(root):
        names = ", ".join(map(str, living[:5])) + (", ..." if len(living) > 5 else "")
        who = f"part {names} is" if len(living) == 1 else f"parts {names} are"
        return (
            f"{root}: {who} running here; wait until they end {see}, or take part with --part k/"
            f"{living[0].count}"
        )
    return (
        f"{root}: another run is writing here; wait until it ends {see}, or choose another --output"
    )


def _check_count(root: Path, part: Part) -> None:
    """Parts of another division would do the same units at the same time."""
    for other in find_living(root):
        if other.count != part.count:
            raise OutputLockedError(
                f"{root}: part {other} is running here, so --part {part} would do some units "
                f"twice; wait until it ends, or use --part k/{other.count}"
            )


def _open_lock(path: Path) -> int:
    """Another user of the group may have made the file: to lock it, reading is enough."""
    flags = os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags | os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        if not path.is_file():
            raise
        return os.open(path, flags | os.O_RDONLY)


def _lock_or_explain(root: Path, descriptor: int, kind: int) -> bool:
    try:
        return _try_lock(descriptor, kind)
    except OSError as error:
        raise _no_locks(root, error) from error


def _no_locks(root: Path, error: OSError) -> McdiffError:
    return UsageError(
        f"{root}: its file system gives no lock ({error.strerror}), and without one two runs "
        "could write here at once; choose an --output on a local disk and copy it afterwards, "
        "or mount the share with locks (NFS: lockd, Lustre: -o flock)"
    )


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# --- who is there


def is_running(root: Path) -> bool:
    """Whether a run or a part of one holds its lock now.  Writes nothing."""
    return _is_held(root) or bool(find_living(root))


def _is_held(folder: Path) -> bool:
    """Whether the lock in a folder is held, and not only shared."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        return not _try_lock(descriptor, fcntl.LOCK_SH)
    except OSError:  # its file system gives no locks, so no run can have one
        return False
    finally:
        os.close(descriptor)


def part_folder(root: Path, part: Part) -> Path:
    """Where a part keeps what is its own, laid out as in the output itself."""
    return root / PARTS / f"{part.number}-of-{part.count}"


def find_parts(root: Path) -> list[Part]:
    """All parts that have ever begun, in order."""
    folder = root / PARTS
    names = [x.name for x in folder.iterdir()] if folder.is_dir() else []
    words = (re.fullmatch(r"([1-9]\d{0,8})-of-([1-9]\d{0,8})", name) for name in names)
    found = (Part(number=int(x[1]), count=int(x[2])) for x in words if x)
    return sorted((x for x in found if x.number <= x.count), key=lambda x: (x.count, x.number))


def find_living(root: Path) -> list[Part]:
    """The parts that are running now."""
    return [part for part in find_parts(root) if _is_held(part_folder(root, part))]


# --- units


@contextmanager
def units_locked(root: Path, unit: int | None = None) -> Iterator[None]:
    """Keeps others from committing `unit`, or any unit, until the end of the block; waits for them.

    A process may hold one such lock at a time.  Raises OSError, UsageError where there is no lock.
    """
    descriptor = os.open(root / UNITS, os.O_CLOEXEC | os.O_NOFOLLOW | os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            first, count = (0, 0) if unit is None else (unit, 1)  # 0: as many as there are
            fcntl.lockf(descriptor, fcntl.LOCK_EX, count, first)
        except OSError as error:
            raise _no_locks(root, error) from error
        yield
    finally:
        _close(descriptor)  # which ends the lock
