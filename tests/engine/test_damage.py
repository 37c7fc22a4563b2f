"""Damaged and hostile chunks: only their case fails, for a reason that depends on its data."""

import gzip
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs
import numcodecs.blosc
import numcodecs.zstd
import numpy as np
import pytest
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.archive.codecs import Codec, CorruptError, unpack
from mcdiff_batch.engine.errors import CaseError
from tests.support.crafting import (
    CHECKED,
    chunk,
    memory_of_bomb,
    pictures,
    put_chunk,
    raw_archive,
    reason,
    snapshot,
    write_archive,
)

BYTES = {"name": "bytes"}
SHAPE = (3, 5, 40, 16)
SIZE = 5 * 40 * 16  # bytes of a decoded chunk


def damaged(tmp_path: Path, **storage: Any) -> Path:
    return write_archive(tmp_path / "a.zarr", pictures(), **storage)


def test_a_missing_chunk_fails_only_its_case_and_is_never_black(tmp_path: Path) -> None:
    path = damaged(tmp_path)
    chunk(path, 1).unlink()
    assert reason(path, 1) == "missing"
    for index in (0, 2):
        np.testing.assert_array_equal(open_archive(path).read(index).depths, pictures()[index])


def test_a_missing_tile_fails_a_case_unless_the_case_does_not_need_it(tmp_path: Path) -> None:
    extent = np.array([[20, 16], [40, 16], [40, 16]], "i4")
    present = np.array([[0, 1, 1, 1, 1], [1] * 5, [1] * 5], bool)
    columns = {"extent": extent, "depth_present": present}
    path = write_archive(tmp_path / "a", pictures(), chunks=(1, 1, 20, 16), columns=columns)
    for index in range(3):
        (path / f"depths/c/{index}/0/0/0").unlink()
        (path / f"depths/c/{index}/3/1/0").unlink()
    assert open_archive(path).read(0).depths.shape == (5, 20, 16)
    assert reason(path, 1) == reason(path, 2) == "missing"


