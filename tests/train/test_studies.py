"""`phantom --dicom` writes the phantoms of the archive as studies that `import --dicom` reads."""

from pathlib import Path

import numpy as np
import pydicom
import pytest

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.train.phantom.case import phantom
from tests.support.crafting import command, snapshot


def test_the_studies_hold_the_pixels_of_the_phantoms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("phantom", "--cases", 2, "--seed", 1, "--first", 3, "--workers", 1, "--dicom")
    assert command(monkeypatch, *words, tmp_path / "in") == 0
    words_in = ("import", "--dicom", tmp_path / "in", "--output", tmp_path / "a.zarr")
    assert command(monkeypatch, *words_in) == 0
    archive = open_archive(tmp_path / "a.zarr")
    found = {archive.read(k).depths.tobytes(): archive.read(k) for k in range(archive.cases)}
    for index in (3, 4):
        case = phantom(1, index)
        read = found[case.depths.tobytes()]
        assert read.spacing_mm == pytest.approx((case.pixel_spacing_mm,) * 2)
    assert command(monkeypatch, *words, tmp_path / "in") == 2  # nothing is overwritten


def test_the_studies_depend_on_seed_and_case_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("phantom", "--workers", 1, "--seed", 5)
    assert command(monkeypatch, *words, "--cases", 2, "--dicom", tmp_path / "two") == 0
    assert command(monkeypatch, *words, "--cases", 1, "--first", 1, "--dicom", tmp_path / "1") == 0
    name = "phantom-5-000001"
    assert snapshot(tmp_path / "two" / name) == snapshot(tmp_path / "1" / name)
    uids = [pydicom.dcmread(x).SOPInstanceUID for x in (tmp_path / "two").rglob("*.dcm")]
    assert len(set(uids)) == 10
    first = pydicom.dcmread(tmp_path / "1" / name / "depth_1.dcm")
    np.testing.assert_array_equal(first.pixel_array, phantom(5, 1).depths[0])


def test_an_archive_or_a_folder_is_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    assert command(monkeypatch, "phantom") == 2
    assert command(monkeypatch, "phantom", "--output", "a.zarr", "--dicom", "b") == 2
