"""Archives that cannot be used are refused with ArchiveError (exit 4) before decoding."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.errors import ArchiveError
from tests.support.crafting import Json, edit, ids, pictures, raw_archive, write_archive

BYTES = {"name": "bytes"}
SHAPE = (3, 5, 40, 16)


def refusal(path: Path) -> str:
    with pytest.raises(ArchiveError) as caught:
        open_archive(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "expected" in message
    assert len(message) < 700
    return message


def test_other_files_and_folders_are_refused(tmp_path: Path) -> None:
    assert "no such" in refusal(tmp_path / "none.zarr")
    (tmp_path / "file").write_text("text")
    assert "not a folder" in refusal(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert "no zarr group" in refusal(tmp_path / "empty")
    path = write_archive(tmp_path / "a.zarr", pictures())
    assert "single array" in refusal(path / "depths")
    assert "no zarr group" in refusal(path / "depths" / "c")


def test_missing_metadata_are_refused(tmp_path: Path) -> None:
    for zarr_format, root, array in ((3, "zarr.json", "zarr.json"), (2, ".zgroup", ".zarray")):
        path = write_archive(tmp_path / f"v{zarr_format}", pictures(), zarr_format=zarr_format)
        (path / "depths" / array).unlink()
        assert "depths" in refusal(path)
        (path / root).unlink()
        assert "no zarr group" in refusal(path)


def test_unreadable_metadata_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_archive(tmp_path / "a.zarr", pictures())

    def denied(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    assert "Permission denied" in refusal(path)


def _set(field: str, value: object) -> Callable[[Json], object]:
    return lambda document: document.update({field: value})


def _codecs(*names: str) -> Callable[[Json], object]:
    return _set("codecs", [{"name": x, "configuration": {}} for x in names])


def _chunks(*shape: int) -> Callable[[Json], object]:
    return _set("chunk_grid", {"name": "regular", "configuration": {"chunk_shape": shape}})


def _sharding(**changes: Any) -> Callable[[Json], object]:
    inner = {"chunk_shape": [1, 5, 40, 16], "codecs": [BYTES], "index_codecs": [BYTES]} | changes
    return _set("codecs", [{"name": "sharding_indexed", "configuration": inner}])


BAD_V3: dict[str, tuple[Callable[[Json], object], str]] = {
    "rank": (_set("shape", [3, 40, 16]), "ranks differ"),
    "no cases": (_set("shape", [0, 5, 40, 16]), "1 to"),
    "no depths": (_set("shape", [3, 0, 40, 16]), "depths"),
    "tiny images": (_set("shape", [3, 5, 7, 16]), "8 px"),
    "a million million cases": (_set("shape", [10**12, 5, 40, 16]), "cases"),
    "negative shape": (_set("shape", [-3, 5, 40, 16]), "whole numbers"),
    "shape of text": (_set("shape", "many"), "whole numbers"),
    "shape of booleans": (_set("shape", [True, 5, 40, 16]), "whole numbers"),
    "u4": (_set("data_type", "uint32"), "u1, u2, f2 or f4"),
    "i1": (_set("data_type", "int8"), "u1, u2, f2 or f4"),
    "f8": (_set("data_type", "float64"), "u1, u2, f2 or f4"),
    "bool": (_set("data_type", "bool"), "u1, u2, f2 or f4"),
    "complex": (_set("data_type", "complex64"), "plain"),
    "no type": (_set("data_type", None), "no name"),
    "text": (_set("data_type", "string"), "vlen-utf8"),
    "structure": (_set("data_type", {"name": "structured", "configuration": {}}), "plain"),
    "unknown codec": (_codecs("bytes", "evil"), "'evil'"),
    "pickle": (_codecs("pickle"), "'pickle'"),
    "numcodecs pickle": (_codecs("bytes", "numcodecs.pickle"), "numcodecs.pickle"),
    "numcodecs json": (_codecs("numcodecs.json2"), "numcodecs.json2"),
    "no codecs": (_set("codecs", []), "has codecs []"),
    "codecs a number": (_set("codecs", 7), "missing or wrong"),
    "nameless codec": (_set("codecs", [{}]), "no name"),
    "wrong order": (_codecs("zstd", "bytes"), "'zstd'"),
    "twice compressed": (_codecs("bytes", "zstd", "gzip"), "more than once"),
    "lone transpose": (_codecs("transpose", "bytes"), "permutation"),
    "codec configured oddly": (_set("codecs", [{"name": "bytes", "configuration": 3}]), "object"),
    "huge chunk": (_chunks(1, 5, 40, 10**8), "rechunk"),
    "huge rows": (_chunks(400_000, 5, 40, 16), "rechunk"),
    "many big chunks": (_chunks(20_000, 1, 40, 1600), "rechunk"),
    "chunk of zero": (_chunks(1, 5, 0, 16), "whole numbers"),
    "rectilinear": (_set("chunk_grid", {"name": "rectilinear", "configuration": {}}), "rectilin"),
    "chunk rank": (_chunks(1, 5, 40), "ranks differ"),
    "key encoding": (_set("chunk_key_encoding", {"name": "fanout"}), "fanout"),
    "key separator": (
        _set("chunk_key_encoding", {"name": "v2", "configuration": {"separator": "../"}}),
        "separator",
    ),
    "transformers": (_set("storage_transformers", [{"name": "x"}]), "transformers"),
    "extension": (_set("surprise", {"name": "x", "must_understand": True}), "surprise"),
    "format 4": (_set("zarr_format", 4), "zarr_format"),
    "a group": (_set("node_type", "group"), "node_type"),
    "shards that do not tile": (_sharding(chunk_shape=[1, 5, 40, 7]), "whole number"),
    "nested shards": (_sharding(codecs=[{"name": "sharding_indexed"}]), "sharding_indexed"),
    "shard index compressed": (_sharding(index_codecs=[BYTES, {"name": "zstd"}]), "index codecs"),
    "shard index elsewhere": (_sharding(index_location="middle"), "index_location"),
}


@pytest.mark.parametrize("name", BAD_V3)
def test_bad_v3_metadata_are_refused(tmp_path: Path, name: str) -> None:
    change, message = BAD_V3[name]
    path = raw_archive(tmp_path / "a", SHAPE, [BYTES])
    edit(path / "depths" / "zarr.json", change)
    assert message in refusal(path)


BAD_V2: dict[str, tuple[Callable[[Json], object], str]] = {
    "object and pickle": (
        lambda x: x.update(dtype="|O", filters=[{"id": "pickle", "protocol": 5}]),
        "filters",
    ),
    "object": (_set("dtype", "|O"), "dtype"),
    "structure": (_set("dtype", [["a", "<u1"]]), "dtype"),
    "dates": (_set("dtype", "<M8[ns]"), "dtype"),
    "u8": (_set("dtype", "<u8"), "dtype"),
    "u3": (_set("dtype", "<u3"), "plain"),
    "filter": (_set("filters", [{"id": "evil"}]), "filter 'evil'"),
    "filter that changes the dtype": (
        _set("filters", [{"id": "delta", "dtype": "<u2", "astype": "|i1"}]),
        "changes the dtype",
    ),
    "pickle compressor": (_set("compressor", {"id": "pickle"}), "pickle"),
    "unknown compressor": (_set("compressor", {"id": "evil"}), "evil"),
    "compressor a list": (_set("compressor", ["zstd"]), "compressor"),
    "order": (_set("order", "K"), "order"),
    "separator": (_set("dimension_separator", "/../"), "separator"),
    "no chunks": (lambda x: x.pop("chunks"), "chunks"),
}


@pytest.mark.parametrize("name", BAD_V2)
def test_bad_v2_metadata_are_refused(tmp_path: Path, name: str) -> None:
    change, message = BAD_V2[name]
    path = write_archive(tmp_path / "a", pictures(), zarr_format=2)
    edit(path / "depths" / ".zarray", change)
    assert message in refusal(path)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b'{"shape": [' + b"9" * 5000 + b"]}",
        b'{"a": "' + b"x" * (9 << 20) + b'"}',
    ],
    ids=["empty", "cut", "list", "number", "binary", "deep", "deeper", "digits", "long"],
)
@pytest.mark.parametrize("where", ["zarr.json", "depths/zarr.json"])
def test_hostile_json_is_refused(tmp_path: Path, where: str, text: bytes) -> None:
    path = raw_archive(tmp_path / "a", SHAPE, [BYTES])
    (path / where).write_bytes(text)
    refusal(path)


def test_metadata_that_are_links_or_pipes_are_refused(tmp_path: Path) -> None:
    path = raw_archive(tmp_path / "a", SHAPE, [BYTES])
    (path / "depths" / "zarr.json").rename(tmp_path / "elsewhere.json")
    (path / "depths" / "zarr.json").symlink_to(tmp_path / "elsewhere.json")
    assert "link" in refusal(path)
    (path / "depths" / "zarr.json").unlink()
    os.mkfifo(path / "depths" / "zarr.json")
    assert "not a regular file" in refusal(path)


BAD_COLUMNS: dict[str, tuple[Any, str]] = {
    "case_id": (ids("same", "other", "same"), "cases 0 and 2"),
    "optimal_depth": (np.zeros(4, "i4"), "(3,)"),
    "depth_present": (np.ones((3, 4), bool), "(3, 5)"),
    "extent": (np.ones((3, 2), "f4"), "dtype"),
    "pixel_spacing_mm": (np.ones((3, 2), "i4"), "dtype"),
}


@pytest.mark.parametrize("name", BAD_COLUMNS)
def test_columns_that_contradict_the_archive_are_refused(tmp_path: Path, name: str) -> None:
    values, expected = BAD_COLUMNS[name]
    path = write_archive(tmp_path / "a", pictures(), columns={name: values})
    message = refusal(path)
    assert expected in message
    assert "same" not in message or "case_id" in message  # the id itself is not shown


@pytest.mark.parametrize("fill", ["NaN", "x", [], {}, 1e300, 10**30])
def test_a_columns_fill_value_must_be_one_of_its_values(tmp_path: Path, fill: object) -> None:
    columns = {"optimal_depth": np.zeros(3, "i4")}
    path = write_archive(tmp_path / "a", pictures(), columns=columns)
    edit(path / "optimal_depth/zarr.json", _set("fill_value", fill))
    assert "fill value" in refusal(path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\3\0\0\0",
        b"\xff" * 16,
        b"\3\0\0\0" + b"\xff\xff\xff\x7f" * 3,
        b"\3\0\0\0" + b"\2\0\0\0\xc3\x28" * 3,
        b"\3\0\0\0" + b"\1\0\0\0a" * 3 + b"x",
    ],
    ids=["empty", "cut", "count", "lengths", "no UTF-8", "more"],
)
def test_damaged_ids_are_refused(tmp_path: Path, data: bytes) -> None:
    path = raw_archive(tmp_path / "a", SHAPE, [BYTES])
    codecs = [{"name": "vlen-utf8"}]
    raw_archive(tmp_path / "b", (3,), codecs, data_type="string", fill_value="")
    edit(tmp_path / "b/depths/zarr.json", _chunks(3))
    (tmp_path / "b/depths").rename(path / "case_id")
    (path / "case_id/c").mkdir()
    (path / "case_id/c/0").write_bytes(data)
    refusal(path)


BAD_ATTRIBUTES: list[object] = [
    *({"intensity_range": x} for x in ([1, 1], [5, 0], [0], "wide", [0, "x"], {}, 7, None)),
    *({"intensity_range": [0, x]} for x in (float("nan"), float("inf"), 10**400, True)),
    *({"pixel_spacing_mm": x} for x in ([0, 1], [-1, 1], "fine", [1, 2, 3], 0, float("nan"))),
    {"schema": 2},
    [],
    "text",
]


@pytest.mark.parametrize("attribute", BAD_ATTRIBUTES, ids=lambda x: str(x)[:40])
def test_wrong_attributes_are_refused(tmp_path: Path, attribute: object) -> None:
    path = raw_archive(tmp_path / "a", SHAPE, [BYTES])
    edit(path / "zarr.json", _set("attributes", {"mcdiff": attribute}))
    assert "mcdiff" in refusal(path)
