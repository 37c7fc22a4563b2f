"""Shards of images.zarr: one file per unit and image array, one inner chunk per case.

A case that is not done has no chunk; a black image has one (P5).  This module encodes shards
itself, with the bytes that zarr would write: zarr cannot leave out a case or fsync, and workers
start faster without it.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numcodecs.zstd import Zstd  # type: ignore[import-untyped]

from mcdiff_batch.engine.archive.codecs import append_crc32c
from mcdiff_batch.engine.image.frame import Frame, Pixels, from_frame, nearest_from_frame

from . import durable
from .ledger import Shard

FOLDER = "images.zarr"
# in the order of Entry.pixels; `spread` exists only with several draws
IMAGES = ("enhanced", "label", "spread")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Shape of the image arrays: [cases, height, width] in shards of `unit_size` cases."""

    cases: int
    unit_size: int
    frame: Frame
    grid: tuple[int, int] | None  # (y, x) px of the input's grid; None: the frame
    spread: bool = False  # whether there are several draws

    @property
    def images(self) -> tuple[str, ...]:
        """Names of the image arrays."""
        return IMAGES if self.spread else IMAGES[:2]

    @property
    def image(self) -> tuple[int, int]:
        """Height and width, px."""
        return self.grid or (self.frame.height, self.frame.width)


def to_grid(
    images: Mapping[str, Pixels], extent: tuple[int, int], layout: Layout
) -> dict[str, Pixels]:
    """A case's images, resampled from the frame to the output's grid.

    Label maps are resampled to the nearest value.
    """
    if layout.grid is None:
        return dict(images)
    return {
        name: _pad(
            nearest_from_frame(image, extent)
            if name == "label"
            else np.rint(from_frame(image, extent)).astype(np.uint8),
            layout.grid,
        )
        for name, image in images.items()
    }


def _pad(image: Pixels, grid: tuple[int, int]) -> Pixels:
    out = np.zeros(grid, np.uint8)
    out[: image.shape[0], : image.shape[1]] = image
    return out


def hash_pixels(images: Iterable[Pixels]) -> str:
    """SHA-256 of a case's images together."""
    return hashlib.sha256(b"".join(image.tobytes() for image in images)).hexdigest()


def encode_chunk(image: Pixels) -> bytes:
    """One image, compressed as zarr's ZstdCodec(checksum=True) does it."""
    return bytes(Zstd(level=0, checksum=True).encode(np.ascontiguousarray(image)))


def encode_shard(chunks: Mapping[int, bytes], size: int) -> bytes | None:
    """A shard of `size` cases; None if it has no chunks.

    chunks: by place in the unit.  The layout is that of zarr's sharding codec: the chunks, an
    index with the offset and length of each (2^64 - 1 if absent), the CRC-32C of the index.
    """
    index = np.full((size, 2), 2**64 - 1, "<u8")
    offset = 0
    for slot in sorted(chunks):
        index[slot] = offset, len(chunks[slot])
        offset += len(chunks[slot])
    parts = [chunks[slot] for slot in sorted(chunks)]
    return b"".join([*parts, append_crc32c(index.tobytes())]) if parts else None


def shard_name(array: str, unit: int) -> str:
    """Name of a shard in the output."""
    return f"{FOLDER}/{array}/c/{unit}/0/0"


def folders(layout: Layout, units: Iterable[int]) -> Iterator[str]:
    """Names of the folders of images.zarr, of the parts that belong to `units` and to all."""
    yield FOLDER
    for array in layout.images:
        yield from (f"{FOLDER}/{array}", f"{FOLDER}/{array}/c")
        for unit in units:
            yield from (f"{FOLDER}/{array}/c/{unit}", f"{FOLDER}/{array}/c/{unit}/0")


def describe(shards: Mapping[str, bytes | None]) -> dict[str, Shard]:
    """What a record says of the shards of its unit."""
    return {
        array: Shard(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        for array, data in shards.items()
        if data is not None
    }


def write(root: Path, unit: int, shards: Mapping[str, bytes | None]) -> None:
    """Writes the shards of a unit; None: there is none.  Raises as `Files` of durable.py do."""
    files = durable.files(root)
    for array, data in shards.items():
        if data is None:
            files.remove(shard_name(array, unit))
        else:
            files.write(shard_name(array, unit), data)
