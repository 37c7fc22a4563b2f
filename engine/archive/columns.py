"""The small arrays of an archive, one row per case, which are read when it is opened."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mcdiff_batch.engine.text import format_bytes

from .attributes import HEIGHT_MM, WIDTH_MM, Statement, is_human
from .chunks import ChunkedArray, Values, chunks_in, intersect
from .codecs import CorruptError
from .meaning import Validity, length_mm, read_validity
from .metadata import ArraySpec, read_array_spec
from .store import BadMetadataError, Store, UnsafeFileError

BYTES_LIMIT = 1 << 30  # of one column in memory, with what its chunks hold beyond its shape
TEXT_LIMITS = 1 << 26, 1 << 10  # bytes of a column of texts: of any, and more for each case
COORDINATES = (  # names of the coordinates of the depths, of y and of x
    ("depth", "z", "plane", "layer"),
    ("y", "row", "height"),
    ("x", "column", "width"),
)
FLOATS = {"NaN": np.nan, "Infinity": np.inf, "-Infinity": -np.inf}


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnType:
    """What a column may contain: numpy kinds, and its shape after the case axis."""

    kinds: str
    tail: tuple[int, ...] = ()


KINDS = {  # of numpy, in words
    **dict.fromkeys("OUS", "text"),
    **dict.fromkeys("iu", "integers"),
    "f": "floats",
    "b": "bool",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The columns of an archive; None for those that it lacks."""

    case_id: tuple[str, ...] | None
    optimal_depth: npt.NDArray[np.int64] | None  # [N]
    depth_present: npt.NDArray[np.bool_] | None  # [N, D]
    extent: npt.NDArray[np.int64] | None  # [N, 2], px
    pixel_spacing_mm: npt.NDArray[np.float64] | None  # [N, 2]
    warnings: tuple[str, ...]
    digest: str  # SHA-256 of metadata and values


class Coordinate(NamedTuple):
    """The coordinate of an axis, such as xarray writes it."""

    steps: npt.NDArray[np.float64]  # from each value to the next
    unit_mm: float | None  # None: unknown

    @property
    def size(self) -> float:
        """Of the usual step."""
        return float(np.median(np.abs(self.steps)))

    @property
    def is_even(self) -> bool:
        return np.allclose(np.abs(self.steps), self.size, rtol=0.01)


def column_types(depths: int) -> dict[str, ColumnType]:
    return {
        "case_id": ColumnType(kinds="OUSiu"),
        "optimal_depth": ColumnType(kinds="iu"),
        "depth_present": ColumnType(kinds="bu", tail=(depths,)),
        "extent": ColumnType(kinds="iu", tail=(2,)),
        "pixel_spacing_mm": ColumnType(kinds="f", tail=(2,)),
    }


def read_columns(store: Store, cases: int, depths: int) -> Columns:
    """Raises BadMetadataError if a column does not fit the archive or cannot be decoded."""
    values: dict[str, Any] = {}
    warnings: list[str] = []
    digest = hashlib.sha256()
    for name, column in column_types(depths).items():
        array = read_array_spec(store, name)
        values[name] = None
        if array is not None:
            spec = array.spec
            _check(name, spec, column, cases)
            validity, doubts = read_validity(name, array)
            warnings += doubts
            raw = _read_all(ChunkedArray(store=store, name=name, spec=spec), warnings)
            values[name] = _convert(name, _replace_missing(name, raw, validity))
            _add(digest, name.encode(), array.document, _plain_bytes(raw))
    return Columns(**values, warnings=tuple(warnings), digest=digest.hexdigest())


def read_coordinates(store: Store, shape: tuple[int, ...]) -> tuple[Statement, ...]:
    """What coordinates of (depth, y, x), such as xarray writes, say of the spacing.

    Raises BadMetadataError where the deepest depth would be the first.
    """
    depth, y, x = (
        next(filter(None, (_read_coordinate(store, name, n) for name in names)), None)
        for names, n in zip(COORDINATES, shape, strict=True)
    )
    if depth is not None and len(depth.steps) and (depth.steps < 0).all():
        raise BadMetadataError(
            "the coordinate of the depths falls, expected the superficial depth first; store the "
            "depths in the opposite order"
        )
    if y is None or x is None or y.unit_mm != x.unit_mm:
        return ()
    sizes = (y.size, x.size)
    counts_px = y.unit_mm is None and sizes == (1.0, 1.0)
    if counts_px or not all(sizes) or not (y.is_even and x.is_even):
        return ()
    where = "the step of the coordinates"
    return (Statement(where=where, values=sizes, unit_mm=y.unit_mm or math.nan, ordered=True),)


