"""Reads the files of an archive: regular files inside its folder, or objects below its address."""

import json
import os
import stat
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from mcdiff_batch.engine.cloud import objects
from mcdiff_batch.engine.cloud.objects import Part
from mcdiff_batch.engine.cloud.place import Place, Url

JSON_LIMIT = 8 << 20  # bytes; usual metadata take a few thousand
DEEPEST = 6  # folders of an archive above one of its chunks
NEAR = 1000  # entries of a folder that are looked through for an archive
PACKED = {  # commands that unpack
    ".zip": "unzip FILE -d FOLDER",
    **dict.fromkeys((".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst"), "tar -xf FILE"),
}
POINTERS = {  # beginnings of files that stand for a larger one
    b"/annex/objects/": "git annex get .",
    b"version https://git-lfs.github.com/spec/": "git lfs pull",
}
ENDS = 8  # of shards that are kept; more than threads read at once near a shard's edge
UNLINK = "run `git annex unlock .` in it, or copy it with `cp -rL`"


class UnsafeFileError(ValueError):
    """A path is or contains a link, or is not a regular file (but a FIFO, device or folder)."""


class BadMetadataError(ValueError):
    """Metadata cannot be used.  The message is a clause without the archive's path."""


class Blob(Protocol):
    """An open file."""

    @property
    def size(self) -> int:
        """In bytes, when it was opened."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Reads `length` bytes from `offset`, fewer at the end of the file.  Raises OSError."""
        ...


class Store(ABC):
    """A file for each key, such as "depths/c/0/0".

    Keeps no file open; safe in threads; can be pickled.  Keys are made of our own names and
    integers, never of data.
    """

    place: Place  # of the archive; a folder is resolved: the user may give a link to it

    @abstractmethod
    def open(self, key: str, ahead: int) -> AbstractContextManager[Blob | None]:
        """Opens the file of `key`; None if there is none.

        ahead: how many bytes will be read first; negative: of the end of the file.
        Raises UnsafeFileError, OSError.
        """

    def document(self, key: str) -> tuple[bytes, dict[str, Any]] | None:
        """A JSON object, as bytes and parsed; None if absent.  Raises BadMetadataError, OSError."""
        try:
            with self.open(key, JSON_LIMIT) as blob:
                return None if blob is None else _parse(blob, key)
        except UnsafeFileError as error:
            raise BadMetadataError(str(error)) from error


def open_store(place: Place) -> Store:
    """The store of an archive.  Raises BadMetadataError."""
    return ObjectStore(place) if isinstance(place, Url) else FolderStore(find_root(place))


