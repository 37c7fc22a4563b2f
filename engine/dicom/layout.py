"""What the header of an image says of its pixels, or the refusal of what is ambiguous."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from mcdiff_batch.engine.archive.archive import DEPTHS_LIMIT, SMALLEST
from mcdiff_batch.engine.archive.metadata import CHUNK_LIMIT

from .reading import Refusal, integer, refuse

SINGLE, MULTI = uid.UltrasoundImageStorage, uid.UltrasoundMultiFrameImageStorage
CLASSES = {  # of images, retired ones included -> the class of what is derived from it
    SINGLE: SINGLE,
    "1.2.840.10008.5.1.4.1.1.6": SINGLE,
    MULTI: MULTI,
    "1.2.840.10008.5.1.4.1.1.3": MULTI,
    uid.SecondaryCaptureImageStorage: uid.SecondaryCaptureImageStorage,
}
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
APPLY = "apply it and export the image again"
GREYS = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
SIDES = (  # what says how the patient lies in the image, besides what is numbers
    *("PatientOrientation", "Laterality", "ImageLaterality", "ViewPosition", "PatientPosition"),
    *("ImageHorizontalFlip", "ImageRotation"),
)
UNPAIRED = "U"  # a laterality that says no more than an absent one


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """The part of an image that is the scan, px."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What the images of one case have in common."""

    rows: int  # px of the stored image
    columns: int
    box: Box
    spacing_mm: tuple[float, float] | None  # y, x; None where the file has none
    dtype: str  # of the grey levels, "u1" or "u2"
    white: int  # its highest level
    sides: tuple[str, ...]  # values of SIDES, "" for an absent one
    plane: tuple[float, ...]  # the six numbers of ImageOrientationPatient, or none


def _count(dataset: Dataset, keyword: str, allowed: Collection[int], expected: str) -> int:
    value = integer(dataset, keyword)
    if value is None or value not in allowed:
        raise refuse(dataset, keyword, expected)
    return value


def count_frames(dataset: Dataset) -> int:
    if not dataset.get("NumberOfFrames"):
        return 1
    expected = f"1 to {DEPTHS_LIMIT} depths; a longer one is a film, not a scan"
    return _count(dataset, "NumberOfFrames", range(1, DEPTHS_LIMIT + 1), expected)


def read_layout(dataset: Dataset) -> Layout:
    """What the header says of the pixels.  Raises Refusal where that is ambiguous or no use."""
    if str(dataset.get("SOPClassUID")) not in CLASSES:
        raise refuse(dataset, "SOPClassUID", "the class that the file's own header names")
    sides = range(SMALLEST, 65536)
    rows, columns = (
        _count(dataset, x, sides, f"{SMALLEST} px or more") for x in ("Rows", "Columns")
    )
    samples = _count(dataset, "SamplesPerPixel", (1, 3), "1 or 3")
    allocated = _count(dataset, "BitsAllocated", (8, 16), "8 or 16")
    if rows * columns * samples * allocated // 8 * count_frames(dataset) > CHUNK_LIMIT:
        raise refuse(dataset, "Rows", f"an image of at most {CHUNK_LIMIT} bytes")
    stored = _count(dataset, "BitsStored", range(1, allocated + 1), f"1 to {allocated}")
    _count(dataset, "HighBit", (stored - 1,), f"{stored - 1}, one less than BitsStored")
    _count(dataset, "PixelRepresentation", (0,), "0, values without a sign")
    if dataset.get("PhotometricInterpretation") not in (COLOURS if samples == 3 else GREYS):
        raise refuse(dataset, "PhotometricInterpretation", "grey, a palette, RGB or YBR")
    _check_display(dataset, stored)
    region = _region(dataset)
    box = _box(dataset, region, rows, columns)
    _check_burned_in(dataset, box, rows, columns)
    _check_orientation(dataset)
    bits = 8 if dataset.PhotometricInterpretation == "PALETTE COLOR" else stored
    return Layout(
        rows=rows,
        columns=columns,
        box=box,
        spacing_mm=_spacing(dataset, region),
        dtype="u1" if bits <= 8 else "u2",
        white=(1 << bits) - 1,
        sides=tuple(_side(dataset, x) for x in SIDES),
        plane=_plane(dataset),
    )