def _read_coordinate(store: Store, name: str, size: int) -> Coordinate | None:
    """A coordinate of `size` numbers; None if there is no such array."""
    try:
        array = read_array_spec(store, name)
        if array is None or array.spec.shape != (size,) or array.spec.dtype.kind not in "iuf":
            return None
        values = _read_all(ChunkedArray(store=store, name=name, spec=array.spec), [])
    except BadMetadataError:
        return None  # an array of the user's own
    steps = np.diff(values.astype(np.float64))
    return Coordinate(steps, length_mm(array.attributes.get("units")))


def _add(digest: "hashlib._Hash", *parts: bytes) -> None:
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)


def _plain_bytes(raw: Values) -> bytes:
    return json.dumps(raw.tolist()).encode() if raw.dtype == object else raw.tobytes()


def _check(name: str, spec: ArraySpec, column: ColumnType, cases: int) -> None:
    expected = (cases, *column.tail)
    if spec.shape != expected:
        raise BadMetadataError(f"{name} is {spec.shape}, expected {expected} to match depths")
    if spec.dtype.kind not in column.kinds or (name == "depth_present" and spec.itemsize > 1):
        kinds = " or ".join(dict.fromkeys(KINDS[x] for x in column.kinds))
        raise BadMetadataError(
            f"{name} has dtype {spec.dtype.str}, expected {kinds}; store it as that"
        )


