"""Makes an archive from image files: reads all headers first, then writes case by case."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import ZstdCodec

from mcdiff_batch.engine.errors import ArchiveError, UsageError, explain
from mcdiff_batch.engine.files import workplace

from .archive import SMALLEST, open_archive
from .attributes import is_faint, suggest_range, used_range
from .image_files import Header, find_cases, read_grey, read_header
from .meaning import ORDER


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
    intensity_range: tuple[float, float]  # black, white
    spacing_mm: tuple[float, float] | None  # y, x, size of a px; None: unknown
    warnings: tuple[str, ...] = ()


def import_images(
    sources: Sequence[Path],
    output: Path,
    *,
    spacing_mm: float | tuple[float, float] | None = None,
    depths: int | None = None,
    intensity_range: tuple[float, float] | None = None,
) -> NewArchive:
    """Writes a new archive, which gets the name `output` when it is complete.

    sources: images (a case of one depth each), folders of images (a case each, sorted by name
        from shallow to deep), or folders of such folders.
    spacing_mm: size of a px, or y and x.
    depths: of every case; those that a case lacks are marked as absent.
    intensity_range: values of black and white; by default, all that the image files can have.
    Raises ArchiveError for images that cannot be used, UsageError if `output` exists, SpaceError.
    """
    check_output(output, sources)
    new = plan_import(sources, spacing_mm, depths, intensity_range)
    try:
        with workplace(output) as partial:
            doubts = _write(partial, new)
            partial.rename(output)
    except OSError as error:
        raise explain(error, output, also="choose another --output") from error
    return replace(new, warnings=(*new.warnings, *open_archive(output).warnings, *doubts))


def plan_import(
    sources: Sequence[Path],
    spacing_mm: float | tuple[float, float] | None,
    depths: int | None,
    intensity_range: tuple[float, float] | None,
) -> NewArchive:
    """Reads the headers of all images.  Raises ArchiveError, UsageError."""
    cases, skipped = find_cases(sources)
    scans = tuple(_scan(name, files) for name, files in cases)
    if not scans:
        raise ArchiveError("no images found; expected PNG or TIFF files, or folders of them")
    _check_names(scans)
    _check_dtypes(scans)
    extents, header = [x.header.extent for x in scans], scans[0].header
    spacing = (spacing_mm, spacing_mm) if isinstance(spacing_mm, int | float) else spacing_mm
    note = f"{skipped} hidden and system files, such as Thumbs.db, passed over"
    return NewArchive(
        scans=scans,
        depths=_depths(scans, depths),
        grid=(max(y for y, _ in extents), max(x for _, x in extents)),
        dtype=header.dtype,
        intensity_range=check_range(intensity_range) or (0.0, float(header.white)),
        spacing_mm=spacing,
        warnings=(*([note] if skipped else []), *_compare_spacing(scans, spacing)),
    )


def check_range(limits: tuple[float, float] | None) -> tuple[float, float] | None:
    """Raises UsageError unless black is lower than white."""
    if limits is not None and not limits[0] < limits[1]:
        raise UsageError(
            f"--intensity-range is {limits[0]:g} {limits[1]:g}, expected black, then white, which "
            "is higher; exchange them"
        )
    return limits


def _compare_spacing(
    scans: Sequence[Scan], spacing_mm: tuple[float, float] | None
) -> Iterator[str]:
    """What the resolution in the image files says of the size of a px."""
    stated = {x.header.spacing_mm for x in scans} - {None}
    if len(stated) != 1:
        return
    y, x = stated.pop() or (0.0, 0.0)
    size, option = (
        (f"{y:g} mm", f"{y:g}") if y == x else (f"{y:g} x {x:g} mm (y, x)", f"{y:g},{x:g}")
    )
    if spacing_mm is None:
        yield (
            f"the images say that a pixel is {size}; if that is right, import them with "
            f"--pixel-spacing {option}, so that levels, angles and contrast can be measured"
        )
    elif not np.allclose(spacing_mm, (y, x), rtol=0.02):
        yield (
            f"the images say that a pixel is {size}, --pixel-spacing says "
            f"{spacing_mm[0]:g} x {spacing_mm[1]:g} mm (y, x); make sure that it is right, in mm"
        )


def check_output(output: Path, sources: Sequence[Path]) -> None:
    """Raises UsageError unless an archive can be created there, outside the sources."""
    if output.exists() or output.is_symlink():
        raise UsageError(f"{output}: exists already, expected a new name; choose another --output")
    if not output.parent.is_dir():
        raise UsageError(
            f"{output.parent}: there is no such folder; create it or choose another --output"
        )
    inside = output.parent.resolve()
    for source in sources:
        if source.is_dir() and inside.is_relative_to(source.resolve()):
            raise UsageError(
                f"{output}: is inside {source}, which is to be imported; choose another --output, "
                f"such as {source.resolve().parent / output.name}"
            )


def _scan(name: str, pictures: list[Path]) -> Scan:
    headers = [read_header(x) for x in pictures]
    for picture, header in zip(pictures, headers, strict=True):
        if header != headers[0]:
            raise ArchiveError(
                f"{picture}: is {header.extent} px, {header.white.bit_length()} bit; expected "
                f"{headers[0].extent} px, {headers[0].white.bit_length()} bit, as the first image "
                "of the case; correct or remove one"
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
        if not scan.name.isprintable():
            raise ArchiveError(f"{scan.pictures[0]}: the name cannot be a case id; rename it")


def _check_dtypes(scans: Sequence[Scan]) -> None:
    first = scans[0]
    for scan in scans:
        bits, expected = (x.header.white.bit_length() for x in (scan, first))
        if bits != expected:
            raise ArchiveError(
                f"{scan.pictures[0]}: is of {bits} bit, {first.pictures[0]} of {expected} bit; "
                "import for example 8 and 16 bit images into separate archives"
            )


def _depths(scans: Sequence[Scan], wanted: int | None) -> int:
    most = max(len(x.pictures) for x in scans)
    if wanted is not None and wanted < most:
        raise ArchiveError(
            f"a case has {most} depths, expected at most {wanted}; give a larger --depths"
        )
    return wanted or most


def _write(path: Path, new: NewArchive) -> list[str]:
    """Writes the archive, and returns warnings on the values of its px."""
    group = zarr.create_group(path, zarr_format=3, attributes={"mcdiff": _attributes(new)})
    shape = (len(new.scans), new.depths, *new.grid)
    pixels = create_array(group, "depths", new.dtype, shape, 1)
    faint: list[tuple[float, float]] = []  # lowest and highest value of the faint cases
    outside = 0
    for index, scan in enumerate(new.scans):
        images = _read_scan(scan, new)
        pixels[index] = images
        height, width = scan.header.extent
        used = used_range(images[: len(scan.pictures), :height, :width])
        faint += [used] if is_faint(used, new.intensity_range) else []
        outside += used[0] < new.intensity_range[0] or used[1] > new.intensity_range[1]
    for name, values in _columns(new).items():
        dtype = "string" if values.dtype == object else values.dtype.name
        create_array(group, name, dtype, values.shape, 1024)[:] = values
    return [*_warn_of_faint(faint, new), *_warn_of_clipping(outside, new)]


def _warn_of_faint(faint: Sequence[tuple[float, float]], new: NewArchive) -> Iterator[str]:
    if faint:
        used = min(x for x, _ in faint), max(x for _, x in faint)
        hint = suggest_range(used, new.intensity_range, new.dtype)
        yield f"{len(faint)} of {len(new.scans)} cases {hint}, with --intensity-range"


def _warn_of_clipping(outside: int, new: NewArchive) -> Iterator[str]:
    if outside:
        low, high = new.intensity_range
        yield (
            f"{outside} of {len(new.scans)} cases have values outside {low:g} to {high:g}, which "
            "come out black or white; give a larger --intensity-range"
        )


def _attributes(new: NewArchive) -> dict[str, Any]:
    attributes: dict[str, Any] = {"schema": 1, "intensity_range": list(new.intensity_range)}
    if new.spacing_mm is not None:
        attributes["pixel_spacing_mm"] = list(new.spacing_mm)
    return attributes


def create_array(
    group: zarr.Group, name: str, dtype: str, shape: tuple[int, ...], chunk: int
) -> Any:
    """A new array of `chunk` cases per chunk, with checksums; empty chunks are written too."""
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=(min(shape[0], chunk), *shape[1:]),
        dimension_names=[x or "axis" for x in ORDER[name]],
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
        if image.shape != scan.header.extent or image.dtype != new.dtype:
            raise ArchiveError(f"{picture}: was changed while it was imported; import again")
        out[depth, : image.shape[0], : image.shape[1]] = image
    return out
