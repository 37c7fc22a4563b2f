"""Which values of pixels and columns fail a case, and which pass."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcdiff_batch.engine.archive.archive import open_archive
from tests.support.crafting import pictures, reason, write_archive


def failure_after(
    tmp_path: Path, change: Callable[[Any], object], dtype: str = "f4", **more: Any
) -> str:
    """Why case 1 fails after `change` to its depths [D, y, x]; the other cases are good."""
    images = pictures(dtype=dtype)
    change(images[1])
    path = write_archive(tmp_path / "a.zarr", images, **more)
    for index in (0, 2):
        np.testing.assert_array_equal(open_archive(path).read(index).depths, images[index])
    return reason(path, 1)


def _put(where: Any, value: float) -> Callable[[Any], object]:
    return lambda depths: depths.__setitem__(where, value)


@pytest.mark.parametrize("dtype", ["f2", "f4"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_nan_or_infinity_in_one_depth_fails_a_case(
    tmp_path: Path, dtype: str, value: float
) -> None:
    assert failure_after(tmp_path, _put((3, 7, 7), value), dtype) == "nan"


@pytest.mark.parametrize("value", [0, 1, 0.5])
def test_one_constant_depth_fails_a_case(tmp_path: Path, value: float) -> None:
    assert failure_after(tmp_path, _put(2, value)) == "constant"


@pytest.mark.parametrize("value", [-0.6, 1.6, 255, -3e38])
def test_values_far_outside_the_intensity_range_fail_a_case(tmp_path: Path, value: float) -> None:
    assert failure_after(tmp_path, _put((0, 0, 0), value)) == "range"


def test_values_a_little_outside_and_subnormal_ones_pass(tmp_path: Path) -> None:
    images = pictures(dtype="f4")
    images[0, 0, 0, :3] = (-0.4, 1.4, 1e-40)
    assert open_archive(write_archive(tmp_path / "a", images)).read(0).index == 0


def test_a_spoiled_depth_that_is_absent_or_padding_spoils_nothing(tmp_path: Path) -> None:
    images = pictures(dtype="f4")
    images[1, 2], images[1, :, 30:] = np.nan, np.nan
    present = np.array([[1] * 5, [1, 1, 0, 1, 1], [1] * 5], bool)
    extent = np.array([[40, 16], [30, 16], [40, 16]], "i4")
    columns = {"depth_present": present, "extent": extent}
    case = open_archive(write_archive(tmp_path / "a", images, columns=columns)).read(1)
    assert np.isfinite(case.depths).all()
    assert (case.depths[2] == 0).all()


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("extent", [[40, 16], [41, 16], [40, 16]], "shape"),
        ("extent", [[40, 16], [40, 7], [40, 16]], "shape"),
        ("extent", [[40, 16], [-40, 16], [40, 16]], "shape"),
        ("optimal_depth", [0, 5, 0], "range"),
        ("optimal_depth", [0, -2, 0], "range"),
        ("depth_present", [[1] * 5, [0] * 5, [1] * 5], "no-depths"),
    ],
)
def test_a_columns_bad_row_fails_its_case(
    tmp_path: Path, name: str, values: Any, expected: str
) -> None:
    dtype = bool if name == "depth_present" else "i8"
    columns = {name: np.array(values, dtype)}
    path = write_archive(tmp_path / "a", pictures(), columns=columns)
    assert reason(path, 1) == expected
    assert open_archive(path).read(0).index == 0
