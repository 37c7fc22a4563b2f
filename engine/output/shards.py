"""Shards of images.zarr: one per unit and image array, in it one inner chunk per case.

They are put together here, byte for byte as zarr would (tested): zarr can neither leave a case
absent in one write nor fsync, and workers start faster without it.  An absent inner chunk is a case
that is not done, never a black one.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numcodecs.zstd import Zstd  # type: ignore[import-untyped]

from mcdiff_batch.engine.archive.codecs import with_crc32c
from mcdiff_batch.engine.image.frame import Frame, Pixels, from_frame, nearest_from_frame

from . import durable
from .ledger import Shard

FOLDER = "images.zarr"
IMAGES = ("enhanced", "label", "spread")  # all there can be, in the order they are hashed in


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Shape of the image arrays: [cases, height, width] in shards of `unit_size` cases."""

    cases: int
    unit_size: int
    frame: Frame
    grid: tuple[int, int] | None  # (y, x) px of the input's padded grid; None: the frame
    spread: bool = False  # over several draws

    @property
    def images(self) -> tuple[str, ...]:
        """The arrays that there are, of IMAGES."""
        return IMAGES if self.spread else IMAGES[:2]

    @property
    def image(self) -> tuple[int, int]:
        return self.grid or (self.frame.height, self.frame.width)


def on_grid(
    images: Mapping[str, Pixels], extent: tuple[int, int], layout: Layout
) -> dict[str, Pixels]:
    """A case's images by name, from the frame to the output's grid; labels keep their values."""
    if layout.grid is None:
        return dict(images)
    return {
        name: _cornered(
            nearest_from_frame(image, extent)
            if name == "label"
            else np.rint(from_frame(image, extent)).astype(np.uint8),
            layout.grid,
        )
        for name, image in images.items()
    }


def _cornered(image: Pixels, grid: tuple[int, int]) -> Pixels:
    out = np.zeros(grid, np.uint8)
    out[: image.shape[0], : image.shape[1]] = image
    return out


def pixels_sha256(images: Iterable[Pixels]) -> str:
    return hashlib.sha256(b"".join(image.tobytes() for image in images)).hexdigest()


def encode_chunk(image: Pixels) -> bytes:
    """One case, as zarr's ZstdCodec(checksum=True) has it."""
    return bytes(Zstd(level=0, checksum=True).encode(np.ascontiguousarray(image)))


def encode_shard(chunks: Mapping[int, bytes], size: int) -> bytes | None:
    """A shard of `size` cases from slot -> chunk; None where there are none.

    The sharding codec's layout: the chunks, then (offset, length) of each, 2^64 - 1 where absent,
    then the CRC-32C of these.
    """
    index = np.full((size, 2), 2**64 - 1, "<u8")
    offset = 0
    for slot in sorted(chunks):
        index[slot] = offset, len(chunks[slot])
        offset += len(chunks[slot])
    parts = [chunks[slot] for slot in sorted(chunks)]
    return b"".join([*parts, with_crc32c(index.tobytes())]) if parts else None


def shard_name(array: str, unit: int) -> str:
    return f"{FOLDER}/{array}/c/{unit}/0/0"


def commit(root: Path, unit: int, shards: Mapping[str, bytes | None]) -> dict[str, Shard]:
    """Makes a unit's shards durable; what to write to its record.  Raises as durable.write."""
    committed = {}
    for array, data in shards.items():
        name = shard_name(array, unit)
        if data is None:
            durable.remove(root, name)
            continue
        durable.write(root, name, data)
        committed[array] = Shard(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    return committed
