"""Finds PNG and TIFF files, and reads them as grey images, upright, white as the highest value."""

import ctypes
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError, _imaging

from mcdiff_batch.engine.errors import ArchiveError, McdiffError, UsageError, explain
from mcdiff_batch.engine.text import natural_order

from .archive import DEPTHS_LIMIT
from .store import describe_pointer

SUFFIXES = (".png", ".tif", ".tiff")
SYSTEM = re.compile(  # what operating systems and their shares leave in folders
    r"(eh)?thumbs(_vista)?\.db|desktop\.ini|folder\.htt|icon\r?|lost\+found|\$recycle\.bin|recycler"
    r"|system volume information|@(eadir|tmp|recycle|recently-snapshot)|#(recycle|snapshot)"
    r"|__macosx|network trash folder|temporary items|picasa\.ini|.*:zone\.identifier"
    r"|.*@syno(eastream|resource)|~\$.*"
    r"|(?!.*\.(png|tiff?)\b).*(\.tmp|~)",  # but "3.png.tmp" may be an unfinished copy
    re.IGNORECASE | re.DOTALL,
)
DTYPES = {
    **dict.fromkeys(("L", "LA", "P", "RGB", "RGBA"), "u1"),
    **dict.fromkeys(("I;16", "I;16L", "I;16B", "I;16N"), "u2"),
}
Tag = ExifTags.Base  # of TIFF too
TURNED = (5, 6, 7, 8)  # orientations that exchange y and x
PX_MM = (0.02, 2.0)  # sizes of a px in mm that a scan may have
USUAL_DPI = (72, 96, 100, 120, 144, 150, 200, 240, 300, 360, 400, 600, 1200)  # of screen and print
UNITS_MM = {"mm": 1.0, "cm": 10.0, "micron": 0.001, "um": 0.001, "inch": 25.4}  # of ImageJ


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What the header of an image file says: upright size in y, x px, "u1" or "u2", and white."""

    extent: tuple[int, int]
    dtype: str
    white: int  # the highest value that the pixels can have
    spacing_mm: tuple[float, float] | None = field(default=None, compare=False)  # y, x, if likely


def is_system_file(path: Path) -> bool:
    """Whether an operating system put it there, such as Thumbs.db."""
    return SYSTEM.fullmatch(path.name) is not None


def list_entries(folder: Path) -> tuple[list[Path], int]:
    """The entries of a folder in natural order, and how many hidden and system files it has.

    Raises UsageError or McdiffError where it cannot be read.
    """
    try:
        entries = sorted(folder.iterdir(), key=lambda x: natural_order(x.name))
    except OSError as error:
        raise explain(error, folder) from error
    shown = [x for x in entries if x.name[0] != "." and not is_system_file(x)]
    return shown, len(entries) - len(shown)


def find_cases(sources: Sequence[Path]) -> tuple[list[tuple[str, list[Path]]], int]:
    """Name and images of each case, and how many hidden and system files were passed over.

    Raises ArchiveError, UsageError.
    """
    cases: list[tuple[str, list[Path]]] = []
    skipped = 0
    for source in sources:
        if is_system_file(source):
            skipped += 1
            continue
        if not (source.exists() or source.is_symlink()):
            raise UsageError(f"{source}: there is no such file or folder; correct the name")
        if not source.is_dir():
            cases.append((source.stem, [source]))
            continue
        entries, more = list_entries(source)
        folders = [x for x in entries if x.is_dir()]
        skipped += more
        if not folders:
            cases.append((source.resolve().name, _pictures(source, entries)))
        elif len(folders) < len(entries):
            other = next(x for x in entries if not x.is_dir())
            raise ArchiveError(
                f"{source}: has files and folders, such as {other.name}, expected only one kind; "
                "move the files away, or name the folders as sources"
            )
        for folder in folders:
            inside, more = list_entries(folder)
            skipped += more
            cases.append((folder.name, _pictures(folder, inside)))
    return cases, skipped


def _pictures(folder: Path, entries: Iterable[Path]) -> list[Path]:
    """The entries of a case's folder.  Raises ArchiveError unless all of them are images."""
    pictures = list(entries)
    for other in (x for x in pictures if x.is_dir() or x.suffix.lower() not in SUFFIXES):
        raise ArchiveError(
            f"{other}: expected only PNG or TIFF images in this folder; convert it if it is an "
            "image, else move it away, or import a copy of the folder without it"
        )
    if not 1 <= len(pictures) <= DEPTHS_LIMIT:
        raise ArchiveError(
            f"{folder}: has {len(pictures)} images, expected the 1 to {DEPTHS_LIMIT} depths of one "
            "case; for cases of one depth, name the files instead of the folder"
        )
    return pictures


def read_header(path: Path) -> Header:
    """Reads only the header.  Raises ArchiveError unless it is a PNG or TIFF of 8 or 16 bit."""
    with _open(path) as image:
        return _parse_header(path, image)


def read_grey(path: Path) -> npt.NDArray[Any]:
    """Grey values [y, x].  A colour image is read if all its pixels are grey and opaque.

    Raises ArchiveError, also if the pixels are not what the header says.
    """
    with _open(path) as image:
        header = _parse_header(path, image)
        inverted = header.dtype == "u2" and _tag(image, Tag.PhotometricInterpretation) == 0
        image.load()  # Pillow turns a TIFF upright here, which its header then no longer tells
        upright = ImageOps.exif_transpose(image)
        if header.dtype == "u2":
            grey = np.asarray(upright).astype(np.uint16)
            clear = image.info.get("transparency")
            opaque = clear is None or not (grey == clear).any()
            grey = header.white - grey if inverted else grey
        else:
            colour = np.asarray(upright.convert("RGBA"))
            opaque = bool(
                (colour[..., 3] == 255).all() and (colour[..., :3] == colour[..., :1]).all()
            )
            grey = np.ascontiguousarray(colour[..., 0])
    if not opaque:
        raise ArchiveError(f"{path}: is coloured or transparent, expected grey; convert the image")
    if grey.shape != header.extent or grey.dtype != header.dtype or grey.max() > header.white:
        raise ArchiveError(
            f"{path}: its pixels are {grey.shape} up to {grey.max()}, its header says "
            f"{header.extent} up to {header.white}; save the image again"
        )
    return grey


