"""What the pixels of all cases mean: black, white and the size of a px."""

import difflib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from mcdiff_batch.engine.files import Json

from .meaning import check_axes, length_mm, stored_bits
from .store import BadMetadataError, Store

RANGES = {"u1": (0.0, 255.0), "u2": (0.0, 65535.0), "f2": (0.0, 1.0), "f4": (0.0, 1.0)}
FAINT = 0.25  # of the intensity range, as 14 of 16 bit, or 6 of 8; phantoms use 0.88 or more
STRAY = 0.001  # share of the px at either end that may be a stamp or a dead px
HEIGHT_MM = (100.0, 800.0)  # of a scan: five vertebrae of a child, or the trunk of a tall adult
WIDTH_MM = (50.0, 500.0)  # from process to process of a child, or the widest trunk
SPACING_KEY = re.compile(r"(?:(?:imager)?(?:pixel|px|voxel)(?:spacing|size)|spacing)(mm|cm|um|m)?")
TOLERANCE = 0.01  # of two statements of one spacing
EXPECTED = {  # keys of the attribute `mcdiff` -> their values, in words
    "pixel_spacing_mm": "a number, or the numbers y and x, in mm",
    "intensity_range": "two numbers, black and white",
    "schema": "1",
}

Images = npt.NDArray[Any]
Spacing = tuple[float, float]  # y, x mm


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """What the pixels mean: stored, or by default."""

    intensity_range: tuple[float, float]  # black, white
    spacing_mm: Spacing  # NaN where unknown
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """The attribute `mcdiff` as it is stored.  Other keys are the user's own and are ignored."""

    intensity_range: tuple[float, float]
    pixel_spacing_mm: float | tuple[float, float] | None = None
    schema: Literal[1] = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A size of a px that stands somewhere else than in mcdiff.pixel_spacing_mm."""

    where: str
    values: tuple[float, ...]  # one, or two
    unit_mm: float  # NaN where the unit is unknown
    ordered: bool = False  # two values are certain to be y, x

    def spacing(self) -> Spacing:
        """In mm.  Raises BadMetadataError where it is not certain which value is y."""
        y, x = (v * self.unit_mm for v in (self.values[0], self.values[-1]))
        if not (is_spacing(y) and is_spacing(x)) or (y != x and not self.ordered):
            raise BadMetadataError(
                f"{self.where} is {list(self.values)}, expected a size of a px, certain in its "
                "order; set the attribute mcdiff.pixel_spacing_mm to [y, x] in mm"
            )
        return y, x

    def fits(self, other: Spacing) -> bool:
        y, x = (v * self.unit_mm for v in (self.values[0], self.values[-1]))
        pairs = ((y, x),) if self.ordered else ((y, x), (x, y))
        return any(np.allclose(pair, other, rtol=TOLERANCE, atol=0) for pair in pairs)


def read_attributes(store: Store) -> Json:
    """The attributes of the group at the root; consolidated metadata are ignored.

    Raises BadMetadataError where the root is not a group.
    """
    root, plain = store.document("zarr.json"), store.document(".zgroup")
    if root is None and plain is None:
        single = store.document(".zarray") is not None
        raise BadMetadataError("is a single array, not a group" if single else "is no zarr group")
    if root is not None and root[1].get("node_type") != "group":
        raise BadMetadataError("is a single array, not a group")
    v2 = store.document(".zattrs") if root is None else None
    stored = root[1].get("attributes", {}) if root is not None else v2[1] if v2 else {}
    if not isinstance(stored, dict) or not isinstance(stored.get("mcdiff", {}), dict):
        raise BadMetadataError("the attribute mcdiff is not an object")
    return stored


def parse_attributes(
    root: Json, array: Json, dtype: str, coordinates: tuple[Statement, ...]
) -> Attributes:
    """Meaning of the px, by the attributes of the group and of `depths`, and the coordinates.

    Raises BadMetadataError.
    """
    raw = root.get("mcdiff", {})
    _check_keys(raw, {"the group": root, "depths": array})
    try:
        document = msgspec.convert({"intensity_range": _range(array, dtype)} | raw, Document)
    except ValueError as error:
        raise _explain(error, raw) from error
    low, high = document.intensity_range
    if not (math.isfinite(high - low) and low < high):
        raise BadMetadataError(f"mcdiff.intensity_range is [{low:g}, {high:g}], expected low, high")
    statements = [
        *coordinates,
        *_pyramid(root),
        *_statements("the attribute", root),
        *_statements("mcdiff", raw),
        *_statements("depths: the attribute", array),
    ]
    spacing, warnings = _agree(_spacing(document.pixel_spacing_mm), statements)
    return Attributes(intensity_range=(low, high), spacing_mm=spacing, warnings=warnings)


def _explain(error: ValueError, raw: Json) -> BadMetadataError:
    """Which key of `mcdiff` is wrong, what it is and what was expected."""
    key = next((x for x in EXPECTED if f"$.{x}" in str(error)), None)
    if key is None:
        return BadMetadataError(
            "the attribute mcdiff is wrong; see the README's table of the input"
        )
    return BadMetadataError(
        f"mcdiff.{key} is {raw.get(key)!r:.40}, expected {EXPECTED[key]}; correct the attribute"
    )


def _range(array: Json, dtype: str) -> tuple[float, float]:
    """Black and white where mcdiff does not say them: by the bits in use, else by the dtype."""
    bits, (low, high) = stored_bits(array), RANGES[dtype]
    return (low, min(high, 2.0**bits - 1) if bits and dtype[0] == "u" and 0 < bits < 64 else high)


def _check_keys(raw: Json, others: dict[str, Json]) -> None:
    """Refuses our keys where they are misspelt, or stand outside `mcdiff`."""
    for key in (x for x in raw if x not in (*EXPECTED, "depth_mm") and not _match_size(x)):
        near = difflib.get_close_matches(key.lower().replace("-", "_"), EXPECTED, 1, 0.85)
        if near and near[0] not in raw:
            raise BadMetadataError(f"mcdiff has the key {key!r:.40}, expected {near[0]}; rename it")
    for where, attributes in others.items():
        if "intensity_range" in attributes and "intensity_range" not in raw:
            raise BadMetadataError(
                f"{where} has the attribute intensity_range outside mcdiff; move it into the "
                "group's attribute mcdiff"
            )


def _spacing(stored: float | tuple[float, float] | None) -> Spacing | None:
    if stored is None:
        return None
    y, x = stored if isinstance(stored, tuple) else (stored, stored)
    if not (is_spacing(y) and is_spacing(x)):
        raise BadMetadataError(f"mcdiff.pixel_spacing_mm is [{y:g}, {x:g}], expected y, x in mm")
    return y, x


def is_spacing(value: float) -> bool:
    return 1e-9 <= value <= 1e9


def _agree(own: Spacing | None, statements: list[Statement]) -> tuple[Spacing, tuple[str, ...]]:
    """The spacing that all statements agree on, and warnings.  Raises BadMetadataError."""
    warnings = []
    for x in statements:
        if math.isnan(x.unit_mm):
            if own is None:
                warnings.append(
                    f"{x.where} is {x.values[0]:g} without a unit and is not used; set the "
                    "attribute mcdiff.pixel_spacing_mm if it is the size of a px in mm"
                )
        elif own is None:
            own = x.spacing()
        elif not x.fits(own):
            raise BadMetadataError(
                f"{x.where} is {x.values[0] * x.unit_mm:g} mm, another statement says "
                f"{own[0]:g} mm; correct the wrong one (mcdiff.pixel_spacing_mm is in mm)"
            )
    return own or (math.nan, math.nan), tuple(warnings)


def _statements(where: str, attributes: Json) -> Iterator[Statement]:
    """Sizes of a px among attributes, under any usual name."""
    beside = next((x for k, x in attributes.items() if "unit" in k.lower() and length_mm(x)), None)
    if (
        where == "mcdiff"
        and "pixel_spacing_mm" in attributes
        and length_mm(beside) not in (None, 1)
    ):
        raise BadMetadataError(
            f"mcdiff has the unit {beside!r:.20}, expected pixel_spacing_mm in mm; convert it and "
            "remove the unit"
        )
    for key, value in attributes.items():
        match = _match_size(key)
        if match is None or (where == "mcdiff" and key == "pixel_spacing_mm"):
            continue
        values, unit = _parse_size(value)
        if not values:
            raise BadMetadataError(
                f"{where} {key!r:.40} is {value!r:.40}, expected a size of a px; correct it"
            )
        named = length_mm(match[1]) or length_mm(unit) or length_mm(beside) or math.nan
        yield Statement(where=f"{where} {key!r:.40}", values=values, unit_mm=named)


def _match_size(key: str) -> re.Match[str] | None:
    """The match if an attribute's name says that it is a size of a px; its group 1 is the unit."""
    return SPACING_KEY.fullmatch(re.sub("[^a-z]", "", key.lower()))


