"""Columns take a bounded memory, whatever is in their chunks; their fill values are honoured."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numcodecs.zstd import Zstd  # type: ignore[import-untyped]

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.errors import ArchiveError
from tests.support.crafting import CHECKED, command, edit, pictures, write_archive

CASES = 12


def text_chunk(text: str) -> bytes:
    """A chunk of one long text, as zarr writes it."""
    body = text.encode()
    plain = b"\1\0\0\0" + len(body).to_bytes(4, "little") + body
    return bytes(Zstd(level=1, checksum=True).encode(plain))


def add_column(path: Path, name: str, shape: tuple[int, ...], dtype: Any, **storage: Any) -> Path:
    """Adds a column without chunks to an archive.  Returns its folder."""
    group = zarr.open_group(path, zarr_format=3)
    group.create_array(name, shape=shape, dtype=dtype, compressors=CHECKED, **storage)
    return path / name


def test_the_texts_of_all_chunks_together_are_bounded_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_archive(tmp_path / "a.zarr", pictures(cases=CASES, depths=1))
    column = add_column(path, "case_id", (CASES,), "string", chunks=(1,))
    (column / "c").mkdir()
    for index in range(CASES):
        (column / "c" / str(index)).write_bytes(text_chunk(f"{index}" + "a" * (40 << 20)))
    tracemalloc.start()
    try:
        assert command(monkeypatch, "check", path) == 4
        assert tracemalloc.get_traced_memory()[1] < 250 << 20
    finally:
        tracemalloc.stop()
    assert "case_id takes more than 65 MiB in memory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "storage"),
    [
        ("depth_present", (CASES, 5), "bool", {"chunks": (1 << 29, 1)}),
        ("extent", (CASES, 2), "i8", {"chunks": (1 << 27, 1)}),
        ("case_id", (CASES,), "string", {"chunks": (1,), "fill_value": "e" * (7 << 20)}),
    ],
)
def test_a_column_whose_metadata_declare_too_much_is_refused(
    tmp_path: Path, name: str, shape: tuple[int, ...], dtype: str, storage: Any
) -> None:
    path = write_archive(tmp_path / "a.zarr", pictures(cases=CASES))
    add_column(path, name, shape, dtype, **storage)
    with pytest.raises(ArchiveError, match=f"{name} takes more than"):
        open_archive(path)


def test_texts_of_a_declared_length_are_bounded_too(tmp_path: Path) -> None:
    images = pictures(cases=2000, depths=1, size=(8, 8))
    path = write_archive(tmp_path / "a.zarr", images, zarr_format=2, chunks=images.shape)
    zarr.open_group(path).create_array("case_id", shape=2000, dtype="<U9999", chunks=(1,))
    with pytest.raises(ArchiveError, match="case_id takes more than"):
        open_archive(path)


def test_long_case_ids_within_the_limit_are_read(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.zarr", pictures(cases=2))
    column = add_column(path, "case_id", (2,), "string", chunks=(1,))
    (column / "c").mkdir()
    for index in range(2):
        (column / "c" / str(index)).write_bytes(text_chunk(f"{index}" + "a" * (1 << 20)))
    assert [len(x) for x in open_archive(path).columns.case_id or ()] == [1 + (1 << 20)] * 2


def filled(path: Path, name: str, shape: tuple[int, ...], dtype: str, fill: object) -> Path:
    """An archive with a column that only has its fill value."""
    column = add_column(write_archive(path, pictures()), name, shape, dtype, chunks=shape)
    edit(column / "zarr.json", lambda document: document.update(fill_value=fill))
    return path


@pytest.mark.parametrize(
    ("dtype", "fill", "value"),
    [
        ("f4", "0x7fc00000", np.nan),
        ("f4", "0x3f000000", 0.5),
        ("f8", "0x7ff8000000000000", np.nan),
        ("f2", "0x3800", 0.5),
        ("f4", "NaN", np.nan),
        ("f4", 0.1, float(np.float32(0.1))),
    ],
)
def test_a_float_column_has_the_fill_value_that_zarr_writes_in_any_form(
    tmp_path: Path, dtype: str, fill: object, value: float
) -> None:
    archive = open_archive(filled(tmp_path / "a.zarr", "pixel_spacing_mm", (3, 2), dtype, fill))
    np.testing.assert_array_equal(archive.columns.pixel_spacing_mm, np.full((3, 2), value))


@pytest.mark.parametrize(
    ("name", "dtype", "fill"),
    [
        ("extent", "u1", 300),
        ("extent", "u2", -1),
        ("extent", "i1", 128),
        ("extent", "i4", 1 << 31),
        ("extent", "i4", 1.5),
        ("extent", "i8", 1 << 70),
        ("pixel_spacing_mm", "f4", 1e39),
        ("pixel_spacing_mm", "f4", "0x7fc0"),
        ("pixel_spacing_mm", "f4", "0x7ff8000000000000"),
        ("pixel_spacing_mm", "f4", "0xyz"),
    ],
)
def test_a_fill_value_that_its_dtype_cannot_hold_is_refused(
    tmp_path: Path, name: str, dtype: str, fill: object
) -> None:
    path = filled(tmp_path / "a.zarr", name, (3, 2), dtype, fill)
    with pytest.raises(ArchiveError, match=f"{name} has fill value .*which its dtype cannot have"):
        open_archive(path)
