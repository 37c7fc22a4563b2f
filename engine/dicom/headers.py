"""Reads the headers of DICOM files without trusting them: what an image is, or why it is refused.

pydicom is not given a file before its transfer syntax is known, because it would inflate a deflated
one without a limit; and it never reads past the end, whatever length an element claims.
"""

import io
import math
import re
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom import config, uid
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from mcdiff_batch.engine.archive.archive import DEPTHS_LIMIT, SMALLEST
from mcdiff_batch.engine.archive.metadata import CHUNK_LIMIT
from mcdiff_batch.engine.text import clean

PRODUCT = "mcdiff-batch"  # Manufacturer of what this program writes
SINGLE, MULTI = uid.UltrasoundImageStorage, uid.UltrasoundMultiFrameImageStorage
CLASSES = {  # of images, retired ones included -> the class of what is derived from it
    SINGLE: SINGLE,
    "1.2.840.10008.5.1.4.1.1.6": SINGLE,
    MULTI: MULTI,
    "1.2.840.10008.5.1.4.1.1.3": MULTI,
    uid.SecondaryCaptureImageStorage: uid.SecondaryCaptureImageStorage,
}
NATIVE = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian)
JPEG = (
    *(uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1),
    *(uid.JPEGLSLossless, uid.JPEGLSNearLossless),
)
JPEG_2000 = (uid.JPEG2000Lossless, uid.JPEG2000)
SYNTAXES = (*NATIVE, *JPEG, *JPEG_2000, uid.RLELossless)
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
GREYS = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
MAGIC = 128  # bytes before "DICM"
SUFFIXES = (".dcm", ".dicom", ".ima")  # a file with such a name has to be DICOM
KEYWORDS = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID"),
    *("IssuerOfPatientID", "SeriesNumber", "InstanceNumber", "NumberOfFrames", "Manufacturer"),
    *("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "PhotometricInterpretation", "PixelSpacing", "PixelAspectRatio"),
    *("SequenceOfUltrasoundRegions", "BurnedInAnnotation", "PatientOrientation"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence", "ModalityLUTSequence"),
    *("RescaleSlope", "RescaleIntercept", "PresentationLUTShape", "PixelPresentation"),
)


class Refusal(Exception):
    """A file that cannot be used; the message says which tag, its value and what was expected."""


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
    orientation: str  # PatientOrientation, or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """One file with an image.  Without a layout it is refused, and `problem` says why."""

    path: Path
    sop_class: str
    uid: str
    study: str
    series: str
    patient: str
    place: tuple[int | None, int | None]  # SeriesNumber, InstanceNumber
    frames: int
    compressed: bool
    burned_in: str  # BurnedInAnnotation, or ""
    layout: Layout | None
    problem: str = ""


class _Clamped(io.BufferedReader):
    """A file of which no more is read than there is, whatever length an element claims."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._size = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, self._size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


@contextmanager
def quiet() -> Iterator[None]:
    """No warning of pydicom reaches the terminal: it would show values from the file (P10)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = config.settings
        before = settings.reading_validation_mode, settings.writing_validation_mode
        settings.reading_validation_mode = settings.writing_validation_mode = config.IGNORE
        try:
            yield
        finally:
            settings.reading_validation_mode, settings.writing_validation_mode = before


@contextmanager
def refuse_damage(what: str = "is damaged or cut short; copy it again") -> Iterator[None]:
    """Damaged files make pydicom and its decoders raise almost anything: all become Refusal."""
    try:
        with quiet():
            yield
    except (Refusal, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's fault
            raise
        raise Refusal(f"{what} ({type(error).__name__})") from error


def is_dicom(path: Path) -> bool:
    """Whether the file begins as DICOM does.  Raises Refusal if only its name says so."""
    with path.open("rb") as file:
        found = file.read(MAGIC + 4)[MAGIC:] == b"DICM"
    if not found and path.suffix.lower() in SUFFIXES:
        raise Refusal("does not begin as a DICOM file does; copy it again, or move it away")
    return found


def read(source: Path | bytes, keywords: Collection[str], pixels: bool = False) -> Dataset:
    """The named elements of a file or of its bytes, and the pixel data if asked for.

    Raises Refusal, OSError.
    """
    with _Clamped(source) if isinstance(source, Path) else io.BytesIO(source) as file:
        return _read(file, keywords, pixels)


def _read(file: BinaryIO, keywords: Collection[str], pixels: bool) -> Dataset:
    with refuse_damage():
        meta = _read_meta(file)
        if meta.get("TransferSyntaxUID") not in SYNTAXES:
            raise refuse(meta, "TransferSyntaxUID", "one that `mcdiff-batch` reads", SYNTAX_ADVICE)
        file.seek(0)
        names = [*keywords, "SpecificCharacterSet", *(["PixelData"] if pixels else [])]
        dataset = pydicom.dcmread(file, stop_before_pixels=not pixels, specific_tags=names)
        for name in keywords:
            dataset.get(name)  # decodes it, here, where a damaged value is noticed
        return dataset


SYNTAX_ADVICE = "convert it, for example with `dcmconv` or `gdcmconv --raw`"


def _read_meta(file: BinaryIO) -> Dataset:
    file.seek(MAGIC + 4)
    return read_dataset(file, False, True, stop_when=lambda tag, _, __: tag.group > 2)


def read_media_class(path: Path) -> str:
    """The SOP class in the file's own header.  Raises Refusal, OSError."""
    with _Clamped(path) as file, refuse_damage():
        return str(_read_meta(file).get("MediaStorageSOPClassUID", ""))


def read_header(path: Path) -> Header | None:
    """The header of an image; None for an image that this program made.

    Raises Refusal where the file cannot be identified, OSError where it cannot be read.
    """
    dataset = read(path, KEYWORDS)
    with refuse_damage():
        if str(dataset.get("Manufacturer", "")) == PRODUCT:
            return None
        names = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
        instance, study, series = (_uid(dataset, x) for x in names)
        layout, problem = None, ""
        frames = 1
        try:
            frames = _frames(dataset)
            layout = read_layout(dataset)
        except Refusal as error:
            problem = str(error)
        return Header(
            path=path,
            sop_class=str(dataset.get("SOPClassUID", "")),
            uid=instance,
            study=study,
            series=series,
            patient=f"{dataset.get('IssuerOfPatientID', '')}/{dataset.get('PatientID', '')}",
            place=(_integer(dataset, "SeriesNumber"), _integer(dataset, "InstanceNumber")),
            frames=frames,
            compressed=dataset.file_meta.TransferSyntaxUID not in NATIVE,
            burned_in=str(dataset.get("BurnedInAnnotation") or "").upper(),
            layout=layout,
            problem=problem,
        )


def refuse(dataset: Dataset, keyword: str, expected: str, advice: str = "") -> Refusal:
    """The error for an element with a value that cannot be used."""
    tag = tag_for_keyword(keyword) or 0
    value = dataset.get(keyword)
    shown = getattr(value, "name", None) if isinstance(value, uid.UID) else value
    said = "absent" if value is None or value == "" else clean(_plain(shown))
    place = f"({tag >> 16:04X},{tag & 0xFFFF:04X}) {keyword}"
    return Refusal(f"{place} is {said}, expected {expected}" + (f"; {advice}" if advice else ""))


def _plain(value: object) -> object:
    if isinstance(value, pydicom.Sequence):
        return f"a sequence of {len(value)}"
    return list(value) if isinstance(value, pydicom.multival.MultiValue) else value


def _uid(dataset: Dataset, keyword: str) -> str:
    value = str(dataset.get(keyword) or "")
    if not is_uid(value):
        raise refuse(dataset, keyword, "a UID of digits and dots")
    return value


def is_uid(text: str) -> bool:
    return len(text) <= 64 and re.fullmatch(r"[0-9]+(\.[0-9]+)*", text) is not None


def _integer(dataset: Dataset, keyword: str) -> int | None:
    try:
        return int(dataset[keyword].value)
    except (KeyError, TypeError, ValueError):
        return None


def _count(dataset: Dataset, keyword: str, allowed: Collection[int], expected: str) -> int:
    value = _integer(dataset, keyword)
    if value is None or value not in allowed:
        raise refuse(dataset, keyword, expected)
    return value


def _frames(dataset: Dataset) -> int:
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
    if rows * columns * samples * allocated // 8 * _frames(dataset) > CHUNK_LIMIT:
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
    bits = 8 if dataset.PhotometricInterpretation == "PALETTE COLOR" else stored
    return Layout(
        rows=rows,
        columns=columns,
        box=box,
        spacing_mm=_spacing(dataset, region),
        dtype="u1" if bits <= 8 else "u2",
        white=(1 << bits) - 1,
        orientation=_orientation(dataset),
    )


def _check_display(dataset: Dataset, stored: int) -> None:
    """Refuses what would make the image that a doctor sees differ from the stored values."""
    for keyword in ("ModalityLUTSequence", "VOILUTSequence"):
        if dataset.get(keyword):
            raise refuse(dataset, keyword, "none", "apply it and export the image again")
    for keyword, neutral in (("RescaleSlope", 1), ("RescaleIntercept", 0)):
        if keyword in dataset and dataset.get(keyword) not in (None, "", neutral):
            raise refuse(dataset, keyword, str(neutral))
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
        raise refuse(dataset, "WindowWidth", f"a window from 0 to {white}", WINDOW_ADVICE)


WINDOW_ADVICE = "apply it and export the image again"


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
    found = [_integer(region, f"RegionLocation{x}") for x in names]
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


def _orientation(dataset: Dataset) -> str:
    """Raises Refusal unless the image is coronal with the head at the top, or says nothing."""
    value = dataset.get("PatientOrientation") or ()
    parts = [value] if isinstance(value, str) else [str(x) for x in value]
    if not any(parts):
        return ""
    if len(parts) != 2 or parts[0][:1] not in ("L", "R") or parts[1][:1] != "F":
        raise refuse(
            dataset, "PatientOrientation", "L\\F or R\\F, a coronal image, head at the top"
        )
    return "\\".join(parts)


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
    units = [_integer(region, f"PhysicalUnits{x}Direction") for x in "YX"]
    if not any(units):
        return None
    try:
        y, x = (10 * float(region[f"PhysicalDelta{x}"].value) for x in "YX")
    except (KeyError, TypeError, ValueError):
        y = x = math.nan
    if units != [3, 3] or not (0 < y < math.inf and 0 < x < math.inf):
        raise refuse(region, "PhysicalDeltaX", "a size in cm, in both directions")
    return y, x
