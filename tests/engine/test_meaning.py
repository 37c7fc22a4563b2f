"""What an archive's metadata say of its values is honoured or refused, never passed over."""

import base64
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import numpy.typing as npt
import pytest
import zarr

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.errors import ArchiveError
from tests.support.crafting import Json, edit, ids, pictures, reason, write_archive

SPACED = {"pixel_spacing_mm": 5}
V2: Json = {"compressors": numcodecs.GZip(level=1)}


def archive(
    path: Path, array: Json | None = None, *, group: Json | None = None, **more: Any
) -> Path:
    """Three cases that give no warning, with attributes of `depths` and of the group."""
    write_archive(path, more.pop("images", pictures()), **{"attributes": SPACED} | more)
    root = zarr.open_group(path)
    root["depths"].attrs.update(array or {})
    root.attrs.update(group or {})
    return path


def column(path: Path, name: str, values: npt.NDArray[Any], attributes: Json, **more: Any) -> None:
    made = zarr.open_group(path).create_array(
        name, shape=values.shape, dtype=values.dtype, attributes=attributes, **more
    )
    made[...] = values


def refusal(path: Path) -> str:
    with pytest.raises(ArchiveError) as caught:
        open_archive(path)
    assert "expected" in str(caught.value)
    return str(caught.value)


# --- names of axes


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


# --- scales, signs and missing values


@pytest.mark.parametrize(
    "attributes",
    [
        {"scale_factor": 0.5},
        {"scale_factor": [16]},
        {"add_offset": -1024},
        {"RescaleSlope": 2},
        {"rescale_intercept": -100.5},
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"photometric": "white-is-zero"},
        {"scale_factor": "half"},
        {"_Unsigned": "false"},
        {"_FillValue": "?"},
        {"valid_range": [0]},
        {"intensity_range": [0, 100]},
        {"pixel_spacing": "wide"},
    ],
)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_statements_on_pixels_that_change_their_meaning_are_refused(
    tmp_path: Path, zarr_format: int, attributes: Json
) -> None:
    more = V2 | {"zarr_format": 2} if zarr_format == 2 else {}
    path = archive(tmp_path / "a.zarr", attributes, **more)
    assert next(iter(attributes)) in refusal(path)


def test_statements_that_change_nothing_pass(tmp_path: Path) -> None:
    attributes = {
        "scale_factor": 1.0,
        "add_offset": 0,
        "_Unsigned": "true",
        "valid_range": [0, 255],
        "_FillValue": "NaN",
        "long_name": "coronal scans",
        "PhotometricInterpretation": "MONOCHROME2",
        "RescaleSlope": "1",
        "BitsStored": 8,
        "units": "1",
    }
    archive_ = open_archive(archive(tmp_path / "a.zarr", attributes))
    assert archive_.warnings == ()
    np.testing.assert_array_equal(archive_.read(1).depths, pictures()[1])


@pytest.mark.parametrize("key", ["BitsStored", "bits_stored", "significant_bits"])
@pytest.mark.parametrize(("bits", "white"), [(12, 4095), (10, 1023), (16, 65535), (99, 65535)])
def test_bits_in_use_say_what_is_white_unless_mcdiff_does(
    tmp_path: Path, key: str, bits: int, white: int
) -> None:
    images = pictures(dtype="u2")
    path = archive(tmp_path / "a.zarr", {key: bits}, images=images)
    assert open_archive(path).intensity_range == (0, white)
    own = {"intensity_range": [0, 999]}
    path = archive(tmp_path / "b.zarr", {key: bits}, images=images, attributes=own)
    assert open_archive(path).intensity_range == (0, 999)


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [
        ("u1", 200),
        ("u2", [200]),
        ("f4", base64.b64encode(struct.pack("<d", 0.5)).decode()),  # as xarray writes it
        ("f2", "0.5"),
    ],
)
def test_a_case_with_missing_px_fails_and_the_others_do_not(
    tmp_path: Path, dtype: str, stored: object
) -> None:
    value = 0.5 if dtype[0] == "f" else 200
    images = pictures(dtype=dtype)
    images[images == value] += images.dtype.type(1)
    images[1, 2, 7, 7] = value
    path = archive(tmp_path / "a.zarr", {"missing_value": stored}, images=images)
    assert reason(path, 1) == "nan"
    assert open_archive(path).read(0).index == 0


