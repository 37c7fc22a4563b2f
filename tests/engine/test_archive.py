"""Archives in every layout that zarr writes are read as zarr reads them."""

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from zarr.codecs import (
    BloscCodec,
    BytesCodec,
    Crc32cCodec,
    GzipCodec,
    TransposeCodec,
    ZstdCodec,
)

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.errors import CaseError
from tests.support.crafting import CHECKED, edit, ids, pictures, snapshot, write_archive


def from_numcodecs(name: str, **configuration: object) -> dict[str, object]:
    """A codec of zarr v3 that zarr takes from numcodecs."""
    return {"name": f"numcodecs.{name}", "configuration": configuration}


V2_FORTRAN: dict[str, Any] = {"zarr_format": 2, "order": "F"}
LAYOUTS: dict[str, dict[str, Any]] = {
    "checked zstd": {},
    "plain": {"compressors": None},
    "zstd": {"compressors": ZstdCodec(level=1)},
    "gzip": {"compressors": GzipCodec(level=1)},
    "blosc": {"compressors": BloscCodec(cname="lz4", shuffle="bitshuffle", typesize=2)},
    "crc after zstd": {"compressors": [ZstdCodec(level=1), Crc32cCodec()]},
    "crc before zstd": {"compressors": [Crc32cCodec(), ZstdCodec(level=1)]},
    "crc alone": {"compressors": [Crc32cCodec()]},
    "depth by depth": {"chunks": (1, 1, 40, 16)},
    "ragged tiles": {"chunks": (1, 2, 13, 7)},
    "three cases a chunk": {"chunks": (3, 5, 40, 16)},
    "transposed": {"filters": [TransposeCodec(order=(2, 0, 3, 1))]},
    "fortran": {"filters": [TransposeCodec(order=(3, 2, 1, 0))]},
    "big endian": {"serializer": BytesCodec(endian="big")},
    "sharded": {"shards": (4, 5, 40, 16)},
    "sharded tiles": {"chunks": (1, 1, 20, 8), "shards": (2, 5, 40, 16)},
    "flat keys": {"chunk_key_encoding": {"name": "default", "separator": "."}},
    "v2 keys": {"chunk_key_encoding": {"name": "v2", "separator": "/"}},
    "zlib": {"compressors": from_numcodecs("zlib", level=1)},
    "bz2": {"compressors": from_numcodecs("bz2", level=1)},
    "lzma": {"compressors": from_numcodecs("lzma")},
    "shuffle and lz4": {
        "compressors": [from_numcodecs("shuffle", elementsize=2), from_numcodecs("lz4")]
    },
    "crc32 around zstd": {"compressors": [ZstdCodec(level=1), from_numcodecs("crc32")]},
    "adler32 in zstd": {"compressors": [from_numcodecs("adler32", location="end"), ZstdCodec()]},
    "v2 zlib": {"zarr_format": 2, "compressors": numcodecs.Zlib(level=1)},
    "v2 bz2": {"zarr_format": 2, "compressors": numcodecs.BZ2(level=1)},
    "v2 lzma": {"zarr_format": 2, "compressors": numcodecs.LZMA(preset=1)},
    "v2 lz4": {"zarr_format": 2, "compressors": numcodecs.LZ4()},
    "v2 shuffle": V2_FORTRAN | {"filters": [numcodecs.Shuffle(2)], "chunks": (1, 2, 13, 7)},
    "v2 crc32": {"zarr_format": 2, "filters": [numcodecs.CRC32()]},
    "v2 by default": {"zarr_format": 2},
    "v2 plain": {"zarr_format": 2, "compressors": None},
    "v2 zstd": {"zarr_format": 2, "compressors": numcodecs.Zstd(level=1)},
    "v2 blosc": {"zarr_format": 2, "compressors": numcodecs.Blosc()},
    "v2 gzip": {"zarr_format": 2, "compressors": numcodecs.GZip()},
    "v2 fortran": V2_FORTRAN,
    "v2 nested": {"zarr_format": 2, "chunk_key_encoding": {"name": "v2", "separator": "/"}},
    "v2 ragged fortran": V2_FORTRAN | {"chunks": (2, 2, 13, 7)},
}


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["u1", "u2", "f2", "f4"])
def test_every_layout_is_read_as_zarr_reads_it(tmp_path: Path, layout: str, dtype: str) -> None:
    images = pictures(cases=5, dtype=dtype)
    path = write_archive(tmp_path / "a.zarr", images, **LAYOUTS[layout])
    before = snapshot(path)
    archive = open_archive(path)
    assert (archive.cases, archive.depths, archive.grid) == (5, 5, (40, 16))
    assert archive.dtype == dtype
    for index in (3, 0, 4, 1):
        case = archive.read(index)
        assert case.depths.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(case.depths, images[index])
    assert snapshot(path) == before  # P6


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3")
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_filters_of_values_are_undone(tmp_path: Path, zarr_format: int, dtype: str) -> None:
    images, kind = pictures(dtype=dtype), np.dtype(dtype).str
    filters = {
        2: [*([numcodecs.Quantize(3, kind)] if dtype == "f4" else []), numcodecs.Delta(kind)],
        3: [TransposeCodec(order=(3, 1, 0, 2)), from_numcodecs("delta", dtype=kind)],
    }
    storage = {"filters": filters[zarr_format], "zarr_format": zarr_format}
    path = write_archive(tmp_path / "a.zarr", images, **storage)
    stored = zarr.open_group(path, mode="r")["depths"]
    assert isinstance(stored, zarr.Array)
    np.testing.assert_array_equal(open_archive(path).read(1).depths, np.asarray(stored[1]))


