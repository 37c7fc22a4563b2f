"""What an array's own metadata say of its values: the names of its axes, units, missing values.

A statement that contradicts how the engine reads the array is refused.
"""

import base64
import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mcdiff_batch.engine.files import Json

from .codec_metadata import REWRITE
from .metadata import ArrayMetadata
from .store import BadMetadataError

AXES = {  # words for each axis
    "case": {"case", "sample", "patient", "subject", "scan", "study", "exam", "batch", "n"},
    "depth": {"depth", "z", "plane", "layer", "slice", "d"},
    "y": {"y", "row", "height", "h"},
    "x": {"x", "column", "col", "width", "w"},
}
ORDER = {  # of the axes of each array; None: an axis of its own
    "depths": ("case", "depth", "y", "x"),
    "case_id": ("case",),
    "optimal_depth": ("case",),
    "depth_present": ("case", "depth"),
    "extent": ("case", None),
    "pixel_spacing_mm": ("case", None),
}
MISSING = ("_FillValue", "missing_value", "missing_values", "nodata", "no_data", "NoData")
COUNTED = {"n", "num", "number", "id", "index", "idx", "axis", "dim", "px", "pixel", "image"}
UNNAMED = re.compile(r"(phony_)?(dim|axis)?_?[0-9]*")  # what libraries call an axis without a name
LENGTHS = {  # mm
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1.0),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 10.0),
    **dict.fromkeys(("m", "meter", "metre"), 1000.0),
    **dict.fromkeys(("um", "µm", "μm", "micron", "micrometer", "micrometre"), 0.001),
    **dict.fromkeys(("in", "inch", "inche"), 25.4),
}
NEUTRAL = {  # attributes that change values, without underscores, and what changes nothing
    **dict.fromkeys(("scalefactor", "rescaleslope"), 1.0),
    **dict.fromkeys(("addoffset", "rescaleintercept"), 0.0),
}
BITS_KEYS = ("bitsstored", "bitspersample", "significantbits", "bitdepth")
WHITE_IS_ZERO = ("monochrome1", "whiteiszero", "miniswhite", "0")
PIXELS = ("px", "pixel", "1", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """Which stored values are no measurements, by the attributes of CF."""

    missing: tuple[float, ...] = ()
    low: float = -math.inf  # lowest and highest that are valid
    high: float = math.inf

    def count_missing(self, values: npt.NDArray[np.generic]) -> int:
        return int(sum(np.count_nonzero(values == x) for x in self.missing))

    def without_black(self, black: float) -> tuple["Validity", tuple[str, ...]]:
        """Without the missing value that is black, since such px are read as black; a warning."""
        others = tuple(x for x in self.missing if x != black)
        if others == self.missing:
            return self, ()
        warning = f"depths: px of the value {black:g} are said to be missing and are read as black"
        return replace(self, missing=others), (warning,)


def read_validity(name: str, array: ArrayMetadata) -> tuple[Validity, tuple[str, ...]]:
    """Checks what an array says of itself.  Returns which values are valid, and warnings.

    Raises BadMetadataError for a statement that the engine would have to ignore.
    """
    attributes = array.attributes
    warnings = check_axes(name, array.dimensions)
    _check_scale(name, attributes)
    _check_sign(name, attributes, array.spec.dtype.kind)
    _check_black(name, attributes)
    _check_unit(name, attributes)
    if ORDER[name][-1] is None:
        _check_pairs(name, (*array.dimensions[-1:], *attributes.values()))
    low, high = _valid_range(name, attributes)
    missing = tuple(
        x
        for key in MISSING
        for x in _numbers(name, key, attributes)
        if not math.isnan(x)  # a px that is NaN fails its case anyway
    )
    return Validity(missing=missing, low=low, high=high), warnings


def check_axes(name: str, names: Sequence[str | None]) -> tuple[str, ...]:
    """Warnings on names that say nothing.  Raises BadMetadataError for those of another order."""
    expected = ORDER[name]
    axes = [_axis(x) for x in names]
    wrong = len(names) not in (0, len(expected)) or any(
        a is not None and a != b and (b or a == "case")
        for a, b in zip(axes, expected, strict=False)
    )
    listed = ", ".join(str(x) for x in names)
    wanted = ", ".join(x or "y and x" for x in expected)
    if wrong:
        raise BadMetadataError(
            f"{name} has the dimensions ({listed:.80}), expected ({wanted}); "
            f"{_advice(axes, expected)}"
        )
    named = lambda x: not UNNAMED.fullmatch(x or "")
    strange = [x for x, axis in zip(names, axes, strict=True) if axis is None and named(x)]
    if len(strange) > 1 and None not in expected:
        return (
            f"{name}: the dimensions ({listed:.80}) are read as ({wanted}); rename them if that is "
            "right, or transpose the array",
        )
    return ()


def _axis(name: str | None) -> str | None:
    """The axis that a name stands for, such as "y" for "image_rows"; None if not certain."""
    words = re.findall(r"[a-z]+", (name or "").lower())
    words = [x for x in words if x not in COUNTED] or words
    fits = {axis for x in words for axis in AXES if {x, x.removesuffix("s")} & AXES[axis]}
    return fits.pop() if len(fits) == 1 else None


def _advice(axes: Sequence[str | None], expected: Sequence[str | None]) -> str:
    if sorted(map(str, axes)) == sorted(map(str, expected)):
        order = ", ".join(str(axes.index(x)) for x in expected)
        return f"store numpy.transpose(array, ({order})), or correct the names"
    return "reorder the axes, or correct the names"


def _check_pairs(name: str, statements: Sequence[object]) -> None:
    """Columns of two values are (y, x): refuses a statement such as "xy" or ["width", "height"]."""
    for statement in statements:
        parts = (
            statement if isinstance(statement, list) else re.findall("[A-Za-z]+", str(statement))
        )
        if len(parts) == 1 and str(parts[0]).lower() in ("xy", "wh"):
            parts = list(str(parts[0]))
        if [_axis(str(x)) for x in parts] == ["x", "y"]:
            raise BadMetadataError(
                f"{name} is said to be in the order {statement!r:.40}, expected (y, x); swap its "
                "columns, or correct the statement"
            )


def stored_bits(attributes: Json) -> int | None:
    """How many bits of a px are in use, by an attribute such as DICOM's; None if none says so."""
    bits = (x for k, x in attributes.items() if _letters(k) in BITS_KEYS and type(x) is int)
    return next(bits, None)


def _letters(text: object) -> str:
    return re.sub("[^a-z0-9]", "", str(text).lower())


def _check_black(name: str, attributes: Json) -> None:
    """Black is the lowest value."""
    for key, value in attributes.items():
        if _letters(key).startswith("photometric") and _letters(value) in WHITE_IS_ZERO:
            raise BadMetadataError(
                f"{name} has the attribute {key!r:.40} {value!r:.20}: its lowest value is white, "
                "expected black; invert the values and correct the attribute"
            )


def _check_scale(name: str, attributes: Json) -> None:
    for key in attributes:
        neutral = NEUTRAL.get(_letters(key))
        if neutral is None:
            continue
        if any(x != neutral for x in _numbers(name, key, attributes)):
            raise BadMetadataError(
                f"{name} has the attribute {key} {attributes[key]!r:.40}, expected stored values "
                f"that need no scaling; store the scaled values, or remove {key} and say what is "
                "black and white in mcdiff.intensity_range"
                if name == "depths"
                else f"{name} has the attribute {key} {attributes[key]!r:.40}, expected stored "
                "values that need no scaling; store the scaled values without it"
            )


def _check_sign(name: str, attributes: Json, kind: str) -> None:
    stated = str(attributes.get("_Unsigned", "")).lower()
    if (stated, kind) in (("true", "i"), ("false", "u")):
        word = "unsigned" if kind == "i" else "signed"
        raise BadMetadataError(
            f"{name} says that its values are {word} (_Unsigned), its dtype says the opposite; "
            f"{REWRITE}, with the right dtype"
        )


def length_mm(unit: object) -> float | None:
    """mm of a unit of length; None for anything else."""
    return LENGTHS.get(str(unit).strip().lower().removesuffix("s"))


def _check_unit(name: str, attributes: Json) -> None:
    """Extents are in px, spacings in mm, optimal depths are numbers of depths."""
    for key in ("units", "unit"):
        if key not in attributes:
            continue
        unit = str(attributes[key]).strip().lower()
        name_of_unit = unit.split("/")[0].split(" per ")[0].strip()
        fits = {
            "extent": name_of_unit.removesuffix("s") in PIXELS,
            "pixel_spacing_mm": length_mm(name_of_unit) == 1.0,
            "optimal_depth": length_mm(name_of_unit) is None,
        }
        if not fits.get(name, True):
            wanted = {"extent": "px", "pixel_spacing_mm": "mm"}.get(name, "numbers from 0")
            raise BadMetadataError(
                f"{name} has the unit {unit!r:.20}, expected {wanted}; convert the values and "
                "correct the unit"
            )


def _valid_range(name: str, attributes: Json) -> tuple[float, float]:
    both = _numbers(name, "valid_range", attributes)
    if len(both) not in (0, 2):
        raise BadMetadataError(f"{name} has a valid_range of {len(both)} values, expected two")
    low, high = both or (-math.inf, math.inf)
    low = max((low, *_numbers(name, "valid_min", attributes)))
    return low, min((high, *_numbers(name, "valid_max", attributes)))


def _numbers(name: str, key: str, attributes: Json) -> tuple[float, ...]:
    """The numbers of an attribute: none, one or several.  Raises BadMetadataError."""
    stored = attributes.get(key)
    values = stored if isinstance(stored, list) else [] if stored is None else [stored]
    try:
        return tuple(_number(x) for x in values)
    except (ArithmeticError, TypeError, ValueError, struct.error) as error:
        if name == "case_id":
            return ()
        raise BadMetadataError(
            f"{name} has the attribute {key} {stored!r:.40}, expected a number; correct it"
        ) from error


def _number(value: object) -> float:
    """Text may be "NaN" or, as xarray writes it, eight bytes in base64."""
    if not isinstance(value, str):
        return float(value)  # type: ignore[arg-type]
    try:
        return float(value)
    except ValueError:
        return float(struct.unpack("<d", base64.b64decode(value, validate=True))[0])
