"""The input: a zarr group of cases.  Metadata are checked before anything is decoded."""

import hashlib
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mcdiff_batch.engine.cloud.place import Place
from mcdiff_batch.engine.errors import PLACE, ArchiveError, CaseError, explain

from .attributes import (
    RANGES,
    Attributes,
    is_spacing,
    parse_attributes,
    read_attributes,
    used_range,
)
from .chunks import ChunkedArray, MissingError
from .codecs import CorruptError
from .columns import (
    Columns,
    read_columns,
    read_coordinates,
    warn_of_sizes,
    warn_of_unknown_spacing,
)
from .meaning import Validity, read_validity
from .metadata import CHUNK_LIMIT, ArraySpec, read_array_spec
from .store import BadMetadataError, Store, UnsafeFileError, open_store, propose_path

CASES_LIMIT = 10_000_000
DEPTHS_LIMIT = 64
SMALLEST = 8  # px
SLACK = 0.5  # of the intensity range: a case with values further outside fails
ADVICE = "expected an archive as `mcdiff-batch import` writes; `mcdiff-batch check --help` shows it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One scan as it is stored, cropped to its extent."""

    index: int
    key: str = field(repr=False)  # seeds its noise; may name a patient, so messages do not show it
    depths: npt.NDArray[Any]  # [D, y, x]; absent depths are black
    present: npt.NDArray[np.bool_]  # [D]
    optimal: int | None
    spacing_mm: tuple[float, float]  # y, x; NaN where unknown
    intensity_range: tuple[float, float]
    used: tuple[float, float]  # values of the present depths, a few stray px aside


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """An archive that was opened.  Keeps no file open; safe in threads; can be pickled."""

    cases: int
    depths: int
    grid: tuple[int, int]  # y, x px of the arrays; smaller cases are padded
    dtype: str  # "u1", "u2", "f2" or "f4"
    codec: str
    intensity_range: tuple[float, float]
    warnings: tuple[str, ...]
    identity: str  # SHA-256 of everything but the pixels
    spacing_mm: tuple[float, float]  # y, x; for cases without their own
    validity: Validity  # of the values of px
    columns: Columns = field(repr=False)
    pixels: ChunkedArray = field(repr=False)

    @property
    def path(self) -> Place:
        """The folder that was opened, without links in its path, or its address in a store."""
        return self.pixels.store.place

    def key(self, index: int) -> str:
        """The case id, or the index where there are no ids.  It seeds the noise of the case."""
        ids = self.columns.case_id
        return str(index) if ids is None else ids[index]

    def extent(self, index: int) -> tuple[int, int]:
        """The size of a case in y, x px, as stored; not checked."""
        if self.columns.extent is None:
            return self.grid
        height, width = self.columns.extent[index].tolist()
        return height, width

    def read(self, index: int) -> Case:
        """Reads one case.  Raises CaseError if its data are bad, OSError if reading fails."""
        assert 0 <= index < self.cases
        present = self._present(index)
        optimal = self._optimal(index, present)
        depths = self._depths(index, present, self._checked_extent(index))
        for depth in np.flatnonzero(present):
            _check_image(depths[depth], int(depth), self.intensity_range, self.validity)
        return Case(
            index=index,
            key=self.key(index),
            depths=depths,
            present=present,
            optimal=optimal,
            spacing_mm=self._spacing(index),
            intensity_range=self.intensity_range,
            used=used_range(depths[present]),
        )

    def _present(self, index: int) -> npt.NDArray[np.bool_]:
        column = self.columns.depth_present
        present = np.ones(self.depths, bool) if column is None else column[index].copy()
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
            raise CaseError("range", f"optimal_depth is {optimal}, but that depth is not present")
        return optimal

    def _spacing(self, index: int) -> tuple[float, float]:
        if self.columns.pixel_spacing_mm is None:
            return self.spacing_mm
        y, x = self.columns.pixel_spacing_mm[index].tolist()
        if not all(math.isnan(size) or is_spacing(size) for size in (y, x)):
            raise CaseError(
                "range",
                f"pixel_spacing_mm is [{y:g}, {x:g}], expected y, x in mm, or NaN where unknown",
            )
        return (math.nan, math.nan) if math.isnan(y + x) else (y, x)

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


def _check_image(
    image: npt.NDArray[Any], depth: int, limits: tuple[float, float], validity: Validity
) -> None:
    """image [y, x].  Raises CaseError where it cannot be an image."""
    low, high = float(image.min()), float(image.max())  # NaN where any px is
    if not math.isfinite(low + high):
        raise CaseError("nan", f"depth {depth} has NaN or infinity")
    if low == high:
        raise CaseError("constant", f"depth {depth} is {low:g} everywhere")
    slack = SLACK * (limits[1] - limits[0])
    if low < limits[0] - slack or high > limits[1] + slack:
        raise CaseError(
            "range",
            f"depth {depth} has values from {low:g} to {high:g}, expected {limits[0]:g} to "
            f"{limits[1]:g}; set the attribute mcdiff.intensity_range",
        )
    if low < validity.low or high > validity.high:
        raise CaseError(
            "range",
            f"depth {depth} has values from {low:g} to {high:g}, the archive says that valid ones "
            f"are {validity.low:g} to {validity.high:g}; correct the values or the valid range",
        )
    if missing := validity.count_missing(image):
        raise CaseError(
            "nan",
            f"depth {depth} has {missing} px with a value that the archive says is no measurement "
            "(such as _FillValue); fill them, or correct the attribute",
        )