def _parse_size(value: object) -> tuple[tuple[float, ...], object]:
    """One or two numbers, and the unit that is written with them; no numbers if it is no size."""
    unit: object = None
    if isinstance(value, dict):
        unit = value.get("unit", value.get("units"))
        value = value.get("value", [value.get("y"), value.get("x")])
    if (
        isinstance(value, str)
        and len(value) < 100
        and (match := re.fullmatch(r"\s*([0-9.eE+-]+)\s*(\S*)\s*", value))
    ):
        value, unit = match[1], match[2]
    values: list[Any] = value if isinstance(value, list) else [value]
    try:
        return tuple(float(x) for x in values) if len(values) in (1, 2) else (), unit
    except (ArithmeticError, TypeError, ValueError):
        return (), unit


def _pyramid(root: Json) -> Iterator[Statement]:
    """What the metadata of OME-Zarr say of `depths`.  Raises BadMetadataError."""
    ome = root.get("ome") if isinstance(root.get("ome"), dict) else root
    try:
        for image in ome.get("multiscales") or []:  # type: ignore[union-attr]
            paths = [x["path"] for x in image["datasets"]]
            if "depths" not in paths:
                continue
            if paths[0] != "depths":
                raise BadMetadataError("depths is a reduced copy of another array, by multiscales")
            axes = [x if isinstance(x, dict) else {"name": x} for x in image.get("axes") or []]
            check_axes("depths", [x["name"] for x in axes])
            steps = [
                np.array(x["scale"][-2:], float)
                for y in (image["datasets"][0], image)
                for x in y.get("coordinateTransformations") or []
                if x.get("type") == "scale"
            ]
            unit = length_mm(axes[-1].get("unit")) if axes else None
            if steps and not (unit is None and (np.prod(steps, 0) == 1).all()):
                values = tuple(np.prod(steps, 0).tolist())
                where = "the scale in multiscales"
                yield Statement(where=where, values=values, unit_mm=unit or math.nan, ordered=True)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, BadMetadataError):
            raise
        raise BadMetadataError(f"the attribute multiscales is wrong: {error!r:.80}") from error