def test_text_of_v2_is_read_in_every_length(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.zarr", pictures(), zarr_format=2)
    names = ["", "Zoë " * 500, "c"]
    numcodecs_text = {"filters": [numcodecs.VLenUTF8()], "compressors": numcodecs.Zlib()}
    column = zarr.open_group(path).create_array(
        "case_id", shape=3, chunks=3, dtype=str, **numcodecs_text
    )
    column[:] = np.array(names, object)
    assert [open_archive(path).key(k) for k in range(3)] == names


@pytest.mark.parametrize("dtype", [">u2", ">f2", ">f4", "<u2"])
def test_v2_byte_orders_come_out_native(tmp_path: Path, dtype: str) -> None:
    images = pictures(dtype=dtype)
    case = open_archive(write_archive(tmp_path / "a.zarr", images, zarr_format=2)).read(1)
    assert case.depths.dtype.isnative
    np.testing.assert_array_equal(case.depths, images[1])


def columns() -> dict[str, Any]:
    return {
        "case_id": ids("anna", "bert", "cleo"),
        "optimal_depth": np.array([2, -1, 4], "i4"),
        "depth_present": np.array([[1, 1, 1, 1, 1], [0, 1, 0, 0, 1], [1, 1, 1, 1, 1]], bool),
        "extent": np.array([[40, 16], [33, 9], [8, 8]], "i4"),
        "pixel_spacing_mm": np.array([[0.5, 0.25], [np.nan, 1], [np.nan, np.nan]], "f8"),
    }


def test_a_case_is_cropped_and_has_the_values_of_the_columns(tmp_path: Path) -> None:
    images = pictures()
    archive = open_archive(write_archive(tmp_path / "a.zarr", images, columns=columns()))
    first, second = archive.read(0), archive.read(1)
    assert (first.key, first.optimal, first.spacing_mm) == ("anna", 2, (0.5, 0.25))
    assert (second.optimal, second.depths.shape) == (None, (5, 33, 9))
    assert np.isnan(second.spacing_mm).all()
    np.testing.assert_array_equal(second.depths[[1, 4]], images[1][[1, 4], :33, :9])
    assert (second.depths[[0, 2, 3]] == 0).all()
    assert second.present.tolist() == [False, True, False, False, True]
    assert np.isnan(archive.read(2).spacing_mm).all()


def test_without_columns_a_case_is_named_by_its_index(tmp_path: Path) -> None:
    archive = open_archive(write_archive(tmp_path / "a.zarr", pictures()))
    case = archive.read(2)
    assert (archive.key(2), case.key, case.optimal) == ("2", "2", None)
    assert case.present.all()
    assert any("spacing" in x for x in archive.warnings)


def test_ids_may_be_numbers_or_text_of_fixed_length(tmp_path: Path) -> None:
    for k, values in enumerate([np.array([7, 8, 9]), np.array(["a", "bc", "é"], "<U4")]):
        path = tmp_path / f"{k}.zarr"
        write_archive(path, pictures(), zarr_format=2, columns={"case_id": values})
        assert open_archive(path).key(1) == str(values[1])
    path = write_archive(
        tmp_path / "bytes.zarr",
        pictures(),
        zarr_format=2,
        columns={"case_id": np.array([b"a", b"b", b"c"])},
    )
    assert open_archive(path).key(2) == "c"


def test_intensity_ranges_default_by_dtype_and_are_taken_from_attributes(tmp_path: Path) -> None:
    defaults = {"u1": (0, 255), "u2": (0, 65535), "f2": (0, 1), "f4": (0, 1)}
    for dtype, expected in defaults.items():
        path = write_archive(tmp_path / dtype, pictures(dtype=dtype))
        assert open_archive(path).intensity_range == expected
    facts = {"schema": 1, "intensity_range": [-1, 2.5], "pixel_spacing_mm": [0.4, 0.2]}
    for zarr_format in (2, 3):
        path = tmp_path / f"v{zarr_format}"
        write_archive(path, pictures(dtype="f4"), attributes=facts, zarr_format=zarr_format)
        archive = open_archive(path)
        assert archive.intensity_range == (-1, 2.5)
        assert archive.read(0).spacing_mm == (0.4, 0.2)


def test_one_spacing_stands_for_both_axes(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a", pictures(), attributes={"pixel_spacing_mm": 0.18})
    assert open_archive(path).read(0).spacing_mm == (0.18, 0.18)


def test_chunks_of_several_cases_give_a_warning_and_are_decoded_once_in_a_row(
    tmp_path: Path,
) -> None:
    images = pictures(cases=4)
    path = write_archive(tmp_path / "a", images, chunks=(2, 5, 40, 16))
    archive = open_archive(path)
    assert any("2 cases" in x for x in archive.warnings)
    archive.read(0)
    (path / "depths/c/0/0/0/0").unlink()
    np.testing.assert_array_equal(archive.read(1).depths, images[1])
    archive.read(2)
    with pytest.raises(CaseError, match="missing"):
        archive.read(1)


def test_codecs_without_checksum_give_a_warning(tmp_path: Path) -> None:
    for name, storage, warned in (
        ("a", {}, False),
        ("b", {"compressors": ZstdCodec()}, True),
        ("c", {"compressors": GzipCodec()}, False),
        ("d", {"compressors": BloscCodec()}, True),
        ("e", {"shards": (3, 5, 40, 16), "compressors": CHECKED}, False),
    ):
        archive = open_archive(write_archive(tmp_path / name, pictures(), **storage))
        assert any("checksum" in x for x in archive.warnings) == warned


def test_an_absent_chunk_of_a_column_is_its_fill_value_and_gives_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    write_archive(path, pictures(), columns={"optimal_depth": np.array([3, 3, 3], "i4")})
    (path / "optimal_depth/c/0").unlink()
    archive = open_archive(path)
    assert archive.read(0).optimal == 0
    assert any("optimal_depth" in x for x in archive.warnings)


def test_consolidated_metadata_are_ignored(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.zarr", pictures())

    def lie(document: dict[str, Any]) -> None:
        array = {"shape": [99, 5, 40, 16]}
        document["consolidated_metadata"] = {"kind": "inline", "metadata": {"depths": array}}

    edit(path / "zarr.json", lie)
    assert open_archive(path).cases == 3


def test_the_identity_depends_on_everything_but_the_pixels(tmp_path: Path) -> None:
    def identity(name: str, **changes: Any) -> str:
        given = columns() | changes.pop("columns", {})
        path = write_archive(tmp_path / name, pictures(), columns=given, **changes)
        return open_archive(path).identity

    same, other = identity("a"), []
    assert identity("b") == same
    other.append(identity("c", columns={"case_id": ids("anna", "bert", "cloe")}))
    other.append(identity("d", columns={"optimal_depth": np.array([1, -1, 4], "i4")}))
    other.append(identity("e", columns={"extent": np.array([[40, 16], [33, 9], [9, 8]], "i4")}))
    other.append(identity("f", attributes={"intensity_range": [0, 254]}))
    other.append(identity("g", chunks=(1, 1, 40, 16)))
    assert len({same, *other}) == 6


def test_an_archive_works_in_threads_and_in_spawned_processes(tmp_path: Path) -> None:
    images = pictures(cases=8)
    archive = open_archive(write_archive(tmp_path / "a", images, chunks=(2, 1, 40, 16)))
    archive.read(0)
    with ThreadPoolExecutor(4) as pool:
        for index, case in enumerate(pool.map(archive.read, list(range(8)) * 4)):
            np.testing.assert_array_equal(case.depths, images[index % 8])
    assert len(pickle.dumps(archive)) < 4000  # no pixels travel
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer).read(5).depths.sum())"
    words = [sys.executable, "-c", code]
    spawned = subprocess.run(words, input=pickle.dumps(archive), capture_output=True, check=True)
    assert int(spawned.stdout) == images[5].sum()


def test_a_link_to_the_archive_itself_is_followed(tmp_path: Path) -> None:
    write_archive(tmp_path / "a.zarr", pictures())
    (tmp_path / "link.zarr").symlink_to(tmp_path / "a.zarr")
    assert open_archive(tmp_path / "link.zarr").read(0).index == 0


def test_the_repr_of_an_archive_or_case_shows_no_id(tmp_path: Path) -> None:
    archive = open_archive(write_archive(tmp_path / "a", pictures(), columns=columns()))
    assert "anna" not in repr(archive) + repr(archive.read(0))
