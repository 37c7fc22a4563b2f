"""Reads DICOM files without trusting them: the elements that are asked for, or a Refusal.

pydicom is not given a file before its transfer syntax is known, because it would inflate a deflated
one without a limit; and it never reads past the end, whatever length an element claims.
"""

import io
import os
import re
import stat
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom import config, uid
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from mcdiff_batch.engine.archive.metadata import CHUNK_LIMIT
from mcdiff_batch.engine.text import clean

NATIVE = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian)
JPEG = (
    *(uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1),
    *(uid.JPEGLSLossless, uid.JPEGLSNearLossless),
)
JPEG_2000 = (uid.JPEG2000Lossless, uid.JPEG2000)
SYNTAXES = (*NATIVE, *JPEG, *JPEG_2000, uid.RLELossless)
MAGIC = 128  # bytes before "DICM"
SUFFIXES = (".dcm", ".dicom", ".ima")  # a file with such a name has to be DICOM
FILE_LIMIT = CHUNK_LIMIT + (16 << 20)  # bytes of an image with its header
CONVERT = "convert it, for example with `dcmconv` or `gdcmconv --raw`"


class Refusal(Exception):
    """A file that cannot be used; the message says which tag, its value and what was expected."""


class _Clamped(io.BufferedReader):
    """A file of which no more is read than there is, whatever length an element claims.

    Raises Refusal for what is no file, such as a pipe, which would never end.
    """

    def __init__(self, path: Path) -> None:
        raw = io.FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), closefd=True)
        super().__init__(raw)
        facts = os.fstat(raw.fileno())
        self.size = facts.st_size
        if not stat.S_ISREG(facts.st_mode):
            self.close()
            raise Refusal("is not a file, expected a DICOM image; move it away")

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, self.size - self.tell())
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
    with _Clamped(path) as file:
        found = file.read(MAGIC + 4)[MAGIC:] == b"DICM"
    if not found and path.suffix.lower() in SUFFIXES:
        raise Refusal("does not begin as a DICOM file does; copy it again, or move it away")
    return found


def read(source: Path | bytes, keywords: Collection[str], pixels: bool = False) -> Dataset:
    """The named elements of a file or of its bytes, and the pixel data if asked for.

    Raises Refusal, OSError.
    """
    if isinstance(source, bytes):
        return _read(io.BytesIO(source), keywords, pixels)
    with _Clamped(source) as file:
        if file.size > FILE_LIMIT:
            raise Refusal(f"has {file.size} bytes, expected an image of at most {FILE_LIMIT}")
        return _read(file, keywords, pixels)


def _read(file: BinaryIO, keywords: Collection[str], pixels: bool) -> Dataset:
    with refuse_damage():
        meta = _read_meta(file)
        if meta.get("TransferSyntaxUID") not in SYNTAXES:
            raise refuse(meta, "TransferSyntaxUID", "one that `mcdiff-batch` reads", CONVERT)
        file.seek(0)
        names = [*keywords, "SpecificCharacterSet", *(["PixelData"] if pixels else [])]
        dataset = pydicom.dcmread(file, stop_before_pixels=not pixels, specific_tags=names)
        for name in keywords:
            dataset.get(name)  # decodes it, here, where a damaged value is noticed
        return dataset


def _read_meta(file: BinaryIO) -> Dataset:
    file.seek(MAGIC + 4)
    return read_dataset(file, False, True, stop_when=lambda tag, _, __: tag.group > 2)


def read_media_class(path: Path) -> str:
    """The SOP class in the file's own header.  Raises Refusal, OSError."""
    with _Clamped(path) as file, refuse_damage():
        return str(_read_meta(file).get("MediaStorageSOPClassUID", ""))


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


def is_uid(text: str) -> bool:
    return len(text) <= 64 and re.fullmatch(r"[0-9]+(\.[0-9]+)*", text) is not None


def integer(dataset: Dataset, keyword: str) -> int | None:
    try:
        return int(dataset[keyword].value)
    except (KeyError, TypeError, ValueError):
        return None