# --- folders


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A Blob that is an open regular file."""

    descriptor: int
    size: int

    def read(self, offset: int, length: int) -> bytes:
        parts = []
        while length > 0 and (part := os.pread(self.descriptor, length, offset)):
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
        return b"".join(parts)


@dataclass(frozen=True)
class FolderStore(Store):
    """A folder."""

    place: Path

    @contextmanager
    def open(self, key: str, ahead: int) -> Iterator[File | None]:
        descriptor = self._open_descriptor(key)
        if descriptor is None:
            yield None
            return
        try:
            size = _check_regular(os.fstat(descriptor), key).st_size
            yield File(descriptor=descriptor, size=size)
        finally:
            os.close(descriptor)

    def _open_descriptor(self, key: str) -> int | None:
        """Never waits for a FIFO and never opens a device."""
        path = os.path.join(self.place, key)  # noqa: PTH118 - faster, for thousands of chunks a second
        if os.path.realpath(path) != path:
            lost = "" if os.path.exists(path) else ", whose content is not here (`git annex get .`)"  # noqa: PTH110
            raise UnsafeFileError(
                f"{key} is a link or leads through one{lost}; expected an archive without links: "
                f"{UNLINK}"
            )
        try:
            _check_regular(os.lstat(path), key)
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None


def find_root(path: Path) -> Path:
    """The folder of an archive, without links.  Raises BadMetadataError."""
    if path.is_file() and (packed := PACKED.get(path.suffix.lower())):
        raise BadMetadataError(
            f"is a packed archive, expected a folder; unpack it with `{packed}`, which makes a "
            "folder, and give that"
        )
    if not path.exists():
        raise BadMetadataError("there is no such folder")
    if not path.is_dir():
        raise BadMetadataError("is not a folder, expected a zarr group")
    return Path(os.path.realpath(path))


def propose_path(path: Place) -> Path | None:
    """The archive that a wrong path probably means: one that holds it, is in it, or is named alike.

    None if that is not certain.
    """
    if isinstance(path, Url):
        return None
    root = Path(os.path.realpath(path))
    around = next((x for x in list(root.parents)[:DEEPEST] if _is_archive(x)), None)
    if around is not None:
        return around
    folder = root if root.is_dir() else root.parent
    names = () if root.is_dir() else (root.name.lower(), f"{root.name}.zarr".lower())
    try:
        with os.scandir(folder) as scan:
            entries = [folder / x.name for x in islice(scan, NEAR)]
    except OSError:
        return None
    found = [x for x in entries if (not names or x.name.lower() in names) and _is_archive(x)]
    return found[0] if len(found) == 1 else None


def _is_archive(folder: Path) -> bool:
    """Whether a folder looks like a group with an array `depths`."""
    group = any((folder / x).is_file() for x in ("zarr.json", ".zgroup"))
    return group and any((folder / "depths" / x).is_file() for x in ("zarr.json", ".zarray"))


def describe_pointer(data: bytes) -> str:
    """What to do about a file that only points to its content; empty for any other file."""
    for start, command in POINTERS.items():
        if data.startswith(start):
            return f"the file's content is not here; fetch it with `{command}`"
    return ""


def _check_regular(status: os.stat_result, key: str) -> os.stat_result:
    if not stat.S_ISREG(status.st_mode):
        raise UnsafeFileError(f"{key} is not a regular file, expected one; copy the archive again")
    return status


def _parse(blob: Blob, key: str) -> tuple[bytes, dict[str, Any]]:
    if blob.size > JSON_LIMIT:
        raise BadMetadataError(f"{key} is {blob.size} bytes, expected at most {JSON_LIMIT}")
    text = blob.read(0, blob.size)
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise BadMetadataError(f"{key} is nested too deeply") from error
    except ValueError as error:
        raise BadMetadataError(describe_pointer(text) or f"{key} is not JSON") from error
    if not isinstance(value, dict):
        raise BadMetadataError(f"{key} is a JSON {type(value).__name__}, expected an object")
    return text, value


# --- object stores


@dataclass(frozen=True, slots=True, kw_only=True)
class Object:
    """A Blob that is a version of an object, of which a part was read when it was opened."""

    url: Url
    part: Part

    @property
    def size(self) -> int:
        return self.part.size

    def read(self, offset: int, length: int) -> bytes:
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        if self.part.holds(offset, length):
            start = offset - self.part.start
            return self.part.data[start : start + length]
        return objects.read_range(self.url, offset, length, self.part.tag)


@dataclass(frozen=True)
class ObjectStore(Store):
    """The objects below an address.  None of them is a link, and no key leaves the address.

    The ends of the last shards, which are their indices, are kept, since each costs a request.
    Whatever else is read of a shard is of the same version as its index, or an error.
    """

    place: Url
    ends: OrderedDict[str, Part] = field(default_factory=OrderedDict, compare=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return ObjectStore, (self.place,)

    @contextmanager
    def open(self, key: str, ahead: int) -> Iterator[Object | None]:
        url = self.place / key
        part = self.ends.get(key) or objects.read_part(url, ahead)
        if part is None:
            yield None
            return
        if ahead < 0:
            self.ends[key] = part
            while len(self.ends) > ENDS:
                self.ends.popitem(last=False)
        try:
            yield Object(url=url, part=part)
        except OSError:
            self.ends.pop(key, None)  # it may have been replaced
            raise
