"""What an archive's metadata say of its px is honoured or refused, never passed over."""

import base64
import struct
from pathlib import Path

import numpy as np
import pytest

from mcdiff_batch.engine.archive.archive import open_archive
from tests.support.crafting import Json, pictures, reason
from tests.support.meaning import V2, archive, column, refusal


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
