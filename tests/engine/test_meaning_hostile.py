"""Metadata that are hostile, contradict each other or mean something else."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.errors import ArchiveError
from tests.support.crafting import Json, edit, pictures, write_archive
from tests.support.meaning import archive, column, refusal


@pytest.mark.parametrize(
    ("array", "group", "mcdiff"),
    [
        ({"pixel_spacing_cm": 5}, {}, {"pixel_spacing_mm": 5}),
        ({"pixel_spacing_mm": 5}, {"pixel_spacing_mm": 4}, {}),
        ({"pixel_spacing_mm": [5, 4]}, {}, {}),  # which is y?
        ({"pixel_spacing_mm": 0}, {}, {}),
        ({}, {}, {"pixel_spacing_mm": 5, "unit": "cm"}),
        ({}, {"intensity_range": [0, 9]}, {}),
        ({}, {}, {"intensityRange": [0, 9]}),
        ({}, {}, {"pixelspacings_mm": 9}),
    ],
)
def test_statements_that_contradict_or_are_misspelt_are_refused(
    tmp_path: Path, array: Json, group: Json, mcdiff: Json
) -> None:
    refusal(archive(tmp_path / "a.zarr", array, group=group, attributes=mcdiff))


HOSTILE: list[object] = [
    *(None, True, 10**400, -(10**400), float("inf"), float("nan"), 1e308, "", " " * 5000 + "x y"),
    *(
        [],
        [[]],
        [None, None],
        [1, "x"],
        {},
        {"value": {}},
        {"y": 10**400, "x": 1},
        "\x1b[31m\u202e",
    ),
]
STATEMENTS = ("scale_factor", "_FillValue", "valid_range", "units", "_Unsigned", "BitsStored")
STATEMENTS += ("pixel_spacing", "pixel_spacing_mm", "pixel_size_unit", "order", "photometric")


@pytest.mark.parametrize("key", [*STATEMENTS, "multiscales", "ome", "_ARRAY_DIMENSIONS"])
def test_a_hostile_statement_is_refused_or_changes_nothing(tmp_path: Path, key: str) -> None:
    path = archive(tmp_path / "a.zarr", attributes={"schema": 1})
    multiscales = [[{"datasets": [{"path": "depths", key: x}], "axes": x}] for x in HOSTILE]
    for value in (*HOSTILE, *multiscales):
        for folder in (path, path / "depths"):
            edit(folder / "zarr.json", lambda x: x.update(attributes={key: value}))  # noqa: B023
            with suppress(ArchiveError):
                open_archive(path)
            edit(folder / "zarr.json", lambda x: x.update(attributes={}))


def test_arrays_of_the_users_own_say_nothing(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zarr")
    column(path, "x", np.arange(40), {"units": "cm"})  # not a coordinate: another length
    column(path, "y", np.arange(40), {})
    column(path, "z", np.array([True, False]), {})
    column(path, "depth", np.array([1, 3, 2, 5, 4]), {"scale_factor": "?"})
    assert open_archive(path).read(0).spacing_mm == (5, 5)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("pixel_spacing_mm", "0.45", "is '0.45', expected a number, or the numbers y and x, in mm"),
        ("pixel_spacing_mm", [1, 2, 3], r"is \[1, 2, 3\], expected a number"),
        ("pixel_spacing_mm", {"y": 1}, "is .*, expected a number"),
        ("intensity_range", "0 to 255", "is '0 to 255', expected two numbers, black and white"),
        ("intensity_range", [0], r"is \[0\], expected two numbers"),
        ("schema", "1", "is '1', expected 1"),
    ],
)
def test_a_value_of_another_type_is_named_with_what_was_expected(
    tmp_path: Path, key: str, value: object, message: str
) -> None:
    write_archive(tmp_path / "a.zarr", pictures(), attributes={key: value})
    with pytest.raises(ArchiveError, match=f"mcdiff.{key} {message}") as caught:
        open_archive(tmp_path / "a.zarr")
    assert str(caught.value).count("expected") == 1
