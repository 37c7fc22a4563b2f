"""The input: a zarr group of cases, checked from its metadata before anything is decoded."""

import hashlib
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mcdiff_batch.engine.errors import ArchiveError, CaseError

from .attributes import RANGES, Attributes, is_spacing, parse_attributes, read_attribute
from .chunks import ChunkedArray, MissingError
from .codecs import CorruptError
from .columns import Columns, read_columns
from .metadata import CHUNK_LIMIT, ArraySpec, read_array_spec
from .store import BadMetadataError, Store, UnsafeFileError

CASES_LIMIT = 10_000_000
DEPTHS_LIMIT = 64
SMALLEST = 8  # px
BEYOND = 0.5  # of the intensity range: values further outside fail a case, nearer ones are clipped
ADVICE = "expected an archive as `mcdiff-batch import` writes it; see `mcdiff-batch check --help`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One scan as it is stored, cropped to its extent."""

    index: int
    key: str = field(repr=False)  # names its noise; may be a patient's, so no message shows it
    depths: npt.NDArray[Any]  # [D, y, x]; depths that are not present are black
    present: npt.NDArray[np.bool_]  # [D]
    optimal: int | None
    spacing_mm: tuple[float, float]  # y, x; NaN where unknown
    intensity_range: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """An open archive.  Holds no file open; safe in threads, picklable."""

    cases: int
    depths: int
    grid: tuple[int, int]  # y, x px that all cases are padded to
    dtype: str  # "u1", "u2", "f2" or "f4"
    codec: str
    intensity_range: tuple[float, float]
    warnings: tuple[str, ...]
    identity: str  # SHA-256 of all but the pixels
    spacing_mm: tuple[float, float]  # of cases without their own
    columns: Columns = field(repr=False)
    pixels: ChunkedArray = field(repr=False)

    @property
    def path(self) -> Path:
        """The folder that was opened, without links in its path."""
        return self.pixels.store.root

    def key(self, index: int) -> str:
        """The name that a case's noise is drawn from."""
        ids = self.columns.case_id
        return str(index) if ids is None else ids[index]

    def extent(self, index: int) -> tuple[int, int]:
        """A case's y, x px, as the archive has it."""
        if self.columns.extent is None:
            return self.grid
        height, width = self.columns.extent[index].tolist()
        return height, width

    def read(self, index: int) -> Case:
        """Raises CaseError where the case's data are bad, OSError where they cannot be read now."""
        assert 0 <= index < self.cases
        present = self._present(index)
        optimal = self._optimal(index, present)
        depths = self._depths(index, present, self._checked_extent(index))
        for depth in np.flatnonzero(present):
            _check_image(depths[depth], int(depth), self.intensity_range)
        return Case(
            index=index,
            key=self.key(index),
            depths=depths,
            present=present,
            optimal=optimal,
            spacing_mm=self._spacing(index),
            intensity_range=self.intensity_range,
        )

    def _present(self, index: int) -> npt.NDArray[np.bool_]:
        known = self.columns.depth_present
        present = np.ones(self.depths, bool) if known is None else known[index].copy()
        if not present.any():
            raise CaseError("no-depths", "depth_present marks no depth as present")
        return present

    def _checked_extent(self, index: int) -> tuple[int, int]:
        extent = self.extent(index)
        if not all(SMALLEST <= n <= most for n, most in zip(extent, self.grid, strict=True)):
            raise CaseError(
                "shape", f"extent is {extent} px, expected {SMALLEST} px or more within {self.grid}"
            )
        return extent

    def _optimal(self, index: int, present: npt.NDArray[np.bool_]) -> int | None:
        if self.columns.optimal_depth is None or self.columns.optimal_depth[index] == -1:
            return None
        optimal = int(self.columns.optimal_depth[index])
        if not 0 <= optimal < self.depths or not present[optimal]:
            raise CaseError("range", f"optimal_depth is {optimal}, which is no depth present")
        return optimal

    def _spacing(self, index: int) -> tuple[float, float]:
        if self.columns.pixel_spacing_mm is None:
            return self.spacing_mm
        y, x = self.columns.pixel_spacing_mm[index].tolist()
        return (y, x) if is_spacing(y) and is_spacing(x) else (math.nan, math.nan)

    def _depths(
        self, index: int, present: npt.NDArray[np.bool_], extent: tuple[int, int]
    ) -> npt.NDArray[Any]:
        dtype = self.pixels.spec.dtype.newbyteorder("=")
        out = np.full((self.depths, *extent), _black(self.intensity_range, dtype), dtype)
        area = tuple(slice(0, n) for n in extent)
        for depth in np.flatnonzero(present).tolist():
            box = (slice(index, index + 1), slice(depth, depth + 1), *area)
            out[depth] = _read(self.pixels, box)[0, 0]
        return out


def _read(pixels: ChunkedArray, box: tuple[slice, ...]) -> npt.NDArray[Any]:
    try:
        return pixels.read(box)
    except MissingError as error:
        raise CaseError("missing", str(error)) from error
    except CorruptError as error:
        raise CaseError("corrupt", str(error)) from error
    except UnsafeFileError as error:
        raise CaseError("link", str(error)) from error


