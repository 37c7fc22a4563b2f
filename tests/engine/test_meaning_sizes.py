"""What an archive's metadata say of the size of a px is honoured or refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcdiff_batch.engine.archive.archive import open_archive
from tests.support.crafting import Json, ids
from tests.support.meaning import V2, archive, column, refusal


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


def test_a_size_without_a_unit_gives_a_warning(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zarr", {"pixel_spacing": 5}, attributes={"schema": 1})
    opened = open_archive(path)
    assert "without a unit" in " ".join(opened.warnings)
    assert np.isnan(opened.spacing_mm).all()


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
    unknown, warning = open_archive(path).warnings
    assert "unknown in 1 of 3 cases" in unknown
    assert "1 of 3 cases" in warning
    assert "case 1 is 2000 x 800 mm" in warning