def open_archive(path: Place) -> Archive:
    """Reads the metadata and the columns, but no pixels.

    Raises ArchiveError where the archive cannot be used at all, McdiffError where it cannot be
    read now.
    """
    try:
        return _open(open_store(path))
    except BadMetadataError as error:
        other, message = propose_path(path), str(error)
        if other is not None:
            message += f", expected an archive; did you mean {other}?"
        elif "expected" not in message:
            message += f"; {ADVICE}"
        raise ArchiveError(f"{path}: {message}") from error
    except OSError as error:
        if error.errno not in PLACE:  # the machine is at fault, not the archive
            raise explain(error, path, named=False) from error
        raise ArchiveError(f"{path}: cannot be read ({error.strerror}); {ADVICE}") from error


def _open(store: Store) -> Archive:
    root = read_attributes(store)
    array = read_array_spec(store, "depths")
    if array is None:
        kind = "is an OME-Zarr image and " if {"multiscales", "ome"} & root.keys() else ""
        raise BadMetadataError(f"{kind}has no array `depths` (case, depth, y, x)")
    spec = array.spec
    dtype = _check_depths_array(spec)
    cases, depths, *grid = spec.shape
    validity, doubts = read_validity("depths", array)
    columns = read_columns(store, cases, depths)
    coordinates = read_coordinates(store, (depths, *grid))
    meaning = parse_attributes(root, array.attributes, dtype, coordinates)
    validity, blank = validity.without_black(meaning.intensity_range[0])
    return Archive(
        cases=cases,
        depths=depths,
        grid=(grid[0], grid[1]),
        dtype=dtype,
        codec=_codec(spec),
        intensity_range=meaning.intensity_range,
        warnings=(
            *_warnings(spec, columns, meaning),
            *doubts,
            *blank,
            *meaning.warnings,
            *columns.warnings,
            *warn_of_sizes(cases, (grid[0], grid[1]), columns, meaning.spacing_mm),
        ),
        identity=_identity(array.document, columns, meaning, validity),
        spacing_mm=meaning.spacing_mm,
        validity=validity,
        columns=columns,
        pixels=ChunkedArray(store=store, name="depths", spec=spec),
    )


def _identity(document: bytes, columns: Columns, meaning: Attributes, validity: Validity) -> str:
    numbers: tuple[object, ...] = (*meaning.intensity_range, *meaning.spacing_mm)
    numbers += () if validity == Validity() else (validity,)
    parts = [hashlib.sha256(document).hexdigest(), columns.digest, *map(repr, numbers)]
    return hashlib.sha256("/".join(parts).encode()).hexdigest()


def _check_depths_array(spec: ArraySpec) -> str:
    """Name of the dtype.  Raises BadMetadataError unless `depths` is an array of images."""
    dtype = spec.dtype.str[1:]
    if len(spec.shape) != 4:
        raise BadMetadataError(f"depths is {spec.shape}, expected (case, depth, y, x)")
    if dtype not in RANGES or spec.dtype.kind == "O":
        raise BadMetadataError(
            f"depths has dtype {spec.dtype.str}, expected u1, u2, f2 or f4; store the values as "
            "one of these, and say what is black and white in mcdiff.intensity_range"
        )
    cases, depths, *grid = spec.shape
    if not 1 <= cases <= CASES_LIMIT or not 1 <= depths <= DEPTHS_LIMIT or min(grid) < SMALLEST:
        last = depths > DEPTHS_LIMIT and grid[1] <= DEPTHS_LIMIT
        hint = "; if its last axis is the depth, store numpy.transpose(array, (0, 3, 1, 2))"
        raise BadMetadataError(
            f"depths is {spec.shape}, expected (case, depth, y, x): 1 to {CASES_LIMIT} cases, 1 to "
            f"{DEPTHS_LIMIT} depths and {SMALLEST} px or more{hint if last else ''}"
        )
    if _row_bytes(spec) > CHUNK_LIMIT:
        raise BadMetadataError(
            f"depths has chunks of {spec.chunks}: one case takes {_row_bytes(spec)} bytes to "
            f"decode, the limit is {CHUNK_LIMIT}; rechunk it to one case per chunk"
        )
    return dtype


def _row_bytes(spec: ArraySpec) -> int:
    """Decoded bytes of all the chunks that one case touches."""
    sizes = zip(spec.shape[1:], spec.chunks[1:], strict=True)
    return spec.chunks[0] * math.prod(-(-n // k) * k for n, k in sizes) * spec.itemsize


def _codec(spec: ArraySpec) -> str:
    names = " + ".join(x.name for x in spec.codecs) or "none"
    checksum = " with checksum" if spec.notices_damage else ""
    return f"{names}{checksum}{', sharded' if spec.shards else ''}"


def _warnings(spec: ArraySpec, columns: Columns, meaning: Attributes) -> list[str]:
    warnings = []
    if spec.chunks[0] > 1:
        warnings.append(
            f"depths: a chunk has {spec.chunks[0]} cases, so some chunks are decoded more than once"
        )
    if not spec.notices_damage:
        warnings.append(
            f"depths: codec {_codec(spec)} without checksum, so damage may go unnoticed"
        )
    warnings.extend(warn_of_unknown_spacing(columns, meaning.spacing_mm))
    return warnings
