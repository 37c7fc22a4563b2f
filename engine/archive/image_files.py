"""Reads PNG and TIFF files as grey images."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from mcdiff_batch.engine.errors import ArchiveError, McdiffError

SUFFIXES = (".png", ".tif", ".tiff")
DTYPES = {
    **dict.fromkeys(("L", "LA", "P", "RGB", "RGBA"), "u1"),
    **dict.fromkeys(("I;16", "I;16L", "I;16B", "I;16N"), "u2"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What the header of an image file says: size in y, x px, and "u1" or "u2"."""

    extent: tuple[int, int]
    dtype: str


def natural_order(path: Path) -> tuple[Any, ...]:
    """A sort key that puts depth_2 before depth_10."""
    parts = re.split(r"([0-9]+)", path.name)
    return [int(x) if k % 2 else x for k, x in enumerate(parts)], path.name


def read_header(path: Path) -> Header:
    """Reads only the header.  Raises ArchiveError unless it is a PNG or TIFF of 8 or 16 bit."""
    with _open(path) as image:
        if image.mode not in DTYPES:
            raise ArchiveError(
                f"{path}: pixels are {image.mode}, expected grey of 8 or 16 bit; convert the image"
            )
        if getattr(image, "n_frames", 1) != 1:
            raise ArchiveError(f"{path}: has several pages, expected one; split it into files")
        return Header(extent=(image.height, image.width), dtype=DTYPES[image.mode])


def read_grey(path: Path) -> npt.NDArray[Any]:
    """Grey values [y, x].  A colour image is read if all its pixels are grey and opaque.

    Raises ArchiveError.
    """
    with _open(path) as image:
        if DTYPES.get(image.mode) == "u2":
            return np.asarray(image).astype(np.uint16)
        colour = np.asarray(image.convert("RGBA"))
    if not (colour[..., :3] == colour[..., :1]).all() or not (colour[..., 3] == 255).all():
        raise ArchiveError(f"{path}: is coloured or transparent, expected grey; convert the image")
    return np.ascontiguousarray(colour[..., 0])


@contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    """Turns all errors of Pillow, such as a decompression bomb, into ArchiveError."""
    if not path.is_file():
        raise ArchiveError(f"{path}: is not a file, expected a PNG or TIFF image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(path, formats=("PNG", "TIFF")) as image:
                yield image
    except UnidentifiedImageError as error:
        raise ArchiveError(f"{path}: is not a PNG or TIFF image; convert it") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ArchiveError(f"{path}: has too many pixels for a scan; scale it down") from error
    except McdiffError:
        raise
    except Exception as error:  # damaged files make Pillow raise almost anything
        raise ArchiveError(
            f"{path}: cannot be read as an image; copy it again or convert it"
        ) from error
