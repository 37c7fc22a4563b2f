"""The calibration report measures what it says, and calls no miss a hit."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from mcdiff_batch.bench.calibration import TARGETS, TOLERANCE, describe, equalised
from mcdiff_batch.bench.cli import bench
from mcdiff_batch.train.anatomy import LUMP, PROCESS, RIB
from mcdiff_batch.train.phantom import SPACING_MM

SIZES = {PROCESS: (34, 30), RIB: (32, 36), LUMP: (54, 110)}  # px


@pytest.fixture
def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, label and strip of rectangles on a straight strip of 150 px."""
    inside = np.zeros((600, 200), bool)
    inside[20:580, 25:175] = True
    label = np.zeros(inside.shape, np.uint8)
    for top, (kind, (high, wide)) in zip((50, 150, 300), SIZES.items(), strict=True):
        label[top : top + high, 40 : 40 + wide] = kind
    noise = np.random.default_rng(0).normal(0, 0.01, inside.shape)
    image = (np.where(label > 0, 0.1, 0.3) + noise).clip(0.01) * inside
    return image.astype(np.float32), label, inside


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
    assert found["auc"] == pytest.approx(1, abs=1e-3)
    assert found["ratio_process"] < 0.3
    assert abs(found["lateral_1"]) < 0.25  # white noise, but for the blur that was taken away


def test_a_tone_curve_changes_nothing_after_equalising(
    drawn: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    image, label, inside = drawn
    bent = image.astype(np.float64) ** 3
    assert (equalised(image, inside) == equalised(bent, inside)).all()
    assert describe(bent, label, inside) == describe(image, label, inside)


def test_every_target_has_a_row_that_says_whether_it_is_met(tmp_path: Path) -> None:
    sheet, output = tmp_path / "sheet.png", tmp_path / "calibration.json"
    Image.new("L", (640, 2500), 90).save(tmp_path / "real.png")
    options = ["phantom", "--cases", "8", "--sheet", str(sheet), "--output", str(output)]
    done = CliRunner().invoke(bench, [*options, "--beside", str(tmp_path / "real.png")])
    assert done.exit_code == 0, done.output
    rows = json.loads(output.read_text())["runs"]
    assert [row["target"] for row in rows] == [target.name for target in TARGETS]
    for row in rows:
        assert row["within"] == (abs(row["measured"] / row["wanted"] - 1) <= TOLERANCE)
        assert not (row["within"] and "reason" in row)
    with Image.open(sheet) as picture:
        assert picture.height > picture.width > 12 * 50