@pytest.mark.parametrize("codec", ["zstd", "gzip", "blosc", "crc", "none"])
@pytest.mark.parametrize("length", [0, 1, 4, 5, 8, 12, 16, "half", -4, -1])
def test_a_truncated_chunk_is_corrupt(tmp_path: Path, codec: str, length: int | str) -> None:
    path = damaged(tmp_path, compressors=COMPRESSORS[codec])
    whole = chunk(path, 1).read_bytes()
    put_chunk(path, 1, whole[: len(whole) // 2 if length == "half" else int(length)])
    assert reason(path, 1) == "corrupt"
    assert open_archive(path).read(0).index == 0


COMPRESSORS: dict[str, Any] = {
    "zstd": CHECKED,
    "gzip": GzipCodec(level=1),
    "blosc": BloscCodec(),
    "crc": [ZstdCodec(), Crc32cCodec()],
    "none": None,
}


@pytest.mark.parametrize("codec", COMPRESSORS)
@pytest.mark.parametrize("extra", [b"\0", b"junk", b"\0" * 200_000])
def test_bytes_after_a_chunk_are_corrupt(tmp_path: Path, codec: str, extra: bytes) -> None:
    path = damaged(tmp_path, compressors=COMPRESSORS[codec])
    put_chunk(path, 1, chunk(path, 1).read_bytes() + extra)
    assert reason(path, 1) == "corrupt"


@pytest.mark.parametrize("codec", ["zstd", "gzip", "crc"])
def test_no_flipped_bit_changes_a_checked_chunk_unnoticed(tmp_path: Path, codec: str) -> None:
    path = damaged(tmp_path, compressors=COMPRESSORS[codec])
    whole, right = chunk(path, 1).read_bytes(), pictures()[1]
    archive, noticed = open_archive(path), 0
    header, body = range(8 * 20), range(8 * 20, 8 * len(whole) - 64, 977)
    for bit in (*header, *body, *range(8 * len(whole) - 64, 8 * len(whole))):
        broken = bytearray(whole)
        broken[bit // 8] ^= 1 << bit % 8
        put_chunk(path, 1, bytes(broken))
        archive.pixels.row.chunks.clear()
        try:
            np.testing.assert_array_equal(archive.read(1).depths, right)
        except CaseError as error:
            noticed += error.reason == "corrupt"
    assert noticed > 150


def test_a_swapped_codec_frame_without_its_checksum_is_corrupt(tmp_path: Path) -> None:
    path = damaged(tmp_path)
    put_chunk(path, 1, numcodecs.zstd.compress(pictures()[1].tobytes(), 3, False))
    assert reason(path, 1) == "corrupt"


@pytest.mark.parametrize("case", ["inside", "outside", "folder", "dangling"])
def test_a_linked_chunk_is_refused(tmp_path: Path, case: str) -> None:
    path = damaged(tmp_path)
    secret = tmp_path / "secret"
    secret.write_bytes(chunk(path, 1).read_bytes())
    if case == "folder":
        shutil.move(path / "depths/c/1", tmp_path / "moved")
        (path / "depths/c/1").symlink_to(tmp_path / "moved")
    else:
        targets = {"inside": chunk(path, 0), "outside": secret, "dangling": tmp_path / "none"}
        chunk(path, 1).unlink()
        chunk(path, 1).symlink_to(targets[case])
    assert reason(path, 1) == "link"


def test_a_pipe_or_folder_instead_of_a_chunk_is_refused_without_waiting(tmp_path: Path) -> None:
    path = damaged(tmp_path)
    for index in (0, 1):
        chunk(path, index).unlink()
    os.mkfifo(chunk(path, 0))
    chunk(path, 1).mkdir()
    assert reason(path, 0) == reason(path, 1) == "link"


def test_an_io_error_does_not_fail_a_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = damaged(tmp_path)
    archive = open_archive(path)

    def broken(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", broken)
    with pytest.raises(OSError, match="Input/output"):
        archive.read(0)


def rle_zstd(size: int, *, sized: bool) -> bytes:
    """A zstd frame of `size` zeros in RLE blocks, four bytes for each 128 KiB."""
    blocks = size >> 17
    header = b"\xe0" + struct.pack("<Q", blocks << 17) if sized else b"\x00\x88"
    body = b"".join(
        ((1 << 17) << 3 | 1 << 1 | (k == blocks - 1)).to_bytes(3, "little") + b"\0"
        for k in range(blocks)
    )
    return bytes.fromhex("28b52ffd") + header + body


def blosc_claiming(size: int) -> bytes:
    data = bytearray(numcodecs.blosc.compress(bytes(SIZE), b"lz4", 5, 1))
    data[4:8] = size.to_bytes(4, "little")
    return bytes(data)


BOMBS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "zstd": ("zstd", lambda: numcodecs.zstd.compress(bytes(1 << 28), 3, False)),
    "zstd by its header": ("zstd", lambda: rle_zstd(1 << 40 >> 8, sized=True)),
    "zstd of unknown size": ("zstd", lambda: rle_zstd(1 << 32, sized=False)),
    "zstd, a little too long": ("zstd", lambda: numcodecs.zstd.compress(bytes(SIZE + 1), 3)),
    "gzip": ("gzip", lambda: gzip.compress(bytes(1 << 28), 9)),
    "gzip, a little too long": ("gzip", lambda: gzip.compress(bytes(SIZE + 1))),
    "blosc": ("blosc", lambda: blosc_claiming((1 << 31) - 1)),
    "blosc, a little too long": ("blosc", lambda: blosc_claiming(SIZE + 1)),
}


@pytest.fixture(scope="module")
def bombs() -> dict[str, tuple[str, bytes]]:
    return {name: (codec, make()) for name, (codec, make) in BOMBS.items()}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_corrupt(tmp_path: Path, bombs: dict[str, Any], name: str) -> None:
    codec, data = bombs[name]
    path = raw_archive(tmp_path / "a", SHAPE, [BYTES, {"name": codec, "configuration": {}}])
    put_chunk(path, 0, data)
    assert reason(path, 0) == "corrupt"


def test_bombs_cost_no_memory(bombs: dict[str, Any]) -> None:
    for name in ("zstd", "zstd of unknown size", "gzip", "blosc"):
        codec, data = bombs[name]
        assert memory_of_bomb(codec, data) < 32_000  # the bombs are 256 MiB and up


def test_zstd_frames_of_unknown_size_are_read(tmp_path: Path) -> None:
    data = rle_zstd(1 << 17, sized=False)
    assert unpack(data, (Codec(name="zstd"),), 1 << 17) == bytes(1 << 17)
    for broken in (data[:-1], data + b"x", data[:9]):
        with pytest.raises(CorruptError):
            unpack(broken, (Codec(name="zstd"),), 1 << 17)


def test_gzip_members_and_wrong_checksums_are_corrupt() -> None:
    good = gzip.compress(b"scan")
    for broken in (good + good, good[:-8] + struct.pack("<II", zlib.crc32(b"scan") ^ 1, 4)):
        with pytest.raises(CorruptError):
            unpack(broken, (Codec(name="gzip"),), 8)


def test_an_absent_chunk_of_a_shard_is_missing_and_not_black(tmp_path: Path) -> None:
    images = pictures(cases=4)
    images[1] = 0
    path = tmp_path / "a.zarr"
    write_archive(path, images, shards=(4, 5, 40, 16), config={"write_empty_chunks": False})
    assert reason(path, 1) == "missing"
    np.testing.assert_array_equal(open_archive(path).read(2).depths, images[2])


@pytest.mark.parametrize("cut", [0, 1, 50, 67, "half", -1])
def test_a_truncated_shard_fails_its_cases(tmp_path: Path, cut: int | str) -> None:
    path = damaged(tmp_path, shards=(3, 5, 40, 16))
    shard = chunk(path, 0)
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2 if cut == "half" else int(cut)])
    assert {reason(path, k) for k in range(3)} == {"corrupt"}


def test_a_missing_shard_is_missing(tmp_path: Path) -> None:
    path = damaged(tmp_path, shards=(2, 5, 40, 16), chunks=(1, 5, 40, 16))
    chunk(path, 1).unlink()
    assert reason(path, 2) == "missing"
    assert open_archive(path).read(1).index == 1


def test_a_shards_index_that_points_outside_is_corrupt(tmp_path: Path) -> None:
    index = [{"name": "bytes", "configuration": {"endian": "little"}}]
    sharding = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": (1, *SHAPE[1:]),
            "codecs": [BYTES],
            "index_codecs": index,
            "index_location": "start",
        },
    }
    path = raw_archive(tmp_path / "a", SHAPE, [sharding])
    for place in [(16, 1 << 63), (1 << 63, SIZE), (16, SIZE + 1), (17, SIZE), (16, (1 << 64) - 1)]:
        put_chunk(path, 0, struct.pack("<QQ", *place) + pictures()[0].tobytes())
        assert reason(path, 0) == "corrupt"
    put_chunk(path, 0, struct.pack("<QQ", 16, SIZE) + pictures()[0].tobytes())
    np.testing.assert_array_equal(open_archive(path).read(0).depths, pictures()[0])


def test_reading_bad_cases_leaves_the_input_as_it_was(tmp_path: Path) -> None:
    path = damaged(tmp_path)
    put_chunk(path, 1, b"junk")
    chunk(path, 2).unlink()
    before = snapshot(path)
    assert [reason(path, k) for k in (1, 2)] == ["corrupt", "missing"]
    assert snapshot(path) == before  # P6
