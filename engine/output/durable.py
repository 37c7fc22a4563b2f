"""Writing a file so that it is whole or absent, also after a power cut.

write to a temporary name -> fsync -> rename -> fsync the directory.  Temporary files live in one
folder of the output, `.tmp`, so that what a killed run left is found by one listing.
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
    """Puts `data` at root/name, durably.  Raises as `writing`; a failed fsync is a failure."""
    with writing(root), span("write"):
        make_folder(root, root / SCRATCH)
        make_folder(root, (root / name).parent)
        spare = root / SCRATCH / f"{os.getpid()}-{name.replace('/', '-')}"
        try:
            _write_synced(spare, data)
            spare.replace(root / name)
        except BaseException:
            spare.unlink(missing_ok=True)
            raise
        sync_folder((root / name).parent)


def remove(root: Path, name: str) -> None:
    """Takes root/name away, durably; that it was not there is fine.  Raises as `writing`."""
    if (root / name).exists():
        with writing(root):
            (root / name).unlink()
            sync_folder((root / name).parent)


def clean(root: Path) -> None:
    """Drops what a killed run left half-written; for the holder of the output's lock only."""
    shutil.rmtree(root / SCRATCH, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with span("fsync"):
            os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(root: Path, folder: Path) -> None:
    """mkdir -p below `root`, each new entry made durable."""
    if not folder.is_dir():
        if folder != root:
            make_folder(root, folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


@contextmanager
def writing(root: Path) -> Iterator[None]:
    """Raises SpaceError for "no space", "quota" and "file too large", else McdiffError."""
    safe = "what is committed is safe"
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise SpaceError(
                f"{root}: {error.strerror}; {safe}: make room and run the same command again"
            ) from error
        raise McdiffError(
            f"{root}: cannot be read or written ({error.strerror}); {safe}: mend the disk and run "
            "the same command again"
        ) from error


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        with span("fsync"):
            os.fsync(file.fileno())
