"""PNG and TIFF files as grey images, read with suspicion."""

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
    """What a picture's header says: y, x px, and "u1" or "u2"."""

    extent: tuple[int, int]
    dtype: str


def natural_order(path: Path) -> tuple[Any, ...]:
    """Sorts depth_2 before depth_10."""
    parts = re.split(r"([0-9]+)", path.name)
    return [int(x) if k % 2 else x for k, x in enumerate(parts)], path.name


def read_header(path: Path) -> Header:
    """Decodes nothing.  Raises ArchiveError where `path` is no grey PNG or TIFF of 8 or 16 bit."""
    with _opened(path) as picture:
        if picture.mode not in DTYPES:
            raise ArchiveError(
                f"{path}: pixels are {picture.mode}, expected grey of 8 or 16 bit; convert it"
            )
        if getattr(picture, "n_frames", 1) != 1:
            raise ArchiveError(f"{path}: holds several pages, expected one; split it into files")
        return Header(extent=(picture.height, picture.width), dtype=DTYPES[picture.mode])


def read_grey(path: Path) -> npt.NDArray[Any]:
    """Grey values [y, x].  Colour is accepted where its channels are equal and it is opaque."""
    with _opened(path) as picture:
        if DTYPES.get(picture.mode) == "u2":
            return np.asarray(picture).astype(np.uint16)
        colour = np.asarray(picture.convert("RGBA"))
    if not (colour[..., :3] == colour[..., :1]).all() or not (colour[..., 3] == 255).all():
        raise ArchiveError(f"{path}: is coloured or transparent, expected grey; convert it to grey")
    return np.ascontiguousarray(colour[..., 0])


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Pillow's own refusals, among them its limit on decompression bombs, become ArchiveError."""
    if not path.is_file():
        raise ArchiveError(f"{path}: is no file, expected a PNG or TIFF image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(path, formats=("PNG", "TIFF")) as picture:
                yield picture
    except UnidentifiedImageError as error:
        raise ArchiveError(f"{path}: is no PNG or TIFF image; convert it to one") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ArchiveError(f"{path}: has too many pixels to be a scan; refused") from error
    except McdiffError:
        raise
    except Exception as error:  # hostile files make Pillow raise almost anything
        raise ArchiveError(f"{path}: cannot be read as an image; copy or convert it") from error
