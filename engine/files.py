"""Files: their hash, JSON documents as dataclasses, and JSON lines."""

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from .errors import UsageError

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
    spare = path.with_suffix(".tmp")
    try:
        spare.write_text(text, encoding="utf-8")
        spare.replace(path)
    except OSError:
        with suppress(OSError):
            spare.unlink()
        raise


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
