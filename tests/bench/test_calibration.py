"""The calibration report measures what it says, and calls no miss a hit."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from mcdiff_batch.bench.cli import bench
from mcdiff_batch.bench.studies.calibration import TOLERANCE, contrasts, describe
from mcdiff_batch.bench.studies.targets import TARGETS
from mcdiff_batch.train.phantom.anatomy import LUMP, PROCESS, RIB
from mcdiff_batch.train.phantom.case import SPACING_MM

SIZES = {PROCESS: (34, 30), RIB: (32, 36), LUMP: (54, 110)}  # px


@pytest.fixture
def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, label and strip of rectangles on a straight strip of 150 px."""
    inside = np.zeros((600, 200), bool)
    inside[20:580, 25:175] = True
    label = np.zeros(inside.shape, np.uint8)
    for top, (kind, (high, wide)) in zip((50, 150, 300), SIZES.items(), strict=True):
        label[top : top + high, 40 : 40 + wide] = kind
    noise = np.random.default_rng(0).normal(0, 5, inside.shape)
    image = (np.where(label > 0, 40, 160) + noise).clip(1) * inside
    return image.astype(np.uint8), label, inside


def test_known_sizes_are_measured_in_millimetres(
    drawn: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    found = describe(*drawn)
    for name, kind in (("process", PROCESS), ("rib", RIB), ("lump", LUMP)):
        high, wide = SIZES[kind]
        assert found[f"{name}_height"] == pytest.approx(high * SPACING_MM)
        assert found[f"{name}_width"] == pytest.approx(wide * SPACING_MM)
    assert found["strip_width"] == pytest.approx(150 * SPACING_MM)
    assert found["edge_sd"] == pytest.approx(0, abs=1e-9)
    assert found["auc"] == pytest.approx(1, abs=1e-2)
    assert found["tissue_mean"] == pytest.approx(160, abs=1)
    assert found["lump_mean"] == pytest.approx(40, abs=1)
    assert abs(found["across_2"]) < 0.05  # white noise
    assert abs(found["along_2"]) < 0.05


def test_contrast_is_that_of_equations_12_and_13_in_natural_logarithms(
    drawn: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    image, label, inside = drawn
    spread = np.where(np.indices(image.shape).sum(0) // 16 % 2, 30.0, -30.0)
    image = (np.where(label > 0, 60, 180) + spread) * inside
    found = contrasts(image.astype(np.uint8), label, inside)
    assert found["snr"] == pytest.approx(20 * np.log((255 - 60) / 30), abs=1.5)
    assert found["cnr"] == pytest.approx(20 * np.log(120 / np.hypot(30, 30)), abs=1.5)


def test_every_target_has_a_row_that_says_whether_it_is_met(tmp_path: Path) -> None:
    sheet, output = tmp_path / "sheet.png", tmp_path / "calibration.json"
    Image.new("L", (640, 2500), 90).save(tmp_path / "real.png")
    options = ["phantom", "--cases", "8", "--sheet", str(sheet), "--output", str(output)]
    done = CliRunner().invoke(bench, [*options, "--beside", str(tmp_path / "real.png")])
    assert done.exit_code == 0, done.output
    rows = json.loads(output.read_text())["runs"]
    assert [row["target"] for row in rows] == [target.name for target in TARGETS]
    for row in rows:
        low, high = row["range"]
        near = abs(row["measured"] / row["wanted"] - 1) <= TOLERANCE
        assert row["within"] == (low <= row["wanted"] <= high if row["of"] == "spans" else near)
        assert not (row["within"] and "reason" in row)
    with Image.open(sheet) as picture:
        assert picture.size[0] == 6 * 130
        assert picture.size[1] > 3 * 520
