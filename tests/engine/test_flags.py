"""Cases whose archive probably says something wrong of them are flagged, with or without a gate."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.archive.audit import audit
from mcdiff_batch.engine.image.columns import LEVELS, LUMBAR, THORACIC
from mcdiff_batch.engine.image.gate import explain, failed_plausibility
from mcdiff_batch.engine.model.framing import frame_case
from mcdiff_batch.engine.output.manifest import read_entries
from tests.support.crafting import pictures, write_archive
from tests.support.running import CONTRACT, archive, inline, job

SIZE = (430.0, 110.0)  # mm


def flags(path: Path, **changes: Any) -> list[tuple[str, ...]]:
    """The flags of a run, by case."""
    output = path.with_suffix(".enhanced")
    inline(replace(job(path, output), **changes))
    return [entry.flags for entry in read_entries(output)]


def scans(path: Path, tops: tuple[float, ...], dtype: str, **attributes: Any) -> Path:
    """Cases of noise from 0 to each of `tops`."""
    images = pictures(cases=len(tops), depths=2, dtype="f4")
    images *= np.array(tops, "f4").reshape(-1, 1, 1, 1)
    return write_archive(
        path, images.astype(dtype), attributes={"pixel_spacing_mm": 10} | attributes
    )


@pytest.mark.parametrize(
    ("dtype", "tops", "attributes", "faint"),
    [
        ("u2", (1023, 4095, 16383, 65535), {}, (1, 1, 1, 0)),  # 10, 12, 14 and 16 bit
        ("u1", (63, 64, 70, 128), {}, (1, 0, 0, 0)),
        ("f4", (0.05, 0.24, 0.3, 1), {}, (1, 1, 0, 0)),
        ("u2", (255, 4095), {"intensity_range": [0, 4095]}, (1, 0)),
        ("f2", (20, 255), {"intensity_range": [0, 255]}, (1, 0)),
    ],
)
def test_a_case_that_uses_a_small_part_of_the_intensity_range_is_flagged(
    tmp_path: Path, dtype: str, tops: tuple[float, ...], attributes: Any, faint: tuple[int, ...]
) -> None:
    path = scans(tmp_path / "a.zarr", tops, dtype, **attributes)
    assert ["intensity" in x for x in flags(path)] == [bool(x) for x in faint]
    (warning,) = audit(open_archive(path)).warnings  # `check` says what `run` flags
    assert warning.startswith(f"{sum(faint)} of {len(tops)} cases use values from")


@pytest.mark.parametrize(
    ("dtype", "top", "better"),
    [
        ("u2", 1000, "0 and 1023"),
        ("u2", 4000, "0 and 4095"),
        ("u2", 16000, "0 and 16383"),
        ("u1", 60, "0 and 63"),
        ("u1", 7, "0 and 7"),
    ],
)
def test_check_names_the_range_to_set(tmp_path: Path, dtype: str, top: int, better: str) -> None:
    warnings = audit(open_archive(scans(tmp_path / "a.zarr", (top,), dtype))).warnings
    assert f"for example {better}, as the attribute mcdiff.intensity_range" in warnings[0]


def test_values_above_an_offset_are_faint_too(tmp_path: Path) -> None:
    images = pictures(depths=2, dtype="u2") // 16 + 32768
    path = write_archive(tmp_path / "a.zarr", images, attributes={"pixel_spacing_mm": 10})
    assert all("intensity" in x for x in flags(path))
    (warning,) = audit(open_archive(path)).warnings
    assert "for example 32768 and 36863" in warning


def test_a_few_bright_px_do_not_hide_a_faint_scan(tmp_path: Path) -> None:
    images = pictures(depths=2, size=(200, 80)) // 5
    images[:, :, :3, :3] = 255  # a stamp
    path = write_archive(tmp_path / "a.zarr", images, attributes={"pixel_spacing_mm": 2})
    assert all("intensity" in x for x in flags(path))


@pytest.mark.parametrize("spacing", [1e-9, 0.1, 1, 100, 1e9, [10, 1], [1, 10], [30, 10]])
def test_a_scan_of_no_humans_size_is_flagged(tmp_path: Path, spacing: Any) -> None:
    path = scans(tmp_path / "a.zarr", (255,), "u1", pixel_spacing_mm=spacing)
    assert flags(path) == [("anatomy",)]
    assert "no scan of a spine" in open_archive(path).warnings[0]


def test_black_margins_do_not_count(tmp_path: Path) -> None:
    images = np.zeros((1, 2, 60, 80), "u1")  # 600 x 800 mm
    images[..., 10:50, 32:48] = pictures(cases=1, depths=2)
    path = write_archive(tmp_path / "a.zarr", images, attributes={"pixel_spacing_mm": 10})
    framed = frame_case(open_archive(path).read(0), CONTRACT)
    assert framed.size_mm == pytest.approx((400, 160), rel=0.3)
    assert failed_plausibility({}, False, framed.size_mm) == ()


def test_cases_of_unknown_spacing_and_sound_ones_are_not_flagged(tmp_path: Path) -> None:
    assert flags(archive(tmp_path / "sound.zarr", 3)) == [()] * 3
    path = archive(tmp_path / "unknown.zarr", 3)
    zarr.open_group(path).attrs["mcdiff"] = {"schema": 1}
    assert flags(path) == [()] * 3


@pytest.mark.parametrize(
    ("quality", "size", "expected"),
    [
        ({LEVELS.after: 17, THORACIC.after: 60.0, LUMBAR.after: None}, SIZE, ()),
        ({LEVELS.after: 19}, SIZE, ("anatomy",)),
        ({LUMBAR.after: 130.0}, SIZE, ("anatomy",)),
        ({THORACIC.after: 130.0}, SIZE, ("anatomy",)),
        ({LEVELS.after: 54}, (float("nan"), float("nan")), ()),
        ({}, SIZE, ()),
        ({}, (1588.0, 450.0), ("anatomy",)),
        ({}, (16.0, 4.0), ("anatomy",)),
    ],
)
def test_levels_and_angles_that_no_human_has_are_flagged(
    quality: Any, size: tuple[float, float], expected: tuple[str, ...]
) -> None:
    assert failed_plausibility(quality, False, size) == expected
    assert failed_plausibility(quality, True, size) == ("intensity", *expected)


def test_a_scan_in_which_no_bone_is_found_is_flagged(tmp_path: Path) -> None:
    images = pictures(cases=2, depths=2)
    images[0] = 255 - images[0] % 5  # without dark px, which the fake model takes for bone
    path = write_archive(tmp_path / "a.zarr", images, attributes={"pixel_spacing_mm": 10})
    assert ["bone" in x for x in flags(path)] == [True, False]


def test_each_flag_is_explained() -> None:
    assert explain(("bone",), {}) == ["no bone was found in the scan"]
    lines = explain(("intensity", "anatomy"), {})
    assert "mcdiff.intensity_range" in lines[0]
    assert "pixel spacing" in lines[1]


def test_no_phantom_is_flagged(phantoms: Path) -> None:
    opened = open_archive(phantoms)
    assert opened.warnings == ()
    for index in range(opened.cases):
        framed = frame_case(opened.read(index), replace(CONTRACT, depth_weights=(0.2,) * 5))
        assert failed_plausibility({}, framed.faint, framed.size_mm) == ()
