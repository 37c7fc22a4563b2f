"""Files: their hash, JSON documents as dataclasses, JSON lines, and a place for incomplete ones."""

import asyncio
import fcntl
import glob
import hashlib
import json
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from shutil import rmtree
from typing import Any, TypeVar

import msgspec

from .errors import UsageError
from .signals import deferring

LOCK = "lock"  # of a workplace
ZARR_TIME = 10.0  # s that an interrupted write may take
Json = dict[str, Any]
T = TypeVar("T")


def cache_folder(name: str) -> Path:
    """A folder of the user's own, under XDG_CACHE_HOME or ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "mcdiff-batch" / name


def read_named(path: Path, most: int = -1) -> bytes:
    """The bytes of a file that the user named, or `most` of them.

    Raises UsageError for a named pipe, which may never answer; OSError.
    """
    if stat.S_ISFIFO(path.lstat().st_mode):  # `<(...)` and /dev/stdin are links, and work
        raise UsageError(f"{path}: is a named pipe, expected a file; write it to a file first")
    with path.open("rb") as file:
        return file.read(most)


def from_json(raw: object, kind: type[T]) -> T:
    """A value of `kind`, such as a dataclass, from what `json.loads` returns.

    Raises ValueError if a field is missing, unknown or of another type; the message names it.
    """
    value = msgspec.convert(raw, kind)
    try:
        written = msgspec.json.decode(msgspec.json.encode(value))
    except OverflowError as error:  # an integer of more than 64 bits
        raise ValueError(str(error)) from error
    if written != raw:  # a fast comparison, equal for nearly every document
        _check_fields(raw, written, "$")
    return value


def _check_fields(raw: object, written: Any, where: str) -> None:
    """msgspec skips fields that a dataclass does not have; a misspelled one must not pass."""
    if isinstance(raw, dict):
        for name, value in raw.items():
            if name not in written:
                raise ValueError(f"Object has unknown field `{name}` - at `{where}`")
            _check_fields(value, written[name], f"{where}.{name}")
    elif isinstance(raw, list):
        for index, value in enumerate(raw):
            _check_fields(value, written[index], f"{where}[{index}]")


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON lines file; none where there is no file.

    Lines that a killed process left incomplete are skipped.
    """
    if not path.is_file():
        return
    with path.open(errors="replace") as file:
        for text in file:
            with suppress(ValueError, RecursionError):
                value = json.loads(text)
                if isinstance(value, dict):
                    yield value


def append_json(path: Path, value: object) -> None:
    """Adds a line to a JSON lines file, below a line that was cut short.  Raises OSError."""
    with path.open("ab+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        text = json.dumps(value, separators=(",", ":")) + "\n"
        file.write(("" if file.read(1) in (b"", b"\n") else "\n").encode() + text.encode())


def replace_text(path: Path, text: str) -> None:
    """Writes a file that is complete or as before, for display only: it is not synced.

    Raises OSError, and then leaves nothing behind.
    """
    with replacing(path) as spare:
        spare.write_text(text, encoding="utf-8")


@contextmanager
def replacing(path: Path, spare: Path | None = None) -> Iterator[Path]:
    """Yields a place beside `path` for a file that gets its name at the end of the block.

    Whatever ends the block early, nothing is left but what was there.  After a kill, the next one
    writes to the same place.  spare: another place, if several processes may write at once.  Raises
    OSError.
    """
    spare = spare or path.with_suffix(".tmp")
    try:
        yield spare
        spare.replace(path)
    except BaseException:
        with suppress(OSError):
            spare.unlink()
        raise


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- a place for a file or folder that gets its name when it is complete


@contextmanager
def workplace(output: Path) -> Iterator[Path]:
    """Yields a place beside `output`, on the same disk and hidden, for what the caller makes and
    then renames to `output`.  What is still there at the end of the block is deleted.

    What killed processes have left of the same output is deleted first.  Raises OSError.
    """
    clear_workplaces(output)
    made: list[tuple[Path, int]] = []
    try:
        try:
            with deferring():
                made.append(_make_workplace(output))
            yield made[0][0] / output.name
        finally:
            _end_workplace(made)
    except KeyboardInterrupt:  # it may have come just before signals were deferred
        _end_workplace(made)
        raise


def _end_workplace(made: list[tuple[Path, int]]) -> None:
    with deferring():
        for folder, lock in made:
            _delete(folder)
            os.close(lock)
        made.clear()


def clear_workplaces(output: Path) -> None:
    """Deletes the workplaces of `output` whose processes have ended, never those of running ones:
    a process holds the lock of its workplace, and the lock ends with it."""
    for folder in output.parent.glob(_name(glob.escape(output.name), "[0-9a-f]" * 8)):
        with suppress(OSError):  # another user's, or another process was quicker
            if folder.is_symlink() or (lock := _hold(folder, surely=True)) is None:
                continue
            _delete(folder)
            os.close(lock)


def _name(output: str, token: str) -> str:
    return f".{output}.{token}.partial"


def _make_workplace(output: Path) -> tuple[Path, int]:
    while True:
        folder = output.with_name(_name(output.name, token_hex(4)))
        folder.mkdir()
        try:
            lock = _hold(folder, surely=False)
        except OSError:
            _delete(folder)
            raise
        if lock is not None:  # else another process took it for one that was left
            return folder, lock


def _hold(folder: Path, *, surely: bool) -> int | None:
    """The open lock of a workplace; None if another process has it or has deleted the folder.

    surely: also None where the file system gives no locks.  Raises OSError.
    """
    path = folder / LOCK
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = path.exists() and os.path.samestat(path.stat(), os.fstat(lock))
    except BlockingIOError:
        held = False
    except OSError:
        held = not surely
    if held:
        return lock
    os.close(lock)
    return None


def _delete(folder: Path) -> None:
    _let_zarr_end()
    rmtree(folder, ignore_errors=True)


def _let_zarr_end() -> None:
    """Waits for what zarr's thread still writes, when a signal has stopped the main thread."""
    if "zarr" in sys.modules:
        from zarr.core.sync import sync

        with suppress(TimeoutError):
            sync(_wait_for_others(), timeout=ZARR_TIME)


async def _wait_for_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)
