"""Images that lie differently in the patient are never depths of one case."""

from pathlib import Path
from typing import Any

import pytest

from mcdiff_batch.engine.archive.archive import open_archive
from tests.support.crafting import command
from tests.support.dicom import setting, write_cases

CORONAL = [1, 0, 0, 0, 0, -1]
MIRRORED = [-1, 0, 0, 0, 0, -1]


def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *values: dict[str, Any]) -> int:
    """Imports a case of two images with these values."""

    def change(image: Any) -> None:
        setting(**values[image.InstanceNumber - 1])(image)

    write_cases(tmp_path / "in", cases=1, change=change)
    words = ("import", "--dicom", tmp_path / "in", "--output", tmp_path / "a.zarr")
    return command(monkeypatch, *words)


DIFFER = {
    "0020,0037": ({"ImageOrientationPatient": CORONAL}, {"ImageOrientationPatient": MIRRORED}),
    "0020,0037 turned by a degree": (
        {"ImageOrientationPatient": CORONAL},
        {"ImageOrientationPatient": [0.99985, 0.01745, 0, 0, 0, -1]},
    ),
    "0020,0037 in one": ({"ImageOrientationPatient": CORONAL}, {}),
    "0020,0020": ({"PatientOrientation": ["L", "F"]}, {"PatientOrientation": ["R", "F"]}),
    "0020,0020 in one": ({"PatientOrientation": ["L", "F"]}, {"PatientOrientation": ""}),
    "0020,0060": ({"Laterality": "L"}, {"Laterality": "R"}),
    "0020,0062": ({"ImageLaterality": "R"}, {"ImageLaterality": "L"}),
    "0020,0060 in one, and the other": ({"Laterality": "R"}, {"ImageLaterality": "R"}),
    "0018,5101": ({"ViewPosition": "AP"}, {"ViewPosition": "PA"}),
    "0018,5100": ({"PatientPosition": "HFP"}, {"PatientPosition": "FFP"}),
    "0070,0041": ({"ImageHorizontalFlip": "N"}, {"ImageHorizontalFlip": "Y"}),
    "0070,0042": ({"ImageRotation": 0}, {"ImageRotation": 180}),
}


@pytest.mark.parametrize("name", DIFFER)
def test_images_of_different_sides_are_refused_with_the_tag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, name: str
) -> None:
    assert imported(tmp_path, monkeypatch, *DIFFER[name]) == 4
    printed = capsys.readouterr().err
    assert f"file 2 of 2 (--show-ids names it): ({name[:9]}) " in printed
    assert "differs from that of the first image of the case" in printed
    assert not (tmp_path / "a.zarr").exists()


SAME = {
    "the last digits": (
        {"ImageOrientationPatient": CORONAL},
        {"ImageOrientationPatient": [0.9999999, -0.00001, 0, 0, 0, -1]},
    ),
    "an unpaired organ": ({"Laterality": "U"}, {"Laterality": ""}),
    "one side": ({"ImageLaterality": "L"}, {"ImageLaterality": "L"}),
    "letters and spaces": ({"Laterality": "r "}, {"Laterality": "R"}),
}


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("name", SAME)
def test_what_says_the_same_is_one_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert imported(tmp_path, monkeypatch, *SAME[name]) == 0
    assert open_archive(tmp_path / "a.zarr").read(0).depths.shape[0] == 2


WRONG = {
    "three numbers": ([1, 0, 0], "six numbers"),
    "seven numbers": ([1, 0, 0, 0, 0, -1, 0], "six numbers"),
    "head at the bottom": ([1, 0, 0, 0, 0, 1], "head at the top"),
    "head at the side": ([0, 0, -1, 1, 0, 0], "a coronal image"),
    "axial": ([1, 0, 0, 0, 1, 0], "a coronal image"),
    "sagittal": ([0, 1, 0, 0, 0, -1], "a coronal image"),
}


@pytest.mark.parametrize("name", WRONG)
def test_directions_of_no_upright_coronal_image_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, name: str
) -> None:
    numbers, expected = WRONG[name]
    values = {"ImageOrientationPatient": numbers}
    assert imported(tmp_path, monkeypatch, values, values) == 4
    printed = capsys.readouterr().err
    assert "(0020,0037) ImageOrientationPatient is [" in printed
    assert expected in printed