def _parse_header(path: Path, image: Image.Image) -> Header:
    """Raises ArchiveError for what Pillow could only read with a loss, or by guessing."""
    dtype = DTYPES.get(image.mode)
    bits, signs = _bits(image), _tags(image, Tag.SampleFormat) or (1,)
    if dtype is None or set(signs) != {1} or (bits > 8) != (dtype == "u2"):
        raise ArchiveError(
            f"{path}: pixels are {image.mode} of {bits} bit, expected grey of 8 or 16 bit without "
            "sign; convert all images to grey of 16 bit, with the same scale for all"
        )
    if getattr(image, "n_frames", 1) != 1:
        raise ArchiveError(
            f"{path}: has several pages, expected one; make a file of each page (for a TIFF "
            "`tiffsplit FILE depth_` does that, of the package libtiff-tools)"
        )
    width, height = image.size
    if _is_tiff(image):  # Pillow's size of a TIFF may be that after turning
        width, height = _tag(image, Tag.ImageWidth), _tag(image, Tag.ImageLength)
    turned = Image.Image.getexif(image).get(Tag.Orientation) in TURNED
    spacing = _stated_spacing(image)
    return Header(
        extent=(width, height) if turned else (height, width),
        dtype=dtype,
        white=(1 << bits) - 1 if dtype == "u2" else 255,
        spacing_mm=spacing[::-1] if spacing and turned else spacing,
    )


def _is_tiff(image: Image.Image) -> TypeGuard[TiffImagePlugin.TiffImageFile]:
    return isinstance(image, TiffImagePlugin.TiffImageFile)


def _tags(image: Image.Image, number: int) -> tuple[Any, ...]:
    """The values of a tag of a TIFF; none for other files."""
    if not _is_tiff(image):
        return ()
    value = image.tag_v2.get(number, ())
    return value if isinstance(value, tuple) else (value,)


def _tag(image: Image.Image, number: int) -> Any:
    return next(iter(_tags(image, number)), None)


def _bits(image: Image.Image) -> int:
    """Bits of a sample."""
    if _is_tiff(image):
        return max(_tags(image, Tag.BitsPerSample), default=1)
    tiles = getattr(image, "tile", None)  # of a PNG: how its pixels are stored, such as "LA;16B"
    raw = str(tiles[0].args) if tiles else image.mode
    return 16 if "16" in raw else 8


def _stated_spacing(image: Image.Image) -> tuple[float, float] | None:
    """y, x mm of a px, by the resolution in the header; None where it says nothing of a scan."""
    if "dpi" in image.info:
        x, y = (25.4 / float(v) if v else 0.0 for v in image.info["dpi"])
    else:  # ImageJ writes px per unit, and the unit in the description
        description = str(_tag(image, Tag.ImageDescription))
        unit = re.search(r"^unit=(\w+)", description, re.MULTILINE)
        scale = UNITS_MM.get(unit[1].lower()) if unit else None
        if scale is None:
            return None
        x, y = (
            scale / float(v) if v else 0.0
            for v in (_tag(image, Tag.XResolution), _tag(image, Tag.YResolution))
        )
    usual = any(abs(25.4 / v / dpi - 1) < 1e-3 for v in (y, x) for dpi in USUAL_DPI if v)
    likely = all(PX_MM[0] <= v <= PX_MM[1] for v in (y, x)) and not usual
    return (float(f"{y:.3g}"), float(f"{x:.3g}")) if likely else None


@contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    """Turns all errors of Pillow, such as a decompression bomb, into ArchiveError."""
    if not path.is_file():
        raise ArchiveError(f"{path}: {_describe_absence(path)}")
    _silence_libtiff()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            # not by its name: Pillow maps such a file into memory, and turns it wrongly
            with path.open("rb") as file, Image.open(file, formats=("PNG", "TIFF")) as image:
                yield image
    except UnidentifiedImageError as error:
        with path.open("rb") as file:
            pointer = describe_pointer(file.read(200))
        found = pointer or "is not a PNG or TIFF image that can be read; convert it"
        raise ArchiveError(f"{path}: {found}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ArchiveError(f"{path}: has too many pixels for a scan; scale it down") from error
    except McdiffError:
        raise
    except Exception as error:  # damaged files make Pillow raise almost anything
        if isinstance(error, OSError) and error.errno is not None:  # the system's, not Pillow's
            raise explain(error, path) from error
        raise ArchiveError(
            f"{path}: cannot be read as an image; copy it again or convert it"
        ) from error


@cache
def _silence_libtiff() -> None:
    """libtiff prints on stderr what is wrong with a file, and Pillow has no option against that."""
    with suppress(OSError, AttributeError):  # a Pillow without libtiff, or with all of it inside
        library = ctypes.CDLL(_imaging.__file__)  # finds what it was linked with, too
        library.TIFFSetErrorHandler(None)
        library.TIFFSetWarningHandler(None)


def _describe_absence(path: Path) -> str:
    if path.is_symlink() and "annex" in path.readlink().parts:
        return "is a link of git-annex whose content is not here; fetch it with `git annex get .`"
    if path.is_symlink():
        return "is a link to a file that is not there, expected an image; restore the file"
    return "is not a file, expected a PNG or TIFF image"
