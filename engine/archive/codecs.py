"""Decompresses chunks, without allocating more memory than the metadata declare."""

import bz2
import lzma
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numcodecs.blosc  # type: ignore[import-untyped]
import numcodecs.lz4  # type: ignore[import-untyped]
import numcodecs.zstd  # type: ignore[import-untyped]
import numpy as np

COMPRESSORS = ("zstd", "gzip", "blosc", "zlib", "bz2", "lzma", "lz4")
CHECKSUMS = ("crc32c", "crc32", "adler32")
CRC_BYTES = 4  # of each of the checksums
LZMA_MEMORY = 1 << 28  # bytes; the highest preset takes a quarter of it
ZSTD_MAGIC = bytes.fromhex("28b52ffd")
ZSTD_BLOCK = 128 << 10  # bytes; no block of a frame holds more
ZSTD_SLACK = 64 << 20  # bytes; tolerance of the bound on frames without a size
BLOSC_HEADER = 16  # bytes


class CorruptError(ValueError):
    """Bytes are not what their metadata declare.  The message depends on the bytes alone (P1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """A bytes-to-bytes codec: a compressor, a checksum, "shuffle" or "delta"."""

    name: str
    checksum: bool = False  # zstd: every frame must have one; lzma: the writer was to add one
    option: str = ""  # shuffle: bytes of an element; delta: dtype; checksums: "start" or "end"

    @property
    def notices_damage(self) -> bool:
        return self.checksum or self.name in ("gzip", "zlib", "bz2", *CHECKSUMS)


def unpack(data: bytes, codecs: tuple[Codec, ...], limit: int) -> bytes:
    """Undoes `codecs`, which are in the order of writing.  Returns at most `limit` bytes.

    At most one of them compresses, so the size after each is known.  Raises CorruptError.
    """
    for k in reversed(range(len(codecs))):
        trailers = CRC_BYTES * sum(x.name in CHECKSUMS for x in codecs[:k])
        data = UNPACKERS[codecs[k].name](data, limit + trailers, codecs[k])
    return data


def encoded_limit(limit: int) -> int:
    """More bytes than any codec makes of `limit` bytes."""
    return 2 * limit + (64 << 10)


def unpack_checksum(data: bytes, limit: int, codec: Codec) -> bytes:
    if codec.option == "start":
        stored, body = data[:CRC_BYTES], data[CRC_BYTES:]
    else:
        body, stored = data[:-CRC_BYTES], data[-CRC_BYTES:]
    value = {"crc32c": google_crc32c.value, "crc32": zlib.crc32, "adler32": zlib.adler32}
    if value[codec.name](body) != int.from_bytes(stored, "little") or len(data) < CRC_BYTES:
        raise CorruptError(f"the {codec.name} checksum differs")
    return body


def append_crc32c(data: bytes) -> bytes:
    """`data` and its CRC-32C, as zarr's codec crc32c writes it."""
    checksum: int = google_crc32c.value(data)
    return data + checksum.to_bytes(CRC_BYTES, "little")


def unpack_stream(data: bytes, limit: int, codec: Codec) -> bytes:
    stream = STREAMS[codec.name]()
    try:
        out: bytes = stream.decompress(data, limit + 1)
    except (zlib.error, lzma.LZMAError, OSError, ValueError, EOFError) as error:
        raise CorruptError(f"{codec.name} cannot decompress it") from error
    if len(out) > limit:
        raise CorruptError(f"{codec.name} data have more than the {limit} bytes declared")
    if not stream.eof or stream.unused_data:
        raise CorruptError(f"{codec.name} data are truncated or followed by other bytes")
    return out


STREAMS: dict[str, Callable[[], Any]] = {
    "gzip": lambda: zlib.decompressobj(wbits=31),
    "zlib": zlib.decompressobj,
    "bz2": bz2.BZ2Decompressor,
    "lzma": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=LZMA_MEMORY),
}


LIBRARIES = {"blosc": numcodecs.blosc, "lz4": numcodecs.lz4, "zstd": numcodecs.zstd}


def _decompress(data: bytes, codec: Codec) -> bytes:
    """Bounds nothing: the size that `data` claim must have been checked."""
    try:
        return bytes(LIBRARIES[codec.name].decompress(data))
    except (RuntimeError, ValueError) as error:
        raise CorruptError(f"{codec.name} cannot decompress it") from error


