"""Evaluation on the shipped bundle: an identity gains nothing, the ceiling is the ceiling."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from click.testing import CliRunner

from mcdiff_batch.engine.archive import open_archive
from mcdiff_batch.engine.contract import SHIPPED, load_bundle
from mcdiff_batch.engine.errors import ArchiveError
from mcdiff_batch.engine.frame import to_frame
from mcdiff_batch.engine.run_cli import run
from mcdiff_batch.train.evaluation import METHODS, as_json, as_text, evaluate


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    from mcdiff_batch.train.phantom_archive import write_phantoms

    path = tmp_path_factory.mktemp("evaluation") / "truth.zarr"
    write_phantoms(path, cases=4, seed=77, workers=1)
    return path


@pytest.fixture(scope="module")
def enhanced(truth):
    output = truth.parent / "truth.enhanced"
    words = ["--input", str(truth), "--output", str(output), "--unit-size", "2"]
    CliRunner().invoke(run, words, standalone_mode=False, catch_exceptions=False)
    return output


def test_the_shipped_bundle_gains_contrast_and_finds_the_bones(enhanced, truth):
    table = evaluate(enhanced, truth, SHIPPED)
    assert table.cases == 4
    rows = table.rows["all"]
    assert rows["enhanced"]["cnr"] > rows["original"]["cnr"]
    assert rows["clean target"]["psnr"] != rows["clean target"]["psnr"]  # infinite: left out
    assert table.label_dice["all"] > 0.6
    assert all(name in as_text(table) for name in METHODS)
    assert json.loads(as_json(table))["about"]["phantom"]["seed"] == 77


def test_the_original_passed_off_as_enhanced_gains_nothing(enhanced, truth, tmp_path):
    copy = shutil.copytree(enhanced, tmp_path / "identity.enhanced")
    frame = load_bundle(SHIPPED).contract.frame
    archive = open_archive(truth)
    images = zarr.open_array(copy / "images.zarr" / "enhanced", mode="r+")
    passed = [to_frame(c.depths[c.optimal], frame, black=0.0) for c in map(archive.read, range(4))]
    images[:] = np.stack(passed).round().astype(np.uint8)
    rows = evaluate(copy, truth, SHIPPED).rows["all"]
    for measure in ("cnr", "snr"):
        assert rows["enhanced"][measure] == pytest.approx(rows["original"][measure], abs=0.1)


def test_a_run_of_another_grid_or_bundle_is_refused(enhanced, truth, tmp_path: Path):
    copy = shutil.copytree(enhanced, tmp_path / "other.enhanced")
    stored = json.loads((copy / "run.json").read_text())
    stored["settings"]["bundle"] = "0" * 64
    (copy / "run.json").write_text(json.dumps(stored))
    with pytest.raises(ArchiveError, match="was made with bundle"):
        evaluate(copy, truth, SHIPPED)
    bare = zarr.create_group(tmp_path / "bare.zarr")
    bare.create_array("depths", data=np.ones((4, 5, 64, 16), np.uint8))
    with pytest.raises(ArchiveError, match="only phantoms know"):
        evaluate(enhanced, tmp_path / "bare.zarr", SHIPPED)
