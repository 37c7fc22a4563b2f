"""The group's attribute `mcdiff`: what the pixels of all cases mean."""

import json
import math
from dataclasses import dataclass

from .codec_metadata import Json
from .store import BadMetadataError, Store

RANGES = {"u1": (0.0, 255.0), "u2": (0.0, 65535.0), "f2": (0.0, 1.0), "f4": (0.0, 1.0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """The defaults are those of an archive without the attribute."""

    intensity_range: tuple[float, float]  # black, white
    spacing_mm: tuple[float, float]  # y, x; NaN where unknown


def attributes(raw: Json, dtype: str) -> Attributes:
    """From the attribute and the dtype of `depths`.  Raises BadMetadataError."""
    return Attributes(intensity_range=_intensity_range(raw, dtype), spacing_mm=_spacing(raw))


def mcdiff_attribute(store: Store) -> Json:
    """Of the group at the root, which must be one.  Consolidated metadata are never looked at."""
    root, plain = store.document("zarr.json"), store.document(".zgroup")
    if root is None and plain is None:
        single = store.document(".zarray") is not None
        raise BadMetadataError("is a single array, no group" if single else "is no zarr group")
    if root is not None and root[1].get("node_type") != "group":
        raise BadMetadataError("is a single array, expected a group that holds `depths`")
    v2 = store.document(".zattrs") if root is None else None
    given = root[1].get("attributes", {}) if root is not None else v2[1] if v2 else {}
    found = given.get("mcdiff", {}) if isinstance(given, dict) else None
    if not isinstance(found, dict) or found.get("schema", 1) != 1:
        raise BadMetadataError("the attribute mcdiff is no object of schema 1")
    return found


def _intensity_range(raw: Json, dtype: str) -> tuple[float, float]:
    found = raw.get("intensity_range", RANGES[dtype])
    low, high = _pair(found, "intensity_range")
    if not (math.isfinite(high - low) and low < high):
        raise BadMetadataError(f"mcdiff.intensity_range is [{low:g}, {high:g}], expected low, high")
    return low, high


def _spacing(raw: Json) -> tuple[float, float]:
    found = raw.get("pixel_spacing_mm")
    if found is None:
        return math.nan, math.nan
    y, x = _pair([found, found] if isinstance(found, (int, float)) else found, "pixel_spacing_mm")
    if not (is_spacing(y) and is_spacing(x)):
        raise BadMetadataError(f"mcdiff.pixel_spacing_mm is [{y:g}, {x:g}], expected y, x in mm")
    return y, x


def is_spacing(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _pair(found: object, name: str) -> tuple[float, float]:
    numbers = isinstance(found, (list, tuple)) and all(type(x) in (int, float) for x in found)
    if not numbers or not isinstance(found, (list, tuple)) or len(found) != 2:
        text = json.dumps(found)
        raise BadMetadataError(f"mcdiff.{name} is {text:.60}, expected two numbers")
    try:
        return float(found[0]), float(found[1])
    except OverflowError as error:
        raise BadMetadataError(f"mcdiff.{name} is beyond all numbers") from error
