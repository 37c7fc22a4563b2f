"""Reads and decodes the chunks of an array, and tells absent chunks from empty ones."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from mcdiff_batch.engine.telemetry.spans import span

from .codecs import CRC_BYTES, Codec, CorruptError, encoded_limit, unpack, unpack_checksum
from .metadata import ArraySpec
from .store import Blob, Store, describe_pointer

Values = npt.NDArray[Any]
Box = tuple[slice, ...]  # whole numbers, step 1
Coordinates = tuple[int, ...]
ABSENT = (1 << 64) - 1  # offset and size, in a shard's index, of an absent chunk


class MissingError(ValueError):
    """A chunk with pixels is absent.  Zarr would return its fill value."""


@dataclass(slots=True)
class Row:
    """The chunks that were decoded last; all have the same first coordinate."""

    first: int = -1
    chunks: dict[Coordinates, Values] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class ChunkedArray:
    """An array of the archive.  Safe in threads; can be pickled."""

    store: Store
    name: str
    spec: ArraySpec
    row: Row = field(default_factory=Row)

    def __reduce__(self) -> tuple[Any, ...]:
        """Leaves out the decoded chunks."""
        return partial(ChunkedArray, store=self.store, name=self.name, spec=self.spec), ()

    def read(self, box: Box) -> Values:
        """The values in `box`, in native byte order.

        Raises MissingError, CorruptError, UnsafeFileError, OSError.
        """
        out = np.empty([x.stop - x.start for x in box], self.spec.dtype.newbyteorder("="))
        for coordinates in chunks_in(box, self.spec.chunks):
            values = self.chunk(coordinates)
            if values is None:
                raise MissingError(
                    f"{self._where(coordinates)} is absent; restore it, or see what `mcdiff-batch "
                    "check` says"
                )
            into, part = intersect(box, coordinates, self.spec.chunks)
            out[into] = values[part]
        return out

    def chunk(self, coordinates: Coordinates) -> Values | None:
        """One whole chunk; None if absent.  Keeps the chunks of one row until the next is read."""
        row = self.row
        if row.first != coordinates[0]:
            self.row = row = Row(first=coordinates[0])
        if coordinates not in row.chunks:
            data = self._read_chunk(coordinates)
            if data is None:
                return None
            row.chunks[coordinates] = self._decode(data, coordinates)
        return row.chunks[coordinates]

    def _decode(self, data: bytes, coordinates: Coordinates) -> Values:
        spec = self.spec
        try:
            with span("decode"):
                plain = unpack(data, spec.codecs, spec.chunk_bytes)
            if spec.dtype == object:
                return np.array(decode_texts(plain, prod(spec.chunks)), object).reshape(spec.chunks)
            return to_array(plain, spec)
        except CorruptError as error:
            reason = describe_pointer(data) or error
            raise CorruptError(f"{self._where(coordinates)}: {reason}") from error

    def _where(self, coordinates: Coordinates) -> str:
        return f"chunk {'.'.join(map(str, coordinates))} of {self.name}"

    def _read_chunk(self, coordinates: Coordinates) -> bytes | None:
        """The stored bytes of a chunk; None if absent."""
        per_file = [n // k for n, k in zip(self.spec.files, self.spec.chunks, strict=True)]
        file = [k // n for k, n in zip(coordinates, per_file, strict=True)]
        with self.store.open(f"{self.name}/{self.spec.key(file)}", self._ahead) as blob:
            if blob is None:
                return None
            if self.spec.shards is None:
                return self._read_bytes(blob, 0, blob.size, coordinates)
            inside = [k % n for k, n in zip(coordinates, per_file, strict=True)]
            place = int(np.ravel_multi_index(inside, per_file))
            return self._read_from_shard(blob, place, coordinates)

    @property
    def _ahead(self) -> int:
        """What is read first of a file: a whole chunk, or the index of a shard."""
        if self.spec.shards is None:
            return encoded_limit(self.spec.chunk_bytes)
        return -self._index_bytes if self.spec.shards.at_end else self._index_bytes

    @property
    def _index_bytes(self) -> int:
        shards = self.spec.shards
        assert shards is not None
        chunks = prod(shards.shape) // prod(self.spec.chunks)
        return 16 * chunks + (CRC_BYTES if shards.checksum else 0)

    def _read_bytes(self, blob: Blob, offset: int, size: int, coordinates: Coordinates) -> bytes:
        most = encoded_limit(self.spec.chunk_bytes)
        data = blob.read(offset, size) if size <= most else b""
        if len(data) != size:
            where = self._where(coordinates)
            raise CorruptError(f"{where}: {size} bytes stored, {min(most, len(data))} usable")
        return data

    def _read_from_shard(self, blob: Blob, place: int, coordinates: Coordinates) -> bytes | None:
        """The stored bytes of the chunk that is number `place` of its shard; None if absent."""
        offset, size = (int(x) for x in self._read_index(blob, coordinates)[place])
        if (offset, size) == (ABSENT, ABSENT):
            return None
        if offset + size > blob.size:
            where = self._where(coordinates)
            raise CorruptError(f"{where}: the index of its shard points past the end")
        return self._read_bytes(blob, offset, size, coordinates)

    def _read_index(self, blob: Blob, coordinates: Coordinates) -> Values:
        """The index of a shard: offset and size in bytes of each of its chunks, [chunks, 2]."""
        shards, size = self.spec.shards, self._index_bytes
        assert shards is not None
        data = blob.read(max(0, blob.size - size) if shards.at_end else 0, size)
        try:
            if len(data) != size:
                raise CorruptError("it is shorter than its index")
            plain = unpack_checksum(data, size, Codec(name="crc32c")) if shards.checksum else data
        except CorruptError as error:
            raise CorruptError(f"the shard of {self._where(coordinates)}: {error}") from error
        return np.frombuffer(plain, f"{shards.endian}u8").reshape(-1, 2)


def chunks_in(box: Box, chunks: tuple[int, ...]) -> Iterator[Coordinates]:
    """Coordinates of every chunk that `box` touches, in C order."""
    return product(
        *(range(x.start // n, -(-x.stop // n)) for x, n in zip(box, chunks, strict=True))
    )


def intersect(box: Box, coordinates: Coordinates, chunks: tuple[int, ...]) -> tuple[Box, Box]:
    """The common part of a box and a chunk: its place in the box, and in the chunk."""
    into, part = [], []
    for x, k, n in zip(box, coordinates, chunks, strict=True):
        low, high = max(x.start, k * n), min(x.stop, (k + 1) * n)
        into.append(slice(low - x.start, high - x.start))
        part.append(slice(low - k * n, high - k * n))
    return tuple(into), tuple(part)


def to_array(plain: bytes, spec: ArraySpec) -> Values:
    """The bytes of a chunk as an array of shape `spec.chunks`.  Raises CorruptError."""
    if len(plain) != spec.chunk_bytes:
        raise CorruptError(f"{len(plain)} bytes when decompressed, expected {spec.chunk_bytes}")
    stored = np.frombuffer(plain, spec.dtype).reshape([spec.chunks[k] for k in spec.axes])
    return stored.transpose(np.argsort(spec.axes))


def decode_texts(plain: bytes, count: int) -> list[str]:
    """Decodes zarr's vlen-utf8: a count, then (length, UTF-8) items; the integers are "<u4".

    Raises CorruptError.
    """
    if int.from_bytes(plain[:4], "little") != count or len(plain) < 4 + 4 * count:
        raise CorruptError(f"text does not have {count} items")
    at, out = 4, []
    for _ in range(count):
        size = int.from_bytes(plain[at : at + 4], "little")
        try:
            out.append(plain[at + 4 : at + 4 + size].decode())
        except UnicodeDecodeError as error:
            raise CorruptError("text is not UTF-8") from error
        at += 4 + size
    if at != len(plain):
        raise CorruptError("text is truncated or followed by other bytes")
    return out