def test_missing_px_outside_the_scan_fail_nothing(tmp_path: Path) -> None:
    images = pictures()
    images[images == 255], images[:, :, 30:] = 0, 255
    path = archive(tmp_path / "a.zarr", {"_FillValue": 255}, images=images)
    column(path, "extent", np.array([[30, 16]] * 3, "i4"), {})
    assert open_archive(path).read(0).depths.shape == (5, 30, 16)


def test_px_that_are_missing_by_being_black_are_black(tmp_path: Path) -> None:
    opened = open_archive(archive(tmp_path / "a.zarr", {"_FillValue": 0}))
    assert "read as black" in " ".join(opened.warnings)
    np.testing.assert_array_equal(opened.read(0).depths, pictures()[0])


@pytest.mark.parametrize(
    "attributes", [{"valid_range": [0, 200]}, {"valid_max": 250}, {"valid_min": 3}]
)
def test_a_case_with_values_that_are_not_valid_fails(tmp_path: Path, attributes: Json) -> None:
    assert reason(archive(tmp_path / "a.zarr", attributes), 0) == "range"


def test_the_identity_depends_on_what_is_missing(tmp_path: Path) -> None:
    paths = (archive(tmp_path / f"{k}", {"_FillValue": k}, zarr_format=2, **V2) for k in (7, 8))
    first, second = (open_archive(path).identity for path in paths)
    assert first != second


def test_missing_values_of_columns_mean_that_nothing_is_known(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zarr", attributes=None)
    missing = {"_FillValue": -99}
    column(path, "optimal_depth", np.array([-99, 3, 4], "i4"), missing)
    column(path, "pixel_spacing_mm", np.array([[5, 5], [-99, -99], [9, 9]], "f8"), missing)
    column(path, "extent", np.array([[40, 16], [40, 16], [-99, -99]], "i4"), missing)
    opened = open_archive(path)
    assert (opened.read(0).optimal, opened.read(1).optimal) == (None, 3)
    assert np.isnan(opened.read(1).spacing_mm).all()
    assert reason(path, 2) == "shape"
    column(path, "depth_present", np.array([[9] * 5] * 3, "u1"), {"_FillValue": 9})
    assert "missing" in refusal(path)


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("extent", "mm"),
        ("extent", "cm"),
        ("pixel_spacing_mm", "cm"),
        ("pixel_spacing_mm", "µm"),
        ("pixel_spacing_mm", "inches"),
        ("optimal_depth", "mm"),
    ],
)
def test_a_column_in_another_unit_is_refused(tmp_path: Path, name: str, unit: str) -> None:
    values = {"extent": np.full((3, 2), 16, "i4"), "pixel_spacing_mm": np.ones((3, 2))}
    path = archive(tmp_path / "a.zarr")
    column(path, name, values.get(name, np.zeros(3, "i4")), {"units": unit})
    assert f"unit {unit!r}" in refusal(path)


@pytest.mark.parametrize("unit", ["mm", "millimeters", "mm/pixel", "MM"])
def test_a_spacing_said_to_be_in_mm_passes(tmp_path: Path, unit: str) -> None:
    path = archive(tmp_path / "a.zarr")
    column(path, "pixel_spacing_mm", np.full((3, 2), 5.0), {"units": unit})
    assert open_archive(path).read(2).spacing_mm == (5, 5)


# --- the size of a px, said elsewhere


@pytest.mark.parametrize(
    ("array", "group", "mcdiff"),
    [
        ({"pixel_spacing_mm": 5}, {}, {}),
        ({"pixel_spacing": 0.5, "units": "cm"}, {}, {}),
        ({"pixelSize": [5000, 5000], "pixelSizeUnit": "µm"}, {}, {}),
        ({"pixel_spacing": {"value": 5, "unit": "millimetre"}}, {}, {}),
        ({"PixelSpacing": "0.5 cm"}, {}, {}),
        ({}, {"voxel_size_um": 5000}, {}),
        ({}, {"pixel_spacing_mm": [5, 5]}, {}),
        ({}, {}, {"pixel_spacing_cm": 0.5}),
        ({"pixel_spacing_cm": 0.5}, {}, {"pixel_spacing_mm": 5}),
        ({"pixel_spacing": [5.0, 5.0]}, {}, {"pixel_spacing_mm": 5}),
    ],
)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_size_of_a_px_with_a_unit_is_honoured(
    tmp_path: Path, zarr_format: int, array: Json, group: Json, mcdiff: Json
) -> None:
    more = V2 | {"zarr_format": 2} if zarr_format == 2 else {}
    path = archive(tmp_path / "a.zarr", array, group=group, attributes=mcdiff, **more)
    opened = open_archive(path)
    assert opened.warnings == ()
    assert opened.read(0).spacing_mm == pytest.approx((5, 5), rel=1e-12)


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