def _check_display(dataset: Dataset, stored: int) -> None:
    """Refuses what would make the image that a doctor sees differ from the stored values."""
    for keyword in ("ModalityLUTSequence", "VOILUTSequence"):
        if dataset.get(keyword):
            raise refuse(dataset, keyword, "none", APPLY)
    for keyword, neutral in (("RescaleSlope", 1), ("RescaleIntercept", 0)):
        if keyword in dataset and dataset.get(keyword) not in (None, "", neutral):
            raise refuse(dataset, keyword, str(neutral))
    shape = dataset.get("PresentationLUTShape")
    fits = "INVERSE" if dataset.PhotometricInterpretation == "MONOCHROME1" else "IDENTITY"
    if shape and shape != fits:
        expected = f"{fits}, as PhotometricInterpretation says"
        raise refuse(dataset, "PresentationLUTShape", expected, APPLY)
    if dataset.get("VOILUTFunction") not in (None, "", "LINEAR", "LINEAR_EXACT"):
        raise refuse(dataset, "VOILUTFunction", "LINEAR", APPLY)
    width, centre = dataset.get("WindowWidth"), dataset.get("WindowCenter")
    if width in (None, "") and centre in (None, ""):
        return
    white = (1 << stored) - 1
    try:
        low, high = float(centre) - float(width) / 2, float(centre) + float(width) / 2
    except (TypeError, ValueError):
        low = high = math.nan
    slack = 1 + white / 100
    if not (low <= slack and low >= -slack and abs(high - white) <= slack):
        raise refuse(dataset, "WindowWidth", f"a window from 0 to {white}", APPLY)


def _region(dataset: Dataset) -> Dataset | None:
    """The one region that shows tissue in two dimensions."""
    regions = [
        x
        for x in dataset.get("SequenceOfUltrasoundRegions") or ()
        if (x.get("RegionSpatialFormat"), x.get("RegionDataType")) == (1, 1)
    ]
    if len(regions) > 1:
        raise Refusal(
            f"(0018,6011) SequenceOfUltrasoundRegions has {len(regions)} regions of tissue, "
            "expected one; export one image for each"
        )
    return regions[0] if regions else None


def _box(dataset: Dataset, region: Dataset | None, rows: int, columns: int) -> Box:
    if region is None:
        return Box(top=0, left=0, height=rows, width=columns)
    names = ("MinY0", "MaxY1", "MinX0", "MaxX1")
    found = [integer(region, f"RegionLocation{x}") for x in names]
    top, bottom, left, right = (-1 if x is None else x for x in found)
    bottom, right = bottom - (bottom == rows), right - (right == columns)  # some count from 1
    if not (0 <= top <= bottom - SMALLEST + 1 and 0 <= left <= right - SMALLEST + 1) or not (
        bottom < rows and right < columns
    ):
        raise Refusal(
            f"(0018,6011) SequenceOfUltrasoundRegions has a region of rows {found[0]} to "
            f"{found[1]}, columns {found[2]} to {found[3]}, expected one inside the image of "
            f"{rows} x {columns} px"
        )
    return Box(top=top, left=left, height=bottom - top + 1, width=right - left + 1)


def _check_burned_in(dataset: Dataset, box: Box, rows: int, columns: int) -> None:
    """Text in the pixels is accepted where the region leaves a margin for it to be cut off with."""
    value = str(dataset.get("BurnedInAnnotation") or "NO").upper()
    if value != "NO" and (value != "YES" or (box.height, box.width) == (rows, columns)):
        raise refuse(dataset, "BurnedInAnnotation", "NO", "export the images without text")


