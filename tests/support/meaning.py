"""Archives whose metadata say something of their values."""

from pathlib import Path
from typing import Any

import numcodecs
import numpy.typing as npt
import pytest
import zarr

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.errors import ArchiveError
from tests.support.crafting import Json, pictures, write_archive

SPACED = {"pixel_spacing_mm": 5}
V2: Json = {"compressors": numcodecs.GZip(level=1)}


def archive(
    path: Path, array: Json | None = None, *, group: Json | None = None, **more: Any
) -> Path:
    """Three cases that give no warning, with attributes of `depths` and of the group."""
    write_archive(path, more.pop("images", pictures()), **{"attributes": SPACED} | more)
    root = zarr.open_group(path)
    root["depths"].attrs.update(array or {})
    root.attrs.update(group or {})
    return path


def column(path: Path, name: str, values: npt.NDArray[Any], attributes: Json, **more: Any) -> None:
    made = zarr.open_group(path).create_array(
        name, shape=values.shape, dtype=values.dtype, attributes=attributes, **more
    )
    made[...] = values


def refusal(path: Path) -> str:
    with pytest.raises(ArchiveError) as caught:
        open_archive(path)
    assert "expected" in str(caught.value)
    return str(caught.value)
