"""The attribute `mcdiff` of the group: what the pixels of all cases mean."""

import math
from dataclasses import dataclass
from typing import Literal

import msgspec

from .codec_metadata import Json
from .store import BadMetadataError, Store

RANGES = {"u1": (0.0, 255.0), "u2": (0.0, 65535.0), "f2": (0.0, 1.0), "f4": (0.0, 1.0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """What the pixels mean: stored, or by default."""

    intensity_range: tuple[float, float]  # black, white
    spacing_mm: tuple[float, float]  # y, x; NaN where unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """The attribute as it is stored.  Other keys are the user's own and are ignored."""

    intensity_range: tuple[float, float]
    pixel_spacing_mm: float | tuple[float, float] | None = None
    schema: Literal[1] = 1


def read_attribute(store: Store) -> Json:
    """The attribute of the group at the root; consolidated metadata are ignored.

    Raises BadMetadataError where the root is not a group.
    """
    root, plain = store.document("zarr.json"), store.document(".zgroup")
    if root is None and plain is None:
        single = store.document(".zarray") is not None
        raise BadMetadataError("is a single array, not a group" if single else "is no zarr group")
    if root is not None and root[1].get("node_type") != "group":
        raise BadMetadataError("is a single array, expected a group with an array `depths`")
    v2 = store.document(".zattrs") if root is None else None
    stored = root[1].get("attributes", {}) if root is not None else v2[1] if v2 else {}
    attribute = stored.get("mcdiff", {}) if isinstance(stored, dict) else None
    if not isinstance(attribute, dict):
        raise BadMetadataError("the attribute mcdiff is not an object")
    return attribute


def parse_attributes(raw: Json, dtype: str) -> Attributes:
    """From the attribute and the dtype of `depths`.  Raises BadMetadataError."""
    try:
        document = msgspec.convert({"intensity_range": RANGES[dtype]} | raw, Document)
    except ValueError as error:
        raise BadMetadataError(f"the attribute mcdiff is wrong: {error}") from error
    low, high = document.intensity_range
    if not (math.isfinite(high - low) and low < high):
        raise BadMetadataError(f"mcdiff.intensity_range is [{low:g}, {high:g}], expected low, high")
    return Attributes(intensity_range=(low, high), spacing_mm=_spacing(document.pixel_spacing_mm))


def _spacing(stored: float | tuple[float, float] | None) -> tuple[float, float]:
    if stored is None:
        return math.nan, math.nan
    y, x = stored if isinstance(stored, tuple) else (stored, stored)
    if not (is_spacing(y) and is_spacing(x)):
        raise BadMetadataError(f"mcdiff.pixel_spacing_mm is [{y:g}, {x:g}], expected y, x in mm")
    return y, x


def is_spacing(value: float) -> bool:
    return math.isfinite(value) and value > 0
