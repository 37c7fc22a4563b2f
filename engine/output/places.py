"""Where an archive and its output are, and what was meant by a path that holds no run."""

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from mcdiff_batch.engine.errors import UsageError

from .runs import CONFIG

ENDING = ".enhanced"
ARCHIVE_FILES = ("zarr.json", ".zgroup", ".zattrs", ".zarray")


def default_output(archive: Path) -> Path:
    """archive.enhanced beside archive.zarr."""
    here = archive if archive.name not in ("", "..") else archive.resolve()
    stem = here.stem if here.suffix.lower() == ".zarr" else here.name
    return here.with_name(f"{stem}{ENDING}")


def default_archive(output: Path) -> Path:
    """archive.zarr beside archive.enhanced, or whatever archive has that default output."""
    here = output if output.name not in ("", "..") else output.resolve()
    stem = here.name.removesuffix(ENDING)
    names = (f"{stem}.zarr", f"{stem}.ZARR", stem)
    paths = [here.with_name(name) for name in names if name and name != here.name]
    return next((x for x in paths if _is_archive(x)), here.with_name(names[0]))


def find_run(path: Path) -> Path:
    """`path` if it holds a run.  Raises UsageError, with a proposal where there is one."""
    if (path / CONFIG).exists():
        return path
    found = "is an archive, not an output" if _is_archive(path) else "contains no run"
    if not path.exists():
        found = "does not exist"
    meant = next(_proposals(path), None)
    advice = f"did you mean {meant}?" if meant else "expected the --output of `mcdiff-batch run`"
    raise UsageError(f"{path}: {found}; {advice}")


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
