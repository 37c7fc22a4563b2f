"""What an archive's metadata say of its axes is honoured or refused, never passed over."""

from pathlib import Path

import numpy as np
import pytest

from mcdiff_batch.engine.archive.archive import open_archive
from tests.support.crafting import Json, pictures
from tests.support.meaning import V2, archive, column, refusal


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    "names",
    [
        ("case", "depth", "y", "x"),
        ("n", "z", "row", "col"),
        ("samples", "planes", "rows", "columns"),
        ("Patient", "Layer", "Height", "Width"),
        ("scan_id", "depth_index", "image_row", "image_column"),
        ("time", "depth", "y", "x"),  # the one that is left over
        ("dim_0", "dim_1", "dim_2", "dim_3"),
        ("phony_dim_0", "phony_dim_1", "y", "x"),
    ],
)
def test_other_words_for_the_same_axes_pass(
    tmp_path: Path, zarr_format: int, names: tuple[str, ...]
) -> None:
    assert open_archive(named(tmp_path / "a.zarr", zarr_format, names)).warnings == ()


def named(path: Path, zarr_format: int, names: tuple[str | None, ...]) -> Path:
    if zarr_format == 2:
        return archive(path, {"_ARRAY_DIMENSIONS": list(names)}, zarr_format=2, **V2)
    return archive(path, dimension_names=list(names))


def test_names_that_are_none_pass(tmp_path: Path) -> None:
    assert open_archive(named(tmp_path / "a.zarr", 3, (None, None, "y", "x"))).warnings == ()


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    ("names", "order"),
    [
        (("case", "depth", "width", "height"), "(0, 1, 3, 2)"),
        (("z", "n", "row", "col"), "(1, 0, 2, 3)"),
        (("y", "x", "depth", "case"), "(3, 2, 0, 1)"),
        (("sample", "row", "column", "plane"), "(0, 3, 1, 2)"),
        (("case", "depth", "x", "x"), "reorder"),
        (("case", "y", "foo", "bar"), "reorder"),
    ],
)
def test_axes_in_another_order_are_refused_with_the_transpose(
    tmp_path: Path, zarr_format: int, names: tuple[str, ...], order: str
) -> None:
    message = refusal(named(tmp_path / "a.zarr", zarr_format, names))
    assert order in message
    assert ", ".join(names) in message


def test_names_that_nobody_knows_give_a_warning(tmp_path: Path) -> None:
    (warning,) = open_archive(named(tmp_path / "a.zarr", 3, ("foo", "bar", "y", "x"))).warnings
    assert "(foo, bar, y, x) are read as (case, depth, y, x)" in warning


def test_the_transposed_axes_of_a_column_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zarr", images=pictures(cases=5))
    present = np.ones((5, 5), bool)
    column(path, "depth_present", present, {}, dimension_names=("depth", "case"))
    assert "(1, 0)" in refusal(path)


@pytest.mark.parametrize("name", ["extent", "pixel_spacing_mm"])
@pytest.mark.parametrize(
    ("attributes", "dimension"),
    [
        ({"order": "xy"}, "axis"),
        ({"columns": ["width", "height"]}, "axis"),
        ({"long_name": "x, y"}, "axis"),
        ({}, "x_y"),
    ],
)
def test_a_column_of_pairs_in_the_order_x_y_is_refused(
    tmp_path: Path, name: str, attributes: Json, dimension: str
) -> None:
    values = np.full((3, 2), 5, "i4" if name == "extent" else "f8")
    path = archive(tmp_path / "a.zarr")
    column(path, name, values, attributes, dimension_names=("case", dimension))
    assert "expected (y, x)" in refusal(path)


def test_a_column_of_pairs_in_the_order_y_x_passes(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zarr")
    values = np.array([[40, 16]] * 3, "i4")
    column(path, "extent", values, {"units": "pixels"}, dimension_names=("n", "yx"))
    assert open_archive(path).read(0).depths.shape == (5, 40, 16)


def test_depths_that_begin_with_the_deepest_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zarr")
    column(path, "z", np.array([25, 20, 15, 10, 5]), {})
    assert "opposite order" in refusal(path)
