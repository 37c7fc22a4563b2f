"""The verdicts of a review: `review/verdicts.jsonl`, a line each, outside the manifest.

A line is bound to the SHA-256 of the pixels that were looked at: when the image changes, its
verdict is void.  The last line of a case counts.  A preference of a blind comparison is a line
without a verdict; the last one of each case and reviewer counts.
"""

import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

from mcdiff_batch.engine.errors import McdiffError, UsageError, explain

from . import durable

FOLDER = "review"
FILE = f"{FOLDER}/verdicts.jsonl"
ACCEPT, REJECT, NONE = "accept", "reject", "none"  # none: an earlier one was taken back
PATIENCE = 5.0  # s for another program's line
LEFT, EQUAL, RIGHT = "left", "equal", "right"
VERDICTS = (ACCEPT, REJECT, NONE)
PREFERENCES = (LEFT, EQUAL, RIGHT, NONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A line of the file."""

    case: int
    pixels: str  # SHA-256, as in the ledger
    verdict: str | None = None  # one of VERDICTS; None: a line of a blind comparison
    reason: str = ""
    note: str = ""
    reviewer: str = ""  # as the reviewer is named on the command line
    time: str = ""  # with the time zone
    preferred: str | None = None  # one of PREFERENCES
    enhanced: str = ""  # the side on which the enhanced image was
    blind: str = ""  # "locked": the page could not show which is which; "open": it could
    at: int = -1  # where the line begins in the file; not stored


@dataclass(slots=True)
class Verdicts:
    """The lines that count, of a file that grows meanwhile."""

    root: Path
    latest: dict[int, Verdict] = field(default_factory=dict)  # by case
    preferences: dict[tuple[int, str], Verdict] = field(default_factory=dict)  # case, reviewer
    size: int = 0  # bytes that were read
    _inode: int = 0

    def refresh(self) -> None:
        """Reads what was added.  Raises UsageError for a line that is no verdict, McdiffError."""
        try:
            with _open_to_read(self.root / FILE) as file:
                self._read(file)
        except FileNotFoundError:
            self._forget(0)
        except OSError as error:
            raise explain(error, self.root / FILE, named=False) from error

    def _forget(self, inode: int) -> None:
        self.latest.clear()
        self.preferences.clear()
        self.size, self._inode = 0, inode

    def _read(self, file: BinaryIO) -> None:
        about = os.fstat(file.fileno())
        if about.st_ino != self._inode or about.st_size < self.size:
            self._forget(about.st_ino)
        file.seek(self.size)
        for raw in file:
            if not raw.endswith(b"\n"):  # it is being written, or was cut short
                break
            found = _parse(self.root, raw, self.size)
            if found is not None and found.verdict is not None:
                self.latest[found.case] = found
            elif found is not None:
                self.preferences[found.case, found.reviewer] = found
            self.size += len(raw)


def read(root: Path) -> Verdicts:
    """The verdicts of an output; none where there was no review.  Raises as `refresh` does."""
    verdicts = Verdicts(root)
    verdicts.refresh()
    return verdicts


def _open_to_read(path: Path) -> BinaryIO:
    """Raises UsageError for what is no file, such as a pipe, which would never end; OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UsageError(f"{path}: is no file, expected the verdicts of a review; move it away")
    return os.fdopen(descriptor, "rb")


def _parse(root: Path, raw: bytes, at: int) -> Verdict | None:
    """None for a line that was cut short.  Raises UsageError for one that is no verdict."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        if not raw.rstrip().endswith(b"}"):
            return None
        value = {}  # it is whole, but was changed: it may have rejected a case
    value = value if isinstance(value, dict) else {}
    texts = {x: value.get(x) or "" for x in ("reason", "note", "reviewer", "time", "enhanced")}
    found = Verdict(
        case=value.get("case"),  # type: ignore[arg-type]
        pixels=value.get("pixels"),  # type: ignore[arg-type]
        verdict=value.get("verdict"),
        preferred=value.get("preferred"),
        blind=value.get("blind") or "",
        at=at,
        **texts,
    )
    whole = type(found.case) is int and found.case >= 0 and isinstance(found.pixels, str)
    known = found.verdict in (*VERDICTS, None) and found.preferred in (*PREFERENCES, None)
    if not (whole and known and all(isinstance(x, str) for x in (*texts.values(), found.blind))):
        raise UsageError(
            f"{root / FILE}: has a line that is no verdict (at byte {at}), expected case, pixels "
            "and verdict (accept, reject or none); mend or remove that line"
        )
    return found


def append(root: Path, verdict: Verdict) -> None:
    """Adds a line, durably, with the time of now.  Reviewers may do so at the same time.

    Raises SpaceError, McdiffError; nothing was stored then.
    """
    stored = {k: v for k, v in asdict(verdict).items() if v not in ("", None) and k != "at"}
    stored["time"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    line = json.dumps(stored, separators=(",", ":")).encode() + b"\n"
    try:
        with _open_to_append(root) as descriptor:
            _add(descriptor, line)
    except OSError as error:
        also = "the verdict was not stored"
        raise explain(error, root / FILE, named=False, also=also) from error


def check_writable(root: Path) -> None:
    """Raises UsageError where no verdict can be stored."""
    path = next(x for x in (root / FILE, root / FOLDER, root) if x.exists())
    if not os.access(path, os.W_OK):
        raise UsageError(
            f"{path}: cannot be written to, so no verdict can be stored; ask its owner for "
            "permission, or copy the output and review the copy"
        )


@contextmanager
def _open_to_append(root: Path) -> Iterator[int]:
    """The file under a lock.  Nobody may read it who may not read the output.  Raises OSError."""
    mode = stat.S_IMODE(root.stat().st_mode)
    folder, path = root / FOLDER, root / FILE
    if not folder.is_dir():
        durable.make_folder(root, folder)
        folder.chmod(mode)
    new = not path.exists()
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    try:
        if new:
            os.fchmod(descriptor, mode & 0o666)
            durable.sync_folder(folder)
        _lock(descriptor, path)
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    """Raises McdiffError where another program keeps the file for longer than a line takes."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > end:
                raise McdiffError(
                    f"{path}: is locked by another program, so the verdict was not stored; end "
                    "that program and try again"
                ) from error
            time.sleep(0.02)
        except OSError:  # no locks on this file system: a line is one write
            return
        else:
            return


def _add(descriptor: int, line: bytes) -> None:
    """Writes all of `line`, below one that was cut short, or nothing.  Raises OSError."""
    size = os.fstat(descriptor).st_size
    whole = size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"
    data = line if whole else b"\n" + line
    try:
        done = os.write(descriptor, data)
        while done < len(data):  # the disk is full: the next write says so
            done += os.write(descriptor, data[done:])
        os.fsync(descriptor)
    except OSError:
        with suppress(OSError):
            os.ftruncate(descriptor, size)
        raise