def _parts(dataset: Dataset, keyword: str) -> list[str]:
    value = dataset.get(keyword)
    several = isinstance(value, (list, tuple, MultiValue))
    return [str(x) for x in (value if several else [value]) if x not in (None, "")]


def _check_orientation(dataset: Dataset) -> None:
    """Raises Refusal unless the image is coronal with the head at the top, or says nothing."""
    parts = _parts(dataset, "PatientOrientation")
    if parts and (len(parts) != 2 or parts[0][:1] not in ("L", "R") or parts[1][:1] != "F"):
        raise refuse(
            dataset, "PatientOrientation", "L\\F or R\\F, a coronal image, head at the top"
        )


def _side(dataset: Dataset, keyword: str) -> str:
    text = "\\".join(x.strip().upper() for x in _parts(dataset, keyword))
    return "" if text == UNPAIRED else text


def _plane(dataset: Dataset) -> tuple[float, ...]:
    parts = _parts(dataset, "ImageOrientationPatient")
    try:
        numbers = tuple(float(x) for x in parts)
    except ValueError:
        numbers = (math.nan,)
    if numbers and (len(numbers) != 6 or not all(map(math.isfinite, numbers))):
        raise refuse(dataset, "ImageOrientationPatient", "six numbers, directions of rows, columns")
    if numbers and not _is_upright(numbers):
        raise refuse(dataset, "ImageOrientationPatient", "a coronal image, head at the top")
    return numbers


def _is_upright(plane: Sequence[float]) -> bool:
    """Whether rows run mostly across the patient (x), and columns towards the feet (-z)."""
    row, column = ([abs(x) for x in part] for part in (plane[:3], plane[3:]))
    return row.index(max(row)) == 0 and column.index(max(column)) == 2 and plane[5] < 0


def _spacing(dataset: Dataset, region: Dataset | None) -> tuple[float, float] | None:
    """y, x in mm.  Raises Refusal where it is no size, or said twice and differently."""
    by_region = None if region is None else _region_spacing(region)
    by_pixel = _pixel_spacing(dataset)
    if by_region and by_pixel and not all(map(_near, by_region, by_pixel)):
        shown = " x ".join(f"{x:g}" for x in by_region)
        raise refuse(dataset, "PixelSpacing", f"{shown} mm, as SequenceOfUltrasoundRegions says")
    spacing = by_pixel or by_region
    if spacing is None and dataset.get("PixelAspectRatio"):
        ratio = _two(dataset, "PixelAspectRatio")
        if ratio is None or ratio[0] != ratio[1]:
            raise refuse(dataset, "PixelAspectRatio", "square px, or a PixelSpacing")
    return spacing


def _near(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=0.01)


def _pixel_spacing(dataset: Dataset) -> tuple[float, float] | None:
    if not dataset.get("PixelSpacing"):
        return None
    pair = _two(dataset, "PixelSpacing")
    if pair is None:
        raise refuse(dataset, "PixelSpacing", "two sizes in mm")
    return pair


def _two(dataset: Dataset, keyword: str) -> tuple[float, float] | None:
    try:
        first, second = (float(x) for x in dataset[keyword].value)
    except (TypeError, ValueError):
        return None
    return (first, second) if 0 < first < math.inf and 0 < second < math.inf else None


def _region_spacing(region: Dataset) -> tuple[float, float] | None:
    """PhysicalDelta is in cm for each px."""
    units = [integer(region, f"PhysicalUnits{x}Direction") for x in "YX"]
    if not any(units):
        return None
    try:
        y, x = (10 * float(region[f"PhysicalDelta{x}"].value) for x in "YX")
    except (KeyError, TypeError, ValueError):
        y = x = math.nan
    if units != [3, 3] or not (0 < y < math.inf and 0 < x < math.inf):
        raise refuse(region, "PhysicalDeltaX", "a size in cm, in both directions")
    return y, x
