"""Evaluation-only segmenters: what is shipped, and that the command makes such."""

import numpy as np
import pytest
from click.testing import CliRunner

from mcdiff_batch.engine.errors import BundleError
from mcdiff_batch.train.evaluation.cli import segmenter
from mcdiff_batch.train.segmenters.rater import SHIPPED, load_rater


def test_the_two_shipped_raters_are_small_good_and_trained_on_different_phantoms():
    about = [load_rater(path).about for path in SHIPPED]
    for path, expected in zip(SHIPPED, about, strict=True):
        assert path.stat().st_size < 2.5e6
        assert float(expected["dice_original"]) > 0.88
        assert float(expected["dice_clean"]) > 0.88
    assert len({expected["phantom_seed"] for expected in about}) == 2
    assert len({expected["seed"] for expected in about}) == 2


def test_a_shipped_rater_names_no_folder_of_the_machine_it_was_made_on():
    for path in SHIPPED:
        data = path.read_bytes()
        assert b"/work" not in data
        assert b"site-packages" not in data


def test_the_command_trains_a_rater_that_reads(phantoms, tmp_path):
    output = tmp_path / "rater.onnx"
    words = ["--data", str(phantoms), "--output", str(output), "--seed", "3", "--steps", "50"]
    said = CliRunner().invoke(segmenter, words, catch_exceptions=False).output.splitlines()
    losses = [float(line.split()[2]) for line in said if "loss" in line]
    assert losses[-1] < losses[0]
    rater = load_rater(output)
    assert rater.about["phantom_seed"] == "5"
    assert rater.about["steps"] == "50"
    label = rater.read(np.zeros((rater.frame.height, rater.frame.width), np.float32))
    assert label.shape == (rater.frame.height, rater.frame.width)
    assert label.dtype == np.uint8


def test_what_is_no_segmenter_is_refused(tmp_path):
    from mcdiff_batch.engine.model.contract import SHIPPED as BUNDLE

    with pytest.raises(BundleError, match="is not a segmenter"):
        load_rater(BUNDLE / "denoiser.onnx")
