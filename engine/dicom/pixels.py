"""Decodes the pixels of a DICOM image to grey, within the size that its header declares."""

import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels import apply_color_lut, get_decoder
from pydicom.uid import ExplicitVRBigEndian, RLELossless

from .headers import KEYWORDS, Header
from .layout import Layout, read_layout
from .reading import JPEG, NATIVE, Refusal, read, refuse, refuse_damage

Grey = npt.NDArray[Any]  # [depth, y, x], u1 or u2
DETAILS = (
    *("PlanarConfiguration", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("RedPaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData"),
    *("GreenPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableData"),
    *("BluePaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableData"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
)
FRAMES_OF_JPEG = {0xC0, 0xC1, 0xC2, 0xC3, 0xF7}  # markers that hold the size of the image

END_OF_IMAGE = b"\xff\xd9"  # of JPEG


def read_pixels(header: Header) -> Grey:
    """The scan in a file, [depth, y, x], cropped to its region; black is 0.

    Raises Refusal, OSError.
    """
    assert header.layout is not None
    dataset = read(header.path, (*KEYWORDS, *DETAILS), pixels=True)
    with refuse_damage("its pixels cannot be decoded; copy or export it again"):
        _check_size(dataset, header)
        if dataset.file_meta.TransferSyntaxUID == ExplicitVRBigEndian:
            _swap_palette(dataset)
        with _refuse_complaints():
            frames = list(_decode(dataset))
        return np.stack([_grey(dataset, frame, header.layout) for frame in frames])


@contextmanager
def _refuse_complaints() -> Iterator[None]:
    """Raises Refusal where a decoder writes to stderr.

    libjpeg inside GDCM returns an image that is grey from where the data are damaged, and only
    complains.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    with TemporaryFile() as complaints:
        os.dup2(complaints.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
        if complaints.seek(0, os.SEEK_END):
            raise Refusal("(7FE0,0010) PixelData is damaged; copy or export it again")


def _decode(dataset: Dataset) -> Iterator[npt.NDArray[Any]]:
    """Frames as stored, colours as RGB."""
    decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
    for index in range(int(dataset.get("NumberOfFrames") or 1)):
        yield decoder.as_array(dataset, index=index, correct_unused_bits=False)[0]


def _check_size(dataset: Dataset, header: Header) -> None:
    """Refuses pixel data that do not fit the header, before a decoder sees them."""
    layout = header.layout
    if layout != read_layout(dataset) or "PixelData" not in dataset:
        raise Refusal("has no pixel data, or was changed while it was read; copy it again")
    assert layout is not None
    samples = int(dataset.SamplesPerPixel)
    pixels, width = layout.rows * layout.columns, dataset.BitsAllocated // 8
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax in NATIVE:
        halved = dataset.PhotometricInterpretation == "YBR_FULL_422"
        size = pixels * width * (2 if halved else samples) * header.frames
        if len(dataset.PixelData) not in (size, size + size % 2):
            raise Refusal(
                f"(7FE0,0010) PixelData has {len(dataset.PixelData)} bytes, expected {size} for "
                f"{layout.rows} x {layout.columns} px"
            )
        return
    for frame in generate_frames(dataset.PixelData, number_of_frames=header.frames):
        if syntax == RLELossless:
            _check_rle(frame, pixels, samples * width)
            continue
        if syntax in JPEG and not frame.rstrip(b"\0").endswith(END_OF_IMAGE):
            raise Refusal("(7FE0,0010) PixelData ends in the middle of an image; copy it again")
        found = _jpeg_size(frame) if syntax in JPEG else _jpeg_2000_size(frame)
        if found != (layout.rows, layout.columns, samples):
            raise Refusal(
                f"(7FE0,0010) PixelData holds a compressed image of {found} rows, columns and "
                f"samples, expected {(layout.rows, layout.columns, samples)}"
            )


def _jpeg_size(data: bytes) -> tuple[int, int, int]:
    """Rows, columns and samples that a JPEG or JPEG-LS stream promises."""
    at = 2
    while data[:2] == b"\xff\xd8" and at + 10 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker in FRAMES_OF_JPEG:
            rows, columns, samples = struct.unpack(">HHB", data[at + 5 : at + 10])
            return rows, columns, samples
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    raise Refusal("(7FE0,0010) PixelData is not JPEG, expected what TransferSyntaxUID says")


def _jpeg_2000_size(data: bytes) -> tuple[int, int, int]:
    """Rows, columns and samples that a JPEG 2000 codestream promises."""
    if data[:4] != b"\xff\x4f\xff\x51" or len(data) < 42:
        raise Refusal(
            "(7FE0,0010) PixelData is not JPEG 2000, expected what TransferSyntaxUID says"
        )
    right, bottom, left, top = struct.unpack(">4I", data[8:24])
    return bottom - top, right - left, int.from_bytes(data[40:42])


def _check_rle(data: bytes, size: int, planes: int) -> None:
    """Walks the run lengths: each of the planes has to come to `size` bytes, and no more."""
    count, *starts = struct.unpack("<16I", data[:64].ljust(64, b"\0"))
    if count != planes:
        raise Refusal(f"(7FE0,0010) PixelData has {count} RLE segments, expected {planes}")
    for start, end in zip(starts, [*starts[1:count], len(data)], strict=False):
        at, length = start, 0
        while at < end and length < size:
            control = data[at]
            length += control + 1 if control < 128 else 257 - control if control > 128 else 0
            at += control + 2 if control < 128 else 2 if control > 128 else 1
        if length != size or end - at > 1:
            raise Refusal(f"(7FE0,0010) PixelData has an RLE segment that is not {size} bytes long")


def _grey(dataset: Dataset, frame: npt.NDArray[Any], layout: Layout) -> npt.NDArray[Any]:
    """A frame [y, x] or [y, x, 3] as grey levels, cropped to the scan; black is 0."""
    box = layout.box
    if frame.shape[:2] != (layout.rows, layout.columns):
        raise Refusal(f"decodes to {frame.shape} px, expected {(layout.rows, layout.columns)}")
    area = frame[box.top : box.top + box.height, box.left : box.left + box.width]
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        area = _apply_palette(area, dataset)
    if area.ndim == 3:
        if not (area == area[..., :1]).all():
            raise refuse(
                dataset, "PhotometricInterpretation", "an image that is grey inside the region"
            )
        area = area[..., 0]
    if area.max() > layout.white:
        raise refuse(dataset, "BitsStored", f"enough bits for the value {area.max()}")
    padding = _padding(area, dataset)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        area = layout.white - area
    return np.where(padding, 0, area).astype(layout.dtype)


def _padding(area: npt.NDArray[Any], dataset: Dataset) -> npt.NDArray[np.bool_]:
    """The px that the header says are no part of the image."""
    value = dataset.get("PixelPaddingValue")
    if value in (None, ""):
        return np.zeros(area.shape, bool)
    limit = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((int(value), int(value if limit in (None, "") else limit)))
    return np.asarray((area >= low) & (area <= high))


def _apply_palette(area: npt.NDArray[Any], dataset: Dataset) -> npt.NDArray[Any]:
    """Colours [y, x, 3] of 8 bit.

    Palettes of 16 bit hold each level of 8 bit times 256 or 257; others are refused.
    """
    colours = apply_color_lut(area, dataset)
    if colours.dtype == np.uint8:
        return np.asarray(colours)
    levels = colours >> 8
    if not ((colours & 255 == 0) | (colours & 255 == levels)).all():
        raise refuse(dataset, "RedPaletteColorLookupTableDescriptor", "a palette of 256 levels")
    return np.asarray(levels, np.uint8)


def _swap_palette(dataset: Dataset) -> None:
    """Makes a palette of 16 bit little endian, which pydicom takes it for."""
    for name in ("Red", "Green", "Blue"):
        descriptor = dataset.get(f"{name}PaletteColorLookupTableDescriptor")
        if descriptor and int(descriptor[2]) == 16:
            element = dataset[f"{name}PaletteColorLookupTableData"]
            element.value = np.frombuffer(element.value, ">u2").astype("<u2").tobytes()
