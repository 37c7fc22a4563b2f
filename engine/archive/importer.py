"""Makes an archive from image files: reads all headers first, then writes case by case."""

import errno
import secrets
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import ZstdCodec

from mcdiff_batch.engine.errors import ArchiveError, SpaceError, UsageError

from .archive import DEPTHS_LIMIT, SMALLEST
from .attributes import RANGES
from .image_files import SUFFIXES, Header, natural_order, read_grey, read_header

AXES: dict[str, tuple[str, ...]] = {
    "depths": ("depth", "y", "x"),
    "case_id": (),
    "depth_present": ("depth",),
    "extent": ("axis",),
    "pixel_spacing_mm": ("axis",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """The images of one case, shallow to deep; their headers are equal."""

    name: str
    pictures: tuple[Path, ...]
    header: Header


@dataclass(frozen=True, slots=True, kw_only=True)
class NewArchive:
    """The archive that an import writes: D depths, on a grid that fits the largest scan."""

    scans: tuple[Scan, ...]
    depths: int
    grid: tuple[int, int]  # y, x px
    dtype: str
    spacing_mm: float | None  # size of a px; None: unknown


def import_images(
    sources: Sequence[Path],
    output: Path,
    *,
    spacing_mm: float | None = None,
    depths: int | None = None,
) -> NewArchive:
    """Writes a new archive, which gets the name `output` when it is complete.

    sources: images (a case of one depth each), folders of images (a case each, sorted by name
        from shallow to deep), or folders of such folders.
    depths: of every case; those that a case lacks are marked as absent.
    Raises ArchiveError for images that cannot be used, UsageError if `output` exists, SpaceError.
    """
    check_output(output)
    new = plan_import(sources, spacing_mm, depths)
    partial = output.with_name(f".{output.name}.{secrets.token_hex(4)}.partial")
    try:
        _write(partial, new)
        partial.rename(output)
    except OSError as error:
        raise explain(error, output) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return new


def plan_import(
    sources: Sequence[Path], spacing_mm: float | None = None, depths: int | None = None
) -> NewArchive:
    """Reads the headers of all images.  Raises ArchiveError."""
    scans = tuple(
        _scan(name, files) for name, files in chain.from_iterable(map(_find_cases, sources))
    )
    if not scans:
        raise ArchiveError("no images found; expected PNG or TIFF files, or folders of them")
    _check_names(scans)
    _check_dtypes(scans)
    extents = [x.header.extent for x in scans]
    return NewArchive(
        scans=scans,
        depths=_depths(scans, depths),
        grid=(max(y for y, _ in extents), max(x for _, x in extents)),
        dtype=scans[0].header.dtype,
        spacing_mm=spacing_mm,
    )


def check_output(output: Path) -> None:
    """Raises UsageError unless an archive can be created there."""
    if output.exists() or output.is_symlink():
        raise UsageError(f"{output}: exists already, expected a new name; choose another --output")
    if not output.parent.is_dir():
        raise UsageError(
            f"{output.parent}: there is no such folder; create it or choose another --output"
        )


def _find_cases(source: Path) -> Iterator[tuple[str, list[Path]]]:
    """Name and images of each case of a source, sorted by name.  Hidden files are ignored."""
    if not source.is_dir():
        yield source.stem, [source]
        return
    entries = sorted((x for x in source.iterdir() if x.name[0] != "."), key=natural_order)
    folders = [x for x in entries if x.is_dir()]
    if not folders:
        yield source.resolve().name, _pictures(source, entries)
        return
    if len(folders) < len(entries):
        raise ArchiveError(f"{source}: has files and folders, expected only one of them")
    for folder in folders:
        inside = sorted((x for x in folder.iterdir() if x.name[0] != "."), key=natural_order)
        yield folder.name, _pictures(folder, inside)


def _pictures(folder: Path, entries: Iterable[Path]) -> list[Path]:
    """The entries of a case's folder.  Raises ArchiveError unless all of them are images."""
    pictures = list(entries)
    for other in (x for x in pictures if x.is_dir() or x.suffix.lower() not in SUFFIXES):
        raise ArchiveError(
            f"{other}: expected only PNG or TIFF images in this folder; move it away"
        )
    if not 1 <= len(pictures) <= DEPTHS_LIMIT:
        raise ArchiveError(
            f"{folder}: has {len(pictures)} images, expected the 1 to {DEPTHS_LIMIT} depths of one "
            "case; for cases of one depth, name the files instead of the folder"
        )
    return pictures


def _scan(name: str, pictures: list[Path]) -> Scan:
    headers = [read_header(x) for x in pictures]
    for picture, header in zip(pictures, headers, strict=True):
        if header != headers[0]:
            raise ArchiveError(
                f"{picture}: is {header.extent} px, {header.dtype}; expected "
                f"{headers[0].extent} px, {headers[0].dtype}, as the first image of the case"
            )
    if min(headers[0].extent) < SMALLEST:
        raise ArchiveError(f"{pictures[0]}: is {headers[0].extent} px, expected {SMALLEST} or more")
    return Scan(name=name, pictures=tuple(pictures), header=headers[0])


def _check_names(scans: Sequence[Scan]) -> None:
    repeated = [x for x, n in Counter(scan.name for scan in scans).items() if n > 1]
    if repeated:
        first, second, *_ = (x.pictures[0] for x in scans if x.name == repeated[0])
        raise ArchiveError(f"{first} and {second}: both would be case {repeated[0]}; rename one")
    for scan in scans:
        if not scan.name.isprintable() or not _is_unicode(scan.name):
            raise ArchiveError(f"{scan.pictures[0]}: the name cannot be a case id; rename it")


def _is_unicode(name: str) -> bool:
    return not any("\ud800" <= x <= "\udfff" for x in name)


def _check_dtypes(scans: Sequence[Scan]) -> None:
    first = scans[0]
    for scan in scans:
        if scan.header.dtype != first.header.dtype:
            raise ArchiveError(
                f"{scan.pictures[0]}: is {scan.header.dtype}, {first.pictures[0]} is "
                f"{first.header.dtype}; import 8 and 16 bit images into separate archives"
            )


def _depths(scans: Sequence[Scan], wanted: int | None) -> int:
    most = max(len(x.pictures) for x in scans)
    if wanted is not None and wanted < most:
        raise ArchiveError(
            f"a case has {most} depths, expected at most {wanted}; give a larger --depths"
        )
    return wanted or most


def _write(path: Path, new: NewArchive) -> None:
    group = zarr.create_group(path, zarr_format=3, attributes={"mcdiff": _attributes(new)})
    shape = (len(new.scans), new.depths, *new.grid)
    pixels = create_array(group, "depths", new.dtype, shape, 1)
    for index, scan in enumerate(new.scans):
        pixels[index] = _read_scan(scan, new)
    for name, values in _columns(new).items():
        dtype = "string" if values.dtype == object else values.dtype.name
        create_array(group, name, dtype, values.shape, 1024)[:] = values


def _attributes(new: NewArchive) -> dict[str, Any]:
    attributes: dict[str, Any] = {"schema": 1, "intensity_range": list(RANGES[new.dtype])}
    if new.spacing_mm is not None:
        attributes["pixel_spacing_mm"] = [new.spacing_mm, new.spacing_mm]
    return attributes


def create_array(group: zarr.Group, name: str, dtype: str, shape: tuple[int, ...], chunk: int) -> Any:
    """A new array of `chunk` cases per chunk, with checksums; empty chunks are written too."""
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=(min(shape[0], chunk), *shape[1:]),
        dimension_names=("case", *AXES[name]),
        compressors=[ZstdCodec(level=3, checksum=True)],
        fill_value="" if dtype == "string" else 0,
        config={"write_empty_chunks": True},
    )


def _columns(new: NewArchive) -> dict[str, npt.NDArray[Any]]:
    present = [[k < len(x.pictures) for k in range(new.depths)] for x in new.scans]
    extents = [x.header.extent for x in new.scans]
    return {
        "case_id": np.array([x.name for x in new.scans], object),
        "depth_present": np.array(present),
        "extent": np.array(extents, np.int32),
    }


def _read_scan(scan: Scan, new: NewArchive) -> npt.NDArray[Any]:
    """Images [D, y, x] on the archive's grid; padding and absent depths are black."""
    out = np.zeros((new.depths, *new.grid), new.dtype)
    for depth, picture in enumerate(scan.pictures):
        image = read_grey(picture)
        out[depth, : image.shape[0], : image.shape[1]] = image
    return out


def explain(error: OSError, output: Path) -> Exception:
    """The error for the user, where writing a new archive failed."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SpaceError(f"{output}: no space left; free some or choose another --output")
    return UsageError(f"{output}: cannot be written ({error.strerror}); choose another --output")