def used_range(images: Images) -> tuple[float, float]:
    """The lowest and highest value of images [..., y, x], a few stray px aside."""
    sample = np.sort(images[..., ::2, ::2], axis=None)
    stray = int(STRAY * len(sample))
    return float(sample[stray]), float(sample[-1 - stray])


def is_faint(used: tuple[float, float], limits: tuple[float, float]) -> bool:
    """Whether images use so little of the intensity range that the range is probably wrong."""
    return used[1] - used[0] <= FAINT * (limits[1] - limits[0])


def suggest_range(used: tuple[float, float], limits: tuple[float, float], dtype: str) -> str:
    """What is wrong with images that use so little, and the range that they probably have."""
    low, high = used
    if dtype[0] == "u" and low < high / 2:
        low, high = 0.0, float((1 << int(high).bit_length()) - 1)
    return (
        f"use values from {used[0]:g} to {used[1]:g} only, a small part of the intensity range "
        f"{limits[0]:g} to {limits[1]:g}, and would come out dark; if black and white are other "
        f"values, say so: for example {low:g} and {high:g}"
    )


def is_human(height_mm: float, width_mm: float) -> bool:
    """Whether a scan of a spine can have this size; NaN can be anything."""
    sizes = ((height_mm, HEIGHT_MM), (width_mm, WIDTH_MM))
    return all(math.isnan(x) or low <= x <= high for x, (low, high) in sizes)