def _read_all(array: ChunkedArray, warnings: list[str]) -> Values:
    """All values; an absent chunk has the fill value, as in zarr, and gives a warning.

    Raises BadMetadataError before they take more memory than a column may.
    """
    spec, absent = array.spec, 0
    fill = _fill(array.name, spec)
    size = spec.itemsize * math.prod(
        -(-n // k) * k for n, k in zip(spec.shape, spec.chunks, strict=True)
    )
    if spec.dtype == object:
        size += _text_bytes([fill]) * math.prod(spec.shape)
    _check_size(array.name, spec, size)
    out = np.full(spec.shape, fill, spec.dtype.newbyteorder("="))
    box = tuple(slice(0, n) for n in spec.shape)
    for coordinates in chunks_in(box, spec.chunks):
        values = _read_chunk(array, coordinates)
        absent += values is None
        if values is not None:
            if spec.dtype == object:
                size += _text_bytes(values.flat)
                _check_size(array.name, spec, size)
            into, part = intersect(box, coordinates, spec.chunks)
            out[into] = values[part]
    if absent:
        warnings.append(
            f"{array.name}: {absent} chunks are absent; their values are the fill value"
        )
    return out


def _text_bytes(texts: Iterable[Any]) -> int:
    """What texts take in memory, at most."""
    return sum(len(x) * (1 if x.isascii() else 4) for x in texts)


def _check_size(name: str, spec: ArraySpec, size: int) -> None:
    limit, is_text = BYTES_LIMIT, spec.dtype.kind in "OUS"
    if is_text:
        least, each = TEXT_LIMITS
        limit = min(limit, least + each * spec.shape[0])
    if size > limit:
        advice = "shorten its texts" if is_text else "give it smaller chunks"
        raise BadMetadataError(
            f"{name} takes more than {format_bytes(limit)} in memory, expected less for an array "
            f"of {spec.shape}; {advice}"
        )


def _read_chunk(array: ChunkedArray, coordinates: tuple[int, ...]) -> Values | None:
    try:
        return array.chunk(coordinates)
    except UnsafeFileError as error:
        raise BadMetadataError(str(error)) from error
    except CorruptError as error:
        raise BadMetadataError(f"{error}; repair the archive") from error


def _fill(name: str, spec: ArraySpec) -> object:
    if spec.dtype.kind in "OUS":
        return "" if spec.fill in (None, 0) else str(spec.fill)
    try:
        value = 0 if spec.fill is None else spec.fill
        if isinstance(value, str) and spec.dtype.kind == "f":
            value = _parse_float(value, spec.itemsize)
        with np.errstate(invalid="raise", over="raise"):
            fill = np.array(value).astype(spec.dtype).item()
        if spec.dtype.kind != "f" and not isinstance(value, str) and fill != value:
            raise ValueError("it would be another value")
        return fill
    except (TypeError, ValueError, ArithmeticError) as error:
        raise BadMetadataError(
            f"{name} has fill value {spec.fill!r:.40}, which its dtype cannot have"
        ) from error


def _parse_float(text: str, size: int) -> float:
    """A number as zarr writes it in text: "NaN", "-Infinity" or its bits, such as "0x7fc00000"."""
    if not text.startswith("0x"):
        return FLOATS.get(text) or float(text)
    return float(np.frombuffer(bytes.fromhex(text[2:]), f">f{size}").item())


def _replace_missing(name: str, raw: Values, validity: Validity) -> Values:
    """Replaces the values that the array declares as missing by the ones that we use for that."""
    stand_in = {"optimal_depth": -1, "pixel_spacing_mm": np.nan, "extent": 0}
    if raw.dtype.kind not in "biuf" or not validity.count_missing(raw):
        return raw
    if name not in stand_in:
        raise BadMetadataError(f"{name} has values that it says are missing; give them a value")
    missing = np.isin(raw, validity.missing)
    return np.where(
        missing, stand_in[name], raw.astype(np.float64 if raw.dtype.kind == "f" else np.int64)
    )


def _convert(name: str, raw: Values) -> object:
    match name:
        case "case_id":
            return _parse_ids(raw)
        case "depth_present":
            return raw.view(np.uint8) != 0
        case "pixel_spacing_mm":
            return raw.astype(np.float64)
    return raw.astype(np.int64)


def _parse_ids(raw: Values) -> tuple[str, ...]:
    """The case ids.  They must be unique, because an id seeds the noise of its case."""
    try:
        ids = tuple(x.decode() if isinstance(x, bytes) else str(x) for x in raw.tolist())
        "".join(ids).encode()
    except ValueError as error:
        raise BadMetadataError("case_id has text that is not Unicode") from error
    if len(set(ids)) < len(ids):
        twice = next(x for x, n in Counter(ids).items() if n > 1)
        first = ids.index(twice)
        second = ids.index(twice, first + 1)
        raise BadMetadataError(f"cases {first} and {second} have the same case_id; rename one")
    return ids


def warn_of_sizes(
    cases: int, grid: tuple[int, int], columns: Columns, spacing: tuple[float, float]
) -> Iterator[str]:
    """A warning if any case would have a size in mm that no scan of a spine has."""
    extents = np.array([grid]) if columns.extent is None else columns.extent
    own = columns.pixel_spacing_mm
    with np.errstate(over="ignore"):
        sizes = extents * (np.array([spacing]) if own is None else own)
    wrong = [k for k, size in enumerate(sizes.tolist()) if not is_human(*size)]
    if wrong:
        height, width = sizes[wrong[0]]
        count = cases if len(sizes) == 1 else len(wrong)
        yield (
            f"{count} of {cases} cases would be of a size that no scan of a spine has: case "
            f"{wrong[0]} is {height:.0f} x {width:.0f} mm, expected {HEIGHT_MM[0]:.0f} to "
            f"{HEIGHT_MM[1]:.0f} x {WIDTH_MM[0]:.0f} to {WIDTH_MM[1]:.0f} mm (y, x); correct the "
            "pixel spacing, which is in mm"
        )


def warn_of_unknown_spacing(columns: Columns, spacing: tuple[float, float]) -> Iterator[str]:
    """A warning if the size of a px is unknown in any case: what is blank, and what mends it."""
    own = columns.pixel_spacing_mm
    unknown = np.count_nonzero(np.isnan([spacing] if own is None else own).any(axis=1))
    if unknown:
        where, place = (
            ("", "attribute mcdiff.pixel_spacing_mm")
            if own is None
            else (f" in {unknown} of {len(own)} cases", "column pixel_spacing_mm")
        )
        yield (
            f"pixel spacing is unknown{where}, so levels, angles, CNR and SNR are blank "
            f"(NaN); give it to `import` as --pixel-spacing, or set the {place}"
        )
