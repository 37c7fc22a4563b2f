"""Archives that other programs made or moved: read within bounds, or refused with what to do."""

import bz2
import lzma
import os
import re
import shutil
import subprocess
import sys
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.archive.audit import audit
from mcdiff_batch.engine.archive.codecs import Codec, CorruptError, unpack
from mcdiff_batch.engine.errors import ArchiveError, CaseError
from tests.support.crafting import (
    chunk,
    command,
    edit,
    ids,
    memory_of_bomb,
    pictures,
    put_chunk,
    reason,
    write_archive,
)

SIZE = 3200  # bytes of a decoded chunk


def refusal(path: Path) -> str:
    with pytest.raises(ArchiveError) as caught:
        open_archive(path)
    return str(caught.value)


# --- where the archive is


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_path_beside_the_archive_is_answered_with_the_right_one(
    tmp_path: Path, zarr_format: int
) -> None:
    path = write_archive(tmp_path / "night" / "a.zarr", pictures(), zarr_format=zarr_format)
    assert refusal(tmp_path / "night").endswith(f"did you mean {path}?")
    for inside in ("depths", "depths/c/0", "depths/zarr.json", "depths/.zarray", "zarr.json"):
        if (path / inside).exists():
            assert refusal(path / inside).endswith(f"did you mean {path}?")
    for slip in ("a", "A.zarr", "A"):
        assert refusal(tmp_path / "night" / slip).endswith(f"did you mean {path}?")
    zarr.create_group(tmp_path / "night", zarr_format=zarr_format)  # a group around it
    assert refusal(tmp_path / "night").endswith(f"did you mean {path}?")
    write_archive(tmp_path / "night" / "b.zarr", pictures())
    assert "did you mean" not in refusal(tmp_path / "night")  # which of them?
    open_archive(Path(f"{path}{os.sep}"))


def test_a_name_in_capitals_is_an_archive_and_a_packed_one_says_how_to_unpack_it(
    tmp_path: Path,
) -> None:
    path = write_archive(tmp_path / "A.ZARR", pictures())
    assert open_archive(path).cases == 3
    for suffix, kind in ((".zip", "zip"), (".tar", "tar"), (".tar.gz", "gztar")):
        packed = shutil.make_archive(str(path), kind, path)
        assert packed.endswith(suffix)
        assert ("unzip" if kind == "zip" else "tar -xf") in refusal(Path(packed))


def test_an_ome_image_is_called_one(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "a.zarr", attributes={"multiscales": [{"datasets": []}]})
    assert "is an OME-Zarr image and has no array `depths`" in refusal(tmp_path / "a.zarr")


# --- links and files that stand for others


@pytest.mark.parametrize("whole", [True, False])
def test_a_link_says_how_to_do_without(tmp_path: Path, whole: bool) -> None:
    path, content = write_archive(tmp_path / "a.zarr", pictures()), tmp_path / "annexed"
    chunk(path, 1).rename(content)
    chunk(path, 1).symlink_to(content)
    if not whole:
        content.unlink()
    with pytest.raises(CaseError, match=r"git annex unlock.*cp -rL") as caught:
        open_archive(path).read(1)
    assert ("git annex get" in str(caught.value)) == (not whole)
    assert open_archive(path).read(0).index == 0


