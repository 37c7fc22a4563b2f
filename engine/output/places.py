"""Where an archive and its output are, and what was meant by a path that holds no run."""

import os
from collections.abc import Iterator
from contextlib import suppress
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path

from mcdiff_batch.engine.cloud.files import StoreFiles
from mcdiff_batch.engine.cloud.place import SCHEMES, Place, Url
from mcdiff_batch.engine.cloud.workspace import find_address
from mcdiff_batch.engine.errors import ArchiveError, UsageError

from . import durable, ledger
from .runs import CONFIG

ENDING = ".enhanced"
ARCHIVE_FILES = ("zarr.json", ".zgroup", ".zattrs", ".zarray")


def default_output(archive: Place) -> Path:
    """archive.enhanced beside archive.zarr; for a group in a larger store, beside the store; for
    an archive in an object store, in the working directory."""
    if isinstance(archive, Url):
        return Path(f"{_stem(Path(archive.name))}{ENDING}")
    real = _resolve(archive)
    store = _find_store(real)
    if store == real:
        here = archive if archive.name not in ("", "..") else real
        return here.parent / f"{_stem(here)}{ENDING}"  # not with_name: "/" has no name
    names = (_stem(store), *real.relative_to(store).parts)
    return store.with_name(f"{'-'.join(names)}{ENDING}")


def _stem(archive: Path) -> str:
    return archive.stem if archive.suffix.lower() == ".zarr" else archive.name


def check_apart(output: Path, archive: Place, bundle: Path | None = None) -> None:
    """Raises UsageError if `output` lies in a folder that a run must not change, or holds one (P6).

    Links are followed.  bundle: folder of the model.
    """
    there = find_address(output)
    if isinstance(archive, Url) and there and (archive.holds(there) or there.holds(archive)):
        raise UsageError(
            f"{output}: is the archive {archive}, is in it or contains it; choose another --output"
        )
    if there is not None:
        _check_outside_in_store(there)
    real = _resolve(output)
    store = None if isinstance(archive, Url) else _find_store(_resolve(archive))
    advice = f"expected a folder of its own; use --output {default_output(archive)}"
    for name, folder in (("the archive", store), ("the model", bundle)):
        if folder is not None and _holds(folder, real):
            raise UsageError(
                f"{output}: is in {name} {folder}, which a run must not change; {advice}"
            )
        if folder is not None and _holds(real, _resolve(folder)):
            raise UsageError(f"{output}: contains {name} {folder}; {advice}")
    check_outside(output, advice)


def check_outside(output: Path, advice: str = "choose another --output") -> None:
    """Raises UsageError if `output` lies in an archive or in the output of a run.

    For any command that writes; links are followed.
    """
    for parent in _resolve(output).parents:
        if _is_archive(parent) or _is_output(parent):
            what = "an archive" if _is_archive(parent) else "the output of another run"
            raise UsageError(f"{output}: is in {parent}, which is {what}; {advice}")


@lru_cache
def _check_outside_in_store(output: Url) -> None:
    """`check_outside` for an address.  Who may not look at a place around it is not told of it."""
    for parent in output.parents:
        files = StoreFiles(parent)
        with suppress(OSError):
            names = (CONFIG, *ARCHIVE_FILES)
            found = [
                x for x, there in zip(names, files.map(files.exists, names), strict=True) if there
            ]
            if not found:
                continue
            what = "the output of another run" if found == [CONFIG] else "an archive"
            raise UsageError(f"{output}: is in {parent}, which is {what}; choose another --output")


def _find_store(path: Path) -> Path:
    """The outermost zarr group around a resolved path."""
    while _is_archive(path.parent) and path.parent != path:
        path = path.parent
    return path


def _holds(folder: Path, path: Path) -> bool:
    """Whether a resolved path is `folder` or lies in it, under whatever name."""
    around = (x for x in (path, *path.parents) if x.exists())
    return folder.exists() and any(x.samefile(folder) for x in around)


def _resolve(path: Path) -> Path:
    """Unlike Path.resolve, it never fails, for example where links lead in a circle."""
    return Path(os.path.realpath(path))


def default_archive(output: Path) -> Path:
    """archive.zarr beside archive.enhanced, or whatever archive has that default output."""
    here = output if output.name not in ("", "..") else output.resolve()
    stem = here.name.removesuffix(ENDING)
    names = (f"{stem}.zarr", f"{stem}.ZARR", stem)
    paths = [here.parent / name for name in names if name and name != here.name]
    return next((x for x in paths if _is_archive(x)), here.parent / names[0])


def find_run(path: Path) -> Path:
    """`path` if it holds a run.  Raises UsageError, with a proposal where there is one."""
    if durable.files(path).exists(CONFIG):
        return path
    if find_address(path):
        raise UsageError(f"{path}: contains no run; expected the --output of `mcdiff-batch run`")
    found = "is an archive, not an output" if _is_archive(path) else "contains no run"
    if not path.exists():
        found = "does not exist"
    if path.parts[:1] and path.parts[0].removesuffix(":") in SCHEMES:
        raise UsageError(
            f"{path.parts[0]}//{'/'.join(path.parts[1:])}: this command wants a folder; copy the "
            "output to this machine first"
        )
    meant = next(_proposals(path), None)
    advice = f"did you mean {meant}?" if meant else "expected the --output of `mcdiff-batch run`"
    raise UsageError(f"{path}: {found}; {advice}")


def check_is_archive(path: Place) -> None:
    """Raises ArchiveError for an output, and for a name that resembles that of an archive."""
    if isinstance(path, Url):
        return
    if _is_output(path):
        raise ArchiveError(
            f"{path}: is the output of a run, expected an archive, such as {default_archive(path)}"
        )
    if not path.exists() and path.parent.is_dir():
        archives = {x.name: x for x in path.parent.iterdir() if _is_archive(x)}
        for name in get_close_matches(path.name, archives, 1):
            raise ArchiveError(f"{path}: does not exist; did you mean {archives[name]}?")


def _is_output(path: Path) -> bool:
    return (path / CONFIG).is_file() and (path / ledger.FOLDER).is_dir()


def _is_archive(path: Path) -> bool:
    return any((path / name).is_file() for name in ARCHIVE_FILES)


def _proposals(path: Path) -> Iterator[Path]:
    """Runs near `path`: its default output, a folder that it is in, the only run inside it, and
    a run beside it with a similar name."""
    candidates = [default_output(path), *list(path.parents)[:4]]
    yield from (x for x in candidates if (x / CONFIG).is_file())
    inside = [x.parent for x in path.glob(f"*/{CONFIG}")]
    yield from inside if len(inside) == 1 else ()
    beside = {x.parent.name: x.parent for x in path.parent.glob(f"*/{CONFIG}")}
    yield from (beside[name] for name in get_close_matches(path.name, beside))
