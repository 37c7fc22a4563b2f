"""Writes files so that each is complete or absent, even after a power cut.

The steps: write under a temporary name, fsync, rename, fsync the folder.  All temporary files are
in the folder `.tmp` of the output, where the next run finds and deletes those of a killed run.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mcdiff_batch.engine.errors import McdiffError, SpaceError
from mcdiff_batch.engine.telemetry.spans import span

SCRATCH = ".tmp"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
        sync_folder((root / name).parent)


def remove(root: Path, name: str) -> None:
    """Deletes root/name, durably, if it exists.  Raises SpaceError, McdiffError."""
    if (root / name).exists():
        with explain_errors(root):
            (root / name).unlink()
            sync_folder((root / name).parent)


def clear_scratch(root: Path) -> None:
    """Deletes the temporary files of a killed run.  Only the holder of the lock may do this."""
    shutil.rmtree(root / SCRATCH, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with span("fsync"):
            os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(root: Path, folder: Path) -> None:
    """Creates `folder` and its parents up to `root`, durably."""
    if not folder.is_dir():
        if folder != root:
            make_folder(root, folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


@contextmanager
def explain_errors(root: Path) -> Iterator[None]:
    """Turns an OSError into SpaceError (no space, quota, file too large) or McdiffError."""
    safe = "committed units are safe"
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise SpaceError(
                f"{root}: {error.strerror}; {safe}; free some space and run the same command again"
            ) from error
        raise McdiffError(
            f"{root}: cannot be read or written ({error.strerror}); {safe}; repair the disk and "
            "run the same command again"
        ) from error


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        with span("fsync"):
            os.fsync(file.fileno())
