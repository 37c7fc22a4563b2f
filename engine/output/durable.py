"""Writes files so that each is complete or absent, even after a power cut.

The steps: write under a temporary name, fsync, rename, fsync the folder.  All temporary files are
in the folder `.tmp` of the output, where the next run that has the output for itself deletes those
of a killed one.  Their names are random, so processes of several machines can write at once.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from mcdiff_batch.engine.cloud.files import StoreFiles
from mcdiff_batch.engine.cloud.place import Place
from mcdiff_batch.engine.cloud.workspace import find_address
from mcdiff_batch.engine.errors import explain
from mcdiff_batch.engine.telemetry.spans import span

A = TypeVar("A")
T = TypeVar("T")
SCRATCH = ".tmp"
NO_SYNC = (  # answers of file systems that cannot sync a folder, such as SMB and some FUSE mounts
    *(errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EISDIR),
    *(errno.EACCES, errno.EPERM),
)
NO_LINK = (  # answers of file systems that have no second name for a file
    *(errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL),
)
WEAKER = (
    "this file system cannot sync folders, so a power cut may take back the last units that were "
    "done (`mcdiff-batch verify` finds that, and the same command does them again)"
)


class Files(Protocol):
    """The committed files of an output, wherever they are.  Each is complete or absent.

    Any method raises OSError or McdiffError, and FileNotFoundError for a file that is not there.
    """

    @property
    def place(self) -> Place: ...

    def read(self, name: str) -> bytes: ...

    def read_all(self, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Names and contents, in order."""
        ...

    def read_heads(self, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Names and first lines, in order."""
        ...

    def map(self, call: Callable[[A], T], items: Iterable[A]) -> Iterable[T]:
        """What `call`, which reads some files, makes of items, in order."""
        ...

    def size(self, name: str) -> int:
        """In bytes."""
        ...

    def exists(self, name: str) -> bool: ...

    def list(self, folder: str = "") -> Iterable[str]:
        """Names of the files and folders in a folder, without it; none where there is none."""
        ...

    def write(self, name: str, data: bytes) -> None: ...

    def create(self, name: str, data: bytes) -> bool:
        """Writes a file unless it exists; returns whether it now has this content."""
        ...

    def replace(self, name: str, old: bytes, new: bytes) -> bool:
        """Replaces a file if it is `old`; returns whether it is now `new`."""
        ...

    def retire(self, name: str) -> None:
        """Takes back a record whose shards are about to be replaced."""

    def remove(self, name: str) -> None:
        """Deletes a file if it exists."""

    def try_writing(self) -> str:
        """Tries it.  Returns what cannot be promised here, or ""; raises UsageError if that is too
        little."""
        ...

    def free_bytes(self) -> int | None:
        """None: nobody knows."""
        ...

    def open_zarr(self, name: str) -> Any:
        """A zarr group or array, to be read.  Raises whatever zarr does."""
        ...


def files(root: Path) -> Files:
    """The committed files of an output: those of its folder, or of the store it stands for."""
    address = find_address(root)
    return FolderFiles(root) if address is None else StoreFiles(address)


@dataclass(frozen=True, slots=True)
class FolderFiles:
    """Files of a folder."""

    place: Path

    def read(self, name: str) -> bytes:
        return (self.place / name).read_bytes()

    def read_all(self, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        return ((name, self.read(name)) for name in names)

    def read_heads(self, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        for name in names:
            with (self.place / name).open("rb") as file:
                yield name, file.readline()

    def map(self, call: Callable[[A], T], items: Iterable[A]) -> Iterable[T]:
        return map(call, items)

    def size(self, name: str) -> int:
        return (self.place / name).stat().st_size

    def exists(self, name: str) -> bool:
        return (self.place / name).is_file()

    def list(self, folder: str = "") -> Iterable[str]:
        path = self.place / folder
        return [x.name for x in path.iterdir()] if path.exists() else []

    def write(self, name: str, data: bytes) -> None:
        write(self.place, name, data)

    def create(self, name: str, data: bytes) -> bool:
        return create(self.place, name, data)

    def replace(self, name: str, old: bytes, new: bytes) -> bool:
        """Who calls this holds a lock."""
        if self.read(name) != old:
            return False
        write(self.place, name, new)
        return True

    def retire(self, name: str) -> None:
        remove(self.place, name)

    def remove(self, name: str) -> None:
        remove(self.place, name)

    def try_writing(self) -> str:
        return find_weakness(self.place)

    def free_bytes(self) -> int | None:
        folder = self.place
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free

    def open_zarr(self, name: str) -> Any:
        import zarr

        return zarr.open(self.place / name, mode="r")


def write(root: Path, name: str, data: bytes) -> None:
    """Writes `data` to root/name, durably.  Raises SpaceError, McdiffError; also if fsync fails."""
    with explain_errors(root), span("write"), _temporary(root, name, data) as temporary:
        temporary.replace(root / name)
        _sync_name(root / name, Path.unlink)


def create(root: Path, name: str, data: bytes) -> bool:
    """Like `write`, but leaves a file that exists as it is.

    Returns whether root/name now has this content, whoever wrote it.  Of several processes, also
    of several machines, one wins; on a file system without links they must hold a common lock.
    """
    with explain_errors(root), span("write"), _temporary(root, name, data) as temporary:
        try:
            _link(temporary, root / name)
            _sync_name(root / name, Path.unlink)
        except FileExistsError:  # also where a share has lost the answer to a link that was made
            return (root / name).read_bytes() == data
        finally:
            temporary.unlink(missing_ok=True)
        return True


@contextmanager
def _temporary(root: Path, name: str, data: bytes) -> Iterator[Path]:
    """A temporary file with `data`, synced.  After an error it is deleted."""
    make_folder(root, root / SCRATCH)
    make_folder(root, (root / name).parent)
    path = _temporary_name(root, name)
    try:
        _write_synced(path, data)
        yield path
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _temporary_name(root: Path, name: str) -> Path:
    """A name that no other process has, on this machine or another one."""
    return root / SCRATCH / f"{secrets.token_hex(8)}-{name.replace('/', '-')}"


def _link(path: Path, name: Path) -> None:
    """Gives a file its name, unless that is taken.  Raises FileExistsError, OSError."""
    try:
        name.hardlink_to(path)
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        if name.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(name)) from error
        path.replace(name)


def remove(root: Path, name: str) -> None:
    """Deletes root/name, durably, if it exists.  Raises SpaceError, McdiffError."""
    if (root / name).exists():
        with explain_errors(root):
            (root / name).unlink()
            sync_folder((root / name).parent)


def clear_scratch(root: Path) -> None:
    """Deletes the temporary files of killed runs.  Only who has the output for itself may do this:
    others may be writing."""
    shutil.rmtree(root / SCRATCH, ignore_errors=True)


def sync_folder(folder: Path) -> bool:
    """Whether the file system synced the names in `folder`; some cannot.  Raises OSError."""
    handle = None
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        with span("fsync"):
            os.fsync(handle)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
        return False
    finally:
        if handle is not None:
            os.close(handle)
    return True


def find_weakness(root: Path) -> str:
    """Tries to write in `root`, which exists.  Returns what its file system cannot promise, or "".

    Raises OSError.
    """
    with _temporary(root, "trial", b"trial") as trial:
        trial.unlink()
        return "" if sync_folder(root) else WEAKER


def make_folder(root: Path, folder: Path) -> None:
    """Creates `folder` and its parents, those of `root` too, durably.  Raises OSError."""
    if not folder.is_dir():
        if folder.parent != folder:
            make_folder(root, folder.parent)
        try:
            folder.mkdir(exist_ok=True)
        except FileExistsError as error:
            code = errno.ENOTDIR
            raise NotADirectoryError(code, os.strerror(code), str(folder)) from error
        _sync_name(folder, Path.rmdir)


def _sync_name(path: Path, undo: Callable[[Path], None]) -> None:
    """Syncs the name of a new file or folder.  If that fails it is taken back, for a later run
    would take it for durable.  Raises OSError."""
    try:
        sync_folder(path.parent)
    except OSError:
        with suppress(OSError):
            undo(path)
        raise


def sync_again(root: Path, names: Iterable[str]) -> None:
    """Syncs `root`, its own name, and those of its folders that exist.  A killed run may have left
    names that can be seen and are not durable yet.  Raises OSError."""
    folders = (root / name for name in names)
    for folder in (root.parent, root, *(x for x in folders if x.is_dir())):
        sync_folder(folder)


@contextmanager
def explain_errors(root: Path) -> Iterator[None]:
    """Turns an OSError into SpaceError (no space, quota, file too large) or McdiffError."""
    try:
        yield
    except OSError as error:
        also = "committed units are safe"
        raise explain(error, root, named=False, also=also) from error


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        with span("fsync"):
            os.fsync(file.fileno())
