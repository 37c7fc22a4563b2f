"""Files under an archive's root, read with suspicion: regular, inside the root, nothing else."""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

JSON_LIMIT = 8 << 20  # bytes; honest metadata take a few thousand


class UnsafeFileError(ValueError):
    """A key is a link, leads through one, or is no regular file (FIFO, device, folder)."""


class BadMetadataError(ValueError):
    """A metadata document that cannot be used; the message is a clause, without the path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """An open regular file; `size` in bytes, as it was when opened."""

    descriptor: int
    size: int

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`; fewer at the end of the file.  Raises OSError."""
        parts = []
        while length > 0 and (part := os.pread(self.descriptor, length, offset)):
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
        return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Store:
    """A folder of keys ("depths/c/0/0").  Holds no file open, so it goes to threads and processes.

    Keys come from our own names and integers, never from data.
    """

    root: Path  # real path: a link to the root itself is the user's own choice

    @contextmanager
    def opened(self, key: str) -> Iterator[Blob | None]:
        """The file under `key`, None where there is none.  Raises UnsafeFileError, OSError."""
        descriptor = self._descriptor(key)
        if descriptor is None:
            yield None
            return
        try:
            yield Blob(descriptor=descriptor, size=_regular(os.fstat(descriptor), key).st_size)
        finally:
            os.close(descriptor)

    def _descriptor(self, key: str) -> int | None:
        """An open descriptor.  Never waits for a FIFO, never touches a device."""
        path = os.path.join(self.root, key)  # noqa: PTH118 - chunk keys, thousands a second
        if os.path.realpath(path) != path:
            raise UnsafeFileError(f"{key} is a link or leads through one")
        try:
            _regular(os.lstat(path), key)
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def document(self, key: str) -> tuple[bytes, dict[str, Any]] | None:
        """A JSON object and its bytes; None where absent.  Raises BadMetadataError, OSError."""
        try:
            with self.opened(key) as blob:
                return None if blob is None else _parsed(blob, key)
        except UnsafeFileError as error:
            raise BadMetadataError(f"{error}, expected a plain file") from error


def _regular(status: os.stat_result, key: str) -> os.stat_result:
    if not stat.S_ISREG(status.st_mode):
        raise UnsafeFileError(f"{key} is no regular file")
    return status


def _parsed(blob: Blob, key: str) -> tuple[bytes, dict[str, Any]]:
    if blob.size > JSON_LIMIT:
        raise BadMetadataError(f"{key} is {blob.size} bytes, expected at most {JSON_LIMIT}")
    text = blob.read(0, blob.size)
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise BadMetadataError(f"{key} is nested too deep") from error
    except ValueError as error:
        raise BadMetadataError(f"{key} is no JSON") from error
    if not isinstance(value, dict):
        raise BadMetadataError(f"{key} is a JSON {type(value).__name__}, expected an object")
    return text, value