def test_a_size_without_a_unit_gives_a_warning(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zarr", {"pixel_spacing": 5}, attributes={"schema": 1})
    opened = open_archive(path)
    assert "without a unit" in " ".join(opened.warnings)
    assert np.isnan(opened.spacing_mm).all()


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


def ome(path: str = "depths", axes: str = "nzyx", unit: str = "micrometer", **more: Any) -> Json:
    """Metadata of an OME-Zarr image whose px are 5 x 4 mm."""
    scale = {"type": "scale", "scale": [1, 1, 5000, 4000]}
    image = {
        "axes": [{"name": x, "type": "space", "unit": unit} for x in axes],
        "datasets": [{"path": path, "coordinateTransformations": [scale]}],
    }
    return {"multiscales": [image | more]}


def test_the_scale_of_an_ome_image_is_honoured(tmp_path: Path) -> None:
    bare = {"schema": 1}
    for k, group in enumerate((ome(), {"ome": ome()})):
        opened = open_archive(archive(tmp_path / f"{k}", group=group, attributes=bare))
        assert opened.read(0).spacing_mm == pytest.approx((5, 4))
    refusal(archive(tmp_path / "xy", group=ome(axes="nzxy"), attributes=bare))
    levels = [{"path": "large"}, {"path": "depths"}]
    small = archive(tmp_path / "small", group=ome(datasets=levels), attributes=bare)
    assert "reduced copy" in refusal(small)
    other = archive(tmp_path / "other", group=ome(path="0"), attributes=bare)
    assert np.isnan(open_archive(other).spacing_mm).all()
    broken = archive(tmp_path / "broken", group={"multiscales": [7]}, attributes=bare)
    assert "multiscales" in refusal(broken)


def test_coordinates_as_xarray_writes_them_are_honoured(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zarr", attributes={"schema": 1})
    for name, size, step in (("y", 40, 0.5), ("x", 16, 0.4)):
        column(path, name, np.arange(size) * step, {"units": "cm"})
    column(path, "depth", np.array([1, 2, 3, 4, 5.5]), {"units": "mm"})
    assert open_archive(path).read(0).spacing_mm == pytest.approx((5, 4))


def test_depths_that_begin_with_the_deepest_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zarr")
    column(path, "z", np.array([25, 20, 15, 10, 5]), {})
    assert "opposite order" in refusal(path)


def test_arrays_of_the_users_own_say_nothing(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zarr")
    column(path, "x", np.arange(40), {"units": "cm"})  # not a coordinate: another length
    column(path, "y", np.arange(40), {})
    column(path, "z", np.array([True, False]), {})
    column(path, "depth", np.array([1, 3, 2, 5, 4]), {"scale_factor": "?"})
    assert open_archive(path).read(0).spacing_mm == (5, 5)


# --- sizes


@pytest.mark.parametrize(
    ("spacing", "warned"),
    [(5, False), (0.5, True), (50, True), ([5, 0.5], True), ([25, 5], True), ([3, 9], False)],
)
def test_a_size_that_no_scan_of_a_spine_has_gives_a_warning(
    tmp_path: Path, spacing: Any, warned: bool
) -> None:
    path = archive(tmp_path / "a.zarr", attributes={"pixel_spacing_mm": spacing})
    assert any("no scan of a spine" in x for x in open_archive(path).warnings) == warned


def test_sizes_are_judged_case_by_case(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zarr", columns={"case_id": ids("PHI", "b", "c")})
    spacing = np.array([[5, 5], [50, 50], [np.nan, np.nan]])
    column(path, "pixel_spacing_mm", spacing, {})
    (warning,) = open_archive(path).warnings
    assert "1 of 3 cases" in warning
    assert "case 1 is 2000 x 800 mm" in warning


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
