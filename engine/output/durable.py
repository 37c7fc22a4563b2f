"""Writes files so that each is complete or absent, even after a power cut.

The steps: write under a temporary name, fsync, rename, fsync the folder.  All temporary files are
in the folder `.tmp` of the output, where the next run finds and deletes those of a killed run.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mcdiff_batch.engine.errors import explain
from mcdiff_batch.engine.telemetry.spans import span

SCRATCH = ".tmp"
NO_SYNC = (  # answers of file systems that cannot sync a folder, such as SMB and some FUSE mounts
    *(errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EISDIR),
    *(errno.EACCES, errno.EPERM),
)
WEAKER = (
    "this file system cannot sync folders, so a power cut may take back the last units that were "
    "done (`mcdiff-batch verify` finds that, and the same command does them again)"
)


def write(root: Path, name: str, data: bytes) -> None:
    """Writes `data` to root/name, durably.  Raises SpaceError, McdiffError; also if fsync fails."""
    with explain_errors(root), span("write"):
        make_folder(root, root / SCRATCH)
        make_folder(root, (root / name).parent)
        temporary = root / SCRATCH / f"{os.getpid()}-{name.replace('/', '-')}"
        try:
            _write_synced(temporary, data)
            temporary.replace(root / name)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_name(root / name, Path.unlink)


def remove(root: Path, name: str) -> None:
    """Deletes root/name, durably, if it exists.  Raises SpaceError, McdiffError."""
    if (root / name).exists():
        with explain_errors(root):
            (root / name).unlink()
            sync_folder((root / name).parent)


def clear_scratch(root: Path) -> None:
    """Deletes the temporary files of a killed run.  Only the holder of the lock may do this."""
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
    make_folder(root, root / SCRATCH)
    _write_synced(root / SCRATCH / "trial", b"trial")
    (root / SCRATCH / "trial").unlink()
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