@pytest.mark.parametrize(
    ("pointer", "remedy"),
    [
        (b"/annex/objects/MD5E-s9--1\n", "git annex get"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
)
def test_a_pointer_in_the_place_of_a_file_says_how_to_fetch_it(
    tmp_path: Path, pointer: bytes, remedy: str
) -> None:
    path = write_archive(tmp_path / "a.zarr", pictures())
    put_chunk(path, 1, pointer)
    with pytest.raises(CaseError, match=remedy):
        open_archive(path).read(1)
    (path / "depths" / "zarr.json").write_bytes(pointer)
    assert remedy in refusal(path)


# --- chunks that are left out, and the command of the help


def tiles(path: Path, zarr_format: int) -> Path:
    """Tiles by zarr's defaults, which leave out those that are black; ids of text."""
    images = pictures()
    images[1, :, 20:] = 0
    group = zarr.create_group(path, zarr_format=zarr_format, attributes={"mcdiff": {"schema": 1}})
    group.create_array("depths", shape=images.shape, chunks=(1, 1, 20, 8), dtype="u1")[:] = images
    text: dict[str, Any] = {"filters": [numcodecs.VLenUTF8()]} if zarr_format == 2 else {}
    group.create_array("case_id", shape=3, chunks=2, dtype=str, **text)[:] = ids("a", "b", "c")
    return path


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_black_tiles_that_zarr_left_out_fail_their_case_and_the_help_has_the_remedy(
    tmp_path: Path,
    zarr_format: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tiles(tmp_path / "A.zarr", zarr_format)
    assert reason(path, 1) == "missing"  # never black: a lost tile looks the same
    assert command(monkeypatch, "check", path) == 3
    printed = capsys.readouterr().out
    assert "warning: 1 of 3 cases lack chunks" in printed
    assert "write_empty_chunks" in printed
    assert "`mcdiff-batch check --help`" in printed
    assert command(monkeypatch, "check", "--help") == 0
    code = re.search(r'python -c "(import zarr; a =.*?)"\n', capsys.readouterr().out, re.DOTALL)
    assert code
    subprocess.run([sys.executable, "-c", code[1]], cwd=tmp_path, check=True)
    written = open_archive(tmp_path / "B.zarr")
    assert audit(written).problems == ()
    assert [written.key(k) for k in range(3)] == ["a", "b", "c"]
    for k in range(3):
        black_from = 20 if k == 1 else 40
        np.testing.assert_array_equal(
            written.read(k).depths[:, :black_from], pictures()[k, :, :black_from]
        )
    assert not written.read(1).depths[:, 20:].any()


@pytest.mark.parametrize(
    "name", ["fixedscaleoffset", "packbits", "astype", "jenkins_lookup3", "msgpack2"]
)
@pytest.mark.parametrize("place", ["compressor", "filters"])
def test_what_cannot_be_read_safely_is_refused_with_the_remedy(
    tmp_path: Path, name: str, place: str
) -> None:
    path = write_archive(tmp_path / "a.zarr", pictures(), zarr_format=2)
    codec = {"id": name, "dtype": "|u1", "astype": "<u2", "encode_dtype": "|u1"}
    value = codec if place == "compressor" else [codec]
    edit(path / "depths/.zarray", lambda x: x.update({place: value}))
    assert "`mcdiff-batch check --help`" in refusal(path)
    edit(path / "depths/.zarray", lambda x: x.update(dtype="|O", compressor=None, filters=None))
    assert "vlen-utf8" in refusal(path)


def test_pickled_text_is_refused_without_advice_to_decode_it(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.zarr", pictures(), zarr_format=2)
    pickled = {"dtype": "|O", "filters": [{"id": "pickle", "protocol": 5}]}
    edit(path / "depths/.zarray", lambda x: x.update(pickled))
    message = refusal(path)
    assert "could execute code" in message
    assert "check --help" not in message


# --- bounds of the codecs


def lz4_claiming(size: int) -> bytes:
    return size.to_bytes(4, "little") + bytes(numcodecs.LZ4().encode(bytes(SIZE)))[4:]


BOMBS = {
    "zlib": zlib.compress(bytes(1 << 28), 9),
    "bz2": bz2.compress(bytes(1 << 26)),
    "lzma": lzma.compress(bytes(1 << 27)),
    "lz4": lz4_claiming((1 << 31) - 1),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_corrupt_and_costs_no_memory(name: str) -> None:
    assert memory_of_bomb(name, BOMBS[name]) < 32_000


ENCODERS = {
    "zlib": numcodecs.Zlib(),
    "bz2": numcodecs.BZ2(),
    "lzma": numcodecs.LZMA(),
    "lz4": numcodecs.LZ4(),
    "crc32": numcodecs.CRC32(),
    "adler32": numcodecs.Adler32(),
    "shuffle": numcodecs.Shuffle(4),
    "delta": numcodecs.Delta("<u2"),
}
OPTIONS = {"crc32": "start", "adler32": "start", "shuffle": "4", "delta": "<u2"}


@pytest.mark.parametrize("name", ENCODERS)
def test_bytes_that_are_cut_or_followed_by_others_are_corrupt(name: str) -> None:
    plain = np.random.default_rng(0).integers(0, 9, SIZE).astype("u1")
    data = bytes(ENCODERS[name].encode(plain))
    codec = Codec(name=name, option=OPTIONS.get(name, ""))
    assert unpack(data, (codec,), SIZE) == plain.tobytes()
    broken = [data[:n] for n in (0, 1, 3, 5, len(data) // 2, len(data) - 1)]
    for cut in (*broken, data + b"x"):
        with suppress(CorruptError):
            assert len(unpack(cut, (codec,), SIZE)) != SIZE  # noticed when it becomes an array


@pytest.mark.parametrize("name", ["zlib", "bz2", "lzma", "crc32", "adler32"])
def test_a_flipped_bit_is_noticed_where_the_codec_has_a_checksum(name: str) -> None:
    plain = np.random.default_rng(0).integers(0, 9, SIZE).astype("u1")
    data = bytearray(ENCODERS[name].encode(plain))
    codec = Codec(name=name, option=OPTIONS.get(name, ""), checksum=name == "lzma")
    assert codec.notices_damage
    noticed = 0
    for place in range(0, len(data), 7):
        data[place] ^= 16
        try:
            assert unpack(bytes(data), (codec,), SIZE) == plain.tobytes()
        except CorruptError:
            noticed += 1
        data[place] ^= 16
    assert noticed > len(data) // 7 - 9


def test_a_disk_that_fails_while_metadata_are_read_is_no_fault_of_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_archive(tmp_path / "a.zarr", pictures())

    def broken(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", broken)
    assert command(monkeypatch, "check", path) == 1
    printed = capsys.readouterr().err
    assert f"{path}: cannot be read or written (Input/output error)" in printed
    assert "mcdiff-batch import" not in printed
