"""The script for one real image, on a bundle that calls every dark px a process."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from mcdiff_batch.bench.studies.real_image import main
from mcdiff_batch.engine.errors import ArchiveError, UsageError
from mcdiff_batch.engine.image.metrics import log10_db
from tests.support.running import bundle

SIZE = (128, 64)  # four times the bundle's frame, so that bone ends between px
BONE = np.s_[40:72, 16:40]
MASK = 2  # a process, as the expert numbers it


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A folder of a scan with one dark bone in bright speckle, its mask, and the bundle."""
    folder = tmp_path_factory.mktemp("real")
    image = np.full(SIZE, 180, np.uint8)
    image[:, ::8] = image[:, 1::8] = image[:, 2::8] = image[:, 3::8] = 220
    image[BONE] = 40
    mask = np.zeros(SIZE, np.uint8)
    mask[BONE] = MASK
    Image.fromarray(image).save(folder / "scan.png")
    Image.fromarray(mask).save(folder / "mask.png")
    bundle(folder / "bundle")
    return folder


def run_study(scan, *more, mask="mask.png"):
    words = ["--image", scan / "scan.png", "--label", scan / mask, "--bundle", scan / "bundle"]
    done = CliRunner().invoke(
        main, [str(x) for x in (*words, *more)], standalone_mode=False, catch_exceptions=False
    )
    return done.stdout, json.loads(done.stdout.splitlines()[-1])


def test_a_real_image_is_compared_with_its_mask_before_and_after(scan, tmp_path):
    words = ["--output", tmp_path / "told.json", "--picture", tmp_path / "seen.png"]
    text, found = run_study(scan, *words, "--spacing", 0.5, "--", "--steps", 2)
    for when in ("original", "enhanced"):
        assert found[when]["dice"] == {"bone": 1, "process": 1, "rib": None, "lump": None}
        assert found[when]["roc_area"] == 1
    assert len(found["run"]["ladder"]) == 2
    assert found["bars"][0]["verdict"] == "stretch met"
    assert found["bars"][2]["verdict"] == "not measured"
    assert json.loads((tmp_path / "told.json").read_text()) == found
    assert str(tmp_path) not in json.dumps(found)
    assert str(scan) not in json.dumps(found)
    for said in ("Dice, rib", "CNR, 20 ln", "SNR, dB (20 log10)"):
        assert said in text
    picture = np.asarray(Image.open(tmp_path / "seen.png"))
    assert picture.shape == (64, 3 * 32 + 2 * 6, 3)
    assert np.ptp(picture[28, 16].astype(int)) == 0  # the scan is grey
    assert np.ptp(picture[28, 2 * 38 + 16].astype(int)) > 50  # the label map is not


def test_both_logarithms_measure_the_ring_around_the_experts_bone(scan):
    _, found = run_study(scan, "--spacing", 0.5, "--", "--steps", 2)
    grey = (40 / 255, 180 / 255, 220 / 255)  # bone, and speckle in px of the frame: half and half
    mean, sd = (grey[1] + grey[2]) / 2, (grey[2] - grey[1]) / 2
    before = found["original"]
    assert before["cnr_log10"] == pytest.approx(log10_db((mean - grey[0]) / sd), abs=0.2)
    assert before["snr_log10"] == pytest.approx(log10_db((1 - grey[0]) / sd), abs=0.2)
    for measure in ("cnr", "snr"):
        ratio = before[f"{measure}_ln"] / before[f"{measure}_log10"]
        assert ratio == pytest.approx(np.log(10), rel=1e-3)


def test_the_label_order_says_what_the_mask_numbers(scan):
    _, found = run_study(scan, "--label-order", "process,rib,lump", "--", "--steps", 2)
    assert found["original"]["dice"] == {"bone": 1, "process": 0, "rib": 0, "lump": None}


def test_a_mask_that_does_not_fit_the_image_is_refused(scan):
    Image.fromarray(np.zeros((128, 60), np.uint8)).save(scan / "narrow.png")
    with pytest.raises(ArchiveError, match=r"the mask is \(128, 60\) .* expected \(128, 64\)"):
        run_study(scan, mask="narrow.png")
    Image.fromarray(np.full(SIZE, 4, np.uint8)).save(scan / "four.png")
    with pytest.raises(ArchiveError, match="has a label 4"):
        run_study(scan, mask="four.png")
    with pytest.raises(UsageError, match="process,rib,lump in the order of the mask"):
        run_study(scan, "--label-order", "rib,process")