def unpack_lz4(data: bytes, limit: int, codec: Codec) -> bytes:
    """A block of lz4 after its size, as numcodecs writes it."""
    size = int.from_bytes(data[:4], "little")
    if len(data) < 5 or size > limit:
        raise CorruptError(f"lz4 data claim {size} bytes, {limit} were declared")
    out = _decompress(data, codec)
    if len(out) != size:
        raise CorruptError(f"lz4 data have {len(out)} bytes, their header says {size}")
    return out


def unpack_shuffle(data: bytes, limit: int, codec: Codec) -> bytes:
    size = int(codec.option)
    if len(data) % size:
        raise CorruptError(f"{len(data)} bytes are no whole number of {size}-byte elements")
    return np.frombuffer(data, np.uint8).reshape(size, -1).T.tobytes()


def unpack_delta(data: bytes, limit: int, codec: Codec) -> bytes:
    dtype = np.dtype(codec.option)
    if len(data) % dtype.itemsize:
        raise CorruptError(f"{len(data)} bytes are no whole number of {dtype.itemsize}-byte values")
    with np.errstate(all="ignore"):  # what overflows is judged later, as a value of a px
        return np.cumsum(np.frombuffer(data, dtype), dtype=dtype).astype(dtype).tobytes()


def unpack_blosc(data: bytes, limit: int, codec: Codec) -> bytes:
    if len(data) < BLOSC_HEADER:
        raise CorruptError(f"{len(data)} bytes are too few for blosc data")
    size, stored = (int.from_bytes(data[k : k + 4], "little") for k in (4, 12))
    if size > limit:
        raise CorruptError(f"blosc data claim {size} bytes, {limit} were declared")
    if stored != len(data):
        raise CorruptError(f"blosc data are {len(data)} bytes, their header says {stored}")
    return _decompress(data, codec)


def unpack_zstd(data: bytes, limit: int, codec: Codec) -> bytes:
    frame = _parse_zstd_header(data)
    if frame.size is None:
        _check_unsized(data, frame, limit)
    elif frame.size > limit:
        raise CorruptError(f"the zstd frame claims {frame.size} bytes, {limit} were declared")
    if codec.checksum and not frame.checksum:
        raise CorruptError("the zstd frame has no checksum, its metadata declare one")
    return _decompress(data, codec)


UNPACKERS: dict[str, Callable[[bytes, int, Codec], bytes]] = {
    **dict.fromkeys(CHECKSUMS, unpack_checksum),
    **dict.fromkeys(STREAMS, unpack_stream),
    "blosc": unpack_blosc,
    "zstd": unpack_zstd,
    "lz4": unpack_lz4,
    "shuffle": unpack_shuffle,
    "delta": unpack_delta,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ZstdFrame:
    """The header of a zstd frame.  RFC 8878, section 3.1.1.1."""

    size: int | None  # bytes when decompressed
    checksum: bool
    body: int  # offset of the first block


def _parse_zstd_header(data: bytes) -> ZstdFrame:
    if len(data) < 6 or data[:4] != ZSTD_MAGIC:
        raise CorruptError("not a zstd frame")
    single = data[4] >> 5 & 1
    at = 6 - single + (0, 1, 2, 4)[data[4] & 3]
    width = (single, 2, 4, 8)[data[4] >> 6]
    if len(data) < at + width:
        raise CorruptError("the zstd frame is truncated")
    size = int.from_bytes(data[at : at + width], "little") + (256 if width == 2 else 0)
    return ZstdFrame(size=size if width else None, checksum=bool(data[4] >> 2 & 1), body=at + width)


def _check_unsized(data: bytes, frame: ZstdFrame, limit: int) -> None:
    """Bounds the size of a frame from its block headers; nothing may follow it."""
    at, bound, last = frame.body, 0, False
    while not last:
        header = int.from_bytes(data[at : at + 3], "little")
        last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
        bound += max(1, size if kind < 2 else ZSTD_BLOCK)
        at += 3 + (1 if kind == 1 else size)
        if at > len(data):
            raise CorruptError("the zstd frame is truncated")
        if bound > 2 * limit + ZSTD_SLACK:
            raise CorruptError(f"the zstd frame may have {bound} bytes, {limit} were declared")
    if at + (4 if frame.checksum else 0) != len(data):
        raise CorruptError("the zstd frame is truncated or followed by other bytes")
