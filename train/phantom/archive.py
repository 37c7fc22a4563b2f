"""Writes phantoms as an input archive: a zarr v3 group with one checksummed chunk per case."""

import errno
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from mcdiff_batch.engine.errors import SpaceError, UsageError, explain
from mcdiff_batch.engine.files import workplace
from mcdiff_batch.engine.output.places import check_outside
from mcdiff_batch.engine.signals import start_pool
from mcdiff_batch.engine.telemetry.machine import cores

from .case import SPACING_MM, VERSION, Phantom, phantom
from .shadow import DEPTHS

GRID = (1040, 260)  # y, x px of the largest scan; smaller ones lie in the top left corner
DEPTH_MM = [8.0, 13.0, 18.0, 23.0, 28.0]  # nominal: shallow spinous processes to deep ribs


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One array of the archive, [case, *shape]."""

    shape: tuple[int, ...]
    dtype: str
    dims: tuple[str, ...]
    fill: float | bool = 0
    whole: bool = False  # one chunk per 1024 cases; otherwise one chunk per case


IMAGES = {
    "depths": Column(shape=(DEPTHS, *GRID), dtype="uint8", dims=("depth", "y", "x")),
    "clean": Column(shape=GRID, dtype="uint8", dims=("y", "x")),
    "label": Column(shape=GRID, dtype="uint8", dims=("y", "x")),
}
FACTS = {
    "extent": Column(shape=(2,), dtype="int32", dims=("axis",), whole=True),
    "pixel_spacing_mm": Column(shape=(2,), dtype="float32", dims=("axis",), whole=True),
    "optimal_depth": Column(shape=(), dtype="int32", dims=(), whole=True),
    "depth_present": Column(shape=(DEPTHS,), dtype="bool", dims=("depth",), whole=True),
    "angles_deg": Column(shape=(2,), dtype="float32", dims=("curve",), whole=True),
    "landmarks": Column(
        shape=(18, 2, 2), dtype="float32", dims=("level", "side", "axis"), whole=True
    ),
    "artifact_free": Column(shape=(), dtype="bool", dims=(), whole=True),
    "difficult": Column(shape=(), dtype="bool", dims=(), whole=True),
}
Facts = dict[str, Any]
Result = TypeVar("Result")


def write_phantoms(
    path: Path,
    *,
    cases: int,
    seed: int,
    first: int = 0,
    workers: int = 0,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Writes cases `first .. first + cases - 1` of series `seed` to the new archive `path`.

    The archive appears under its name when it is complete.  workers: processes; 0: one per CPU,
    1: this process.  progress: called with the number of cases done.  Raises UsageError if `path`
    exists, SpaceError if the disk is full.
    """
    check(path, cases, first)
    try:
        with workplace(path) as partial_path:
            _create(partial_path, cases, seed)
            facts = []
            store = partial(_store, partial_path, seed, first)
            with closing(draw(store, range(first, first + cases), workers)) as drawn:
                for fact in drawn:
                    facts.append(fact)
                    if progress is not None:
                        progress(len(facts))
            _finish(partial_path, facts, seed, first)
            partial_path.rename(path)
    except OSError as error:
        raise user_error(error, path) from error


def check(path: Path, cases: int, first: int, option: str = "--output") -> None:
    """Raises UsageError unless phantoms can be written to `path`, which an option named."""
    if path.exists() or path.is_symlink():
        raise UsageError(f"{path}: exists already; choose a new name for {option}")
    check_outside(path, f"choose another {option}")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent}: no such folder; create it, or choose another {option}")
    if cases < 1 or first < 0:
        raise UsageError(f"{cases} cases from {first}: expected 1 case or more, from 0 or later")


def user_error(error: OSError, path: Path) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SpaceError(f"{path}: no space left; each case needs about 1.5 MB")
    return explain(error, path)


def _create(path: Path, cases: int, seed: int) -> None:
    attributes = {
        "mcdiff": {
            "schema": 1,
            "intensity_range": [0, 255],
            "pixel_spacing_mm": [SPACING_MM, SPACING_MM],
            "depth_mm": DEPTH_MM,
        },
        "phantom": {"seed": seed, "version": VERSION},
    }
    group = zarr.create_group(path, zarr_format=3, attributes=attributes)
    for name, column in (IMAGES | FACTS).items():
        group.create_array(
            name,
            shape=(cases, *column.shape),
            dtype=column.dtype,
            chunks=(min(cases, 1024) if column.whole else 1, *column.shape),
            compressors=[ZstdCodec(level=3, checksum=True)],
            dimension_names=("case", *column.dims),
            fill_value=column.fill,
            config={"write_empty_chunks": True},
        )


def draw(
    store: Callable[[int], Result], indices: range, workers: int
) -> Generator[Result, None, None]:
    """What `store` returns for each case, in order; `workers` as `write_phantoms` has it.

    The processes end when it is closed.
    """
    workers = min(workers or cores(), len(indices))
    if workers == 1:
        yield from map(store, indices)
        return
    with start_pool(workers) as pool:
        yield from pool.imap(store, indices)


def _store(path: Path, seed: int, first: int, index: int) -> Facts:
    """Draws case `index` and writes its own chunks of `IMAGES`; returns its facts."""
    case = phantom(seed, index)
    group = zarr.open_group(path, mode="r+")
    for name in IMAGES:
        image = getattr(case, name)
        room = [(0, 0)] * (image.ndim - 2)
        room += [(0, grid - n) for grid, n in zip(GRID, image.shape[-2:], strict=True)]
        group[name][index - first] = np.pad(image, room)  # type: ignore[index]
    return _facts(case)


def _facts(case: Phantom) -> Facts:
    spacing = (case.pixel_spacing_mm, case.pixel_spacing_mm)
    constant = {"pixel_spacing_mm": spacing, "depth_present": (True,) * DEPTHS}
    return constant | {name: getattr(case, name) for name in FACTS if name not in constant}


def _finish(path: Path, facts: list[Facts], seed: int, first: int) -> None:
    group = zarr.open_group(path, mode="r+")
    for name, column in FACTS.items():
        group[name][:] = np.array([fact[name] for fact in facts], dtype=column.dtype)  # type: ignore[index]
    names = [f"phantom-{seed}-{first + k:06d}" for k in range(len(facts))]
    group.create_array(
        "case_id",
        shape=(len(names),),
        dtype="string",
        chunks=(min(len(names), 1024),),
        dimension_names=("case",),
        compressors=[ZstdCodec(level=3, checksum=True)],
    )[:] = np.array(names, dtype=object)
