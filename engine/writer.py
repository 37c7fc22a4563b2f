"""images.zarr: one zarr v3 group, one shard per unit and image array, one inner chunk per case.

Shards are put together here, byte for byte as zarr would (tested), because zarr can neither leave a
case absent in one write nor fsync.  An absent inner chunk is a case that is not done, never black.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from numcodecs.checksum32 import CRC32C  # type: ignore[import-untyped]
from numcodecs.zstd import Zstd  # type: ignore[import-untyped]
from zarr.codecs import ZstdCodec
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from . import durable
from .frame import Frame, from_frame, nearest_from_frame, place
from .ledger import DONE, FAILED, SKIPPED, Entry, Shard

FOLDER = "images.zarr"
IMAGES = ("enhanced", "label")
CODES = {DONE: 1, FAILED: 2, SKIPPED: 3}  # 0: not processed
PLACEMENT = ("scale", "top", "left", "height", "width")
Pixels = npt.NDArray[np.uint8]
Pair = tuple[Pixels, Pixels]  # enhanced, label
Files = dict[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Shape of the image arrays: [cases, height, width] in shards of `unit_size` cases."""

    cases: int
    unit_size: int
    frame: Frame
    grid: tuple[int, int] | None  # (y, x) px of the input's padded grid; None: the frame

    @property
    def image(self) -> tuple[int, int]:
        return self.grid or (self.frame.height, self.frame.width)


def files(layout: Layout, about: Mapping[str, Any]) -> Files:
    """The group's metadata, to be written before the first unit; `about` goes to its attributes."""
    held: dict[str, Buffer] = {}
    group = zarr.create_group(MemoryStore(held), attributes={"mcdiff": dict(about)})
    for name in IMAGES:
        group.create_array(
            name,
            shape=(layout.cases, *layout.image),
            shards=(layout.unit_size, *layout.image),
            chunks=(1, *layout.image),
            dtype="u1",
            fill_value=0,
            compressors=ZstdCodec(checksum=True),
            dimension_names=("case", "y", "x"),
        )
    return _named(held)


def columns(layout: Layout, entries: Iterable[Entry]) -> Files:
    """One value a case, [cases]: status, quality, and where the image lies on the frame."""
    table: dict[str, npt.NDArray[Any]] = {"status": np.zeros(layout.cases, np.uint8)}
    for entry in entries:
        table["status"][entry.case] = CODES.get(entry.status, 0)
        for name, value in _measures(entry, layout.frame).items():
            if name not in table:
                table[name] = np.full(layout.cases, np.nan, np.float32)
            table[name][entry.case] = np.nan if value is None else value
    held: dict[str, Buffer] = {}
    group = zarr.create_group(MemoryStore(held))
    for name, values in sorted(table.items()):
        _column(group, name, values)
    return {name: data for name, data in _named(held).items() if name != f"{FOLDER}/zarr.json"}


def _measures(entry: Entry, frame: Frame) -> dict[str, float | None]:
    where = place(entry.extent, frame).as_dict() if entry.extent else {}
    return {**entry.quality, **{name: where[name] for name in PLACEMENT if where}}


def _column(group: zarr.Group, name: str, values: npt.NDArray[Any]) -> None:
    group.create_array(
        name,
        data=values,
        chunks=(max(1, len(values)),),
        fill_value=0 if name == "status" else float("nan"),
        compressors=ZstdCodec(checksum=True),
        dimension_names=("case",),
        attributes={"codes": {"not processed": 0, **CODES}} if name == "status" else {},
        config={"write_empty_chunks": True},
    )


def _named(held: Mapping[str, Buffer]) -> Files:
    return {f"{FOLDER}/{key}": buffer.to_bytes() for key, buffer in held.items()}


def on_grid(image: Pixels, labels: Pixels, extent: tuple[int, int], layout: Layout) -> Pair:
    """A case's enhanced image and label map, from the frame to the output's grid."""
    if layout.grid is None:
        return image, labels
    back = np.rint(from_frame(image, extent)).astype(np.uint8)
    return _cornered(back, layout.grid), _cornered(nearest_from_frame(labels, extent), layout.grid)


def _cornered(image: Pixels, grid: tuple[int, int]) -> Pixels:
    out = np.zeros(grid, np.uint8)
    out[: image.shape[0], : image.shape[1]] = image
    return out


def pixels_sha256(images: Pair) -> str:
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
    return b"".join([*parts, bytes(CRC32C(location="end").encode(index))]) if parts else None


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