def _black(limits: tuple[float, float], dtype: np.dtype[Any]) -> float:
    if dtype.kind == "f":
        return limits[0]
    return float(np.clip(limits[0], 0, np.iinfo(dtype).max))


def _check_image(image: npt.NDArray[Any], depth: int, limits: tuple[float, float]) -> None:
    """image [y, x].  Raises CaseError where it is no picture."""
    low, high = float(image.min()), float(image.max())  # NaN where any px is
    if not math.isfinite(low + high):
        raise CaseError("nan", f"depth {depth} holds NaN or infinity")
    if low == high:
        raise CaseError("constant", f"depth {depth} is {low:g} everywhere")
    slack = BEYOND * (limits[1] - limits[0])
    if low < limits[0] - slack or high > limits[1] + slack:
        raise CaseError(
            "range",
            f"depth {depth} runs from {low:g} to {high:g}, expected {limits[0]:g} to "
            f"{limits[1]:g}; set the attribute mcdiff.intensity_range",
        )


def open_archive(path: Path) -> Archive:
    """Reads metadata and the small columns; decodes no pixel, writes nothing.

    Raises ArchiveError where no case could be processed.
    """
    try:
        return _opened(Store(_root(path)))
    except BadMetadataError as error:
        raise ArchiveError(f"{path}: {error}; {ADVICE}") from error
    except OSError as error:
        raise ArchiveError(f"{path}: cannot be read ({error.strerror}); {ADVICE}") from error


def _root(path: Path) -> Path:
    if not path.exists():
        raise BadMetadataError("no such folder")
    if not path.is_dir():
        raise BadMetadataError("is no folder, expected a zarr group in a folder")
    return Path(os.path.realpath(path))


def _opened(store: Store) -> Archive:
    raw = read_attribute(store)
    found = read_array_spec(store, "depths")
    if found is None:
        raise BadMetadataError("holds no array `depths` (case, depth, y, x)")
    document, spec = found
    dtype = _check_depths_array(spec)
    cases, depths, *grid = spec.shape
    columns = read_columns(store, read_array_spec, cases, depths)
    known = parse_attributes(raw, dtype)
    return Archive(
        cases=cases,
        depths=depths,
        grid=(grid[0], grid[1]),
        dtype=dtype,
        codec=_codec(spec),
        intensity_range=known.intensity_range,
        warnings=(*_warnings(spec, columns, known), *columns.warnings),
        identity=_identity(document, columns, known),
        spacing_mm=known.spacing_mm,
        columns=columns,
        pixels=ChunkedArray(store=store, name="depths", spec=spec),
    )


def _identity(document: bytes, columns: Columns, known: Attributes) -> str:
    numbers = (*known.intensity_range, *known.spacing_mm)
    parts = [hashlib.sha256(document).hexdigest(), columns.digest, *map(repr, numbers)]
    return hashlib.sha256("/".join(parts).encode()).hexdigest()


def _check_depths_array(spec: ArraySpec) -> str:
    """Its dtype's name.  Raises BadMetadataError unless (case, depth, y, x) of plain numbers."""
    dtype = spec.dtype.str[1:]
    if len(spec.shape) != 4:
        raise BadMetadataError(f"depths is {spec.shape}, expected (case, depth, y, x)")
    if dtype not in RANGES or spec.dtype.kind == "O":
        raise BadMetadataError(f"depths has dtype {spec.dtype.str}, expected u1, u2, f2 or f4")
    cases, depths, *grid = spec.shape
    if not 1 <= cases <= CASES_LIMIT or not 1 <= depths <= DEPTHS_LIMIT or min(grid) < SMALLEST:
        raise BadMetadataError(
            f"depths is {spec.shape}, expected 1 to {CASES_LIMIT} cases, 1 to {DEPTHS_LIMIT} "
            f"depths and {SMALLEST} px or more"
        )
    if _row_bytes(spec) > CHUNK_LIMIT:
        raise BadMetadataError(
            f"depths has chunks of {spec.chunks}: one case takes {_row_bytes(spec)} bytes to "
            f"decode, at most {CHUNK_LIMIT} are read; rechunk it to one case per chunk"
        )
    return dtype


def _row_bytes(spec: ArraySpec) -> int:
    """Decoded bytes of all the chunks that one case touches."""
    sizes = zip(spec.shape[1:], spec.chunks[1:], strict=True)
    return spec.chunks[0] * math.prod(-(-n // k) * k for n, k in sizes) * spec.itemsize


def _codec(spec: ArraySpec) -> str:
    names = " + ".join(x.name for x in spec.packings) or "none"
    seal = " with checksum" if spec.notices_damage else ""
    return f"{names}{seal}{', sharded' if spec.shards else ''}"


def _warnings(spec: ArraySpec, columns: Columns, known: Attributes) -> list[str]:
    out = []
    if spec.chunks[0] > 1:
        out.append(f"depths: a chunk holds {spec.chunks[0]} cases, so units decode each other's")
    if not spec.notices_damage:
        out.append(f"depths: codec {_codec(spec)} without checksum, damage may go unnoticed")
    if columns.pixel_spacing_mm is None and math.isnan(known.spacing_mm[0]):
        out.append("pixel spacing is unknown, so angles will be NaN")
    return out
