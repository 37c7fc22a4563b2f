"""Evaluation: an identity gains nothing, the ceiling is the ceiling, a lost level is counted."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from PIL import Image

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.cli.run import run
from mcdiff_batch.engine.errors import ArchiveError, UsageError
from mcdiff_batch.engine.image.frame import Frame, to_frame
from mcdiff_batch.engine.model.contract import SHIPPED
from mcdiff_batch.train.evaluation.bars import FEWEST, TOO_FEW, bars
from mcdiff_batch.train.evaluation.cli import evaluate as command
from mcdiff_batch.train.evaluation.evaluate import evaluate
from mcdiff_batch.train.evaluation.rivals import METHODS
from mcdiff_batch.train.evaluation.sources import on_frame
from mcdiff_batch.train.evaluation.tables import as_text

CASES = 3


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    from mcdiff_batch.train.phantom.archive import write_phantoms

    path = tmp_path_factory.mktemp("evaluation") / "truth.zarr"
    write_phantoms(path, cases=CASES, seed=77, workers=1)
    return path


@pytest.fixture(scope="module")
def enhanced(truth):
    output = truth.parent / "truth.enhanced"
    words = ["--input", str(truth), "--output", str(output), "--steps", "3", "--batch-size", "1"]
    CliRunner().invoke(run, words, standalone_mode=False, catch_exceptions=False)
    return output


@pytest.fixture(scope="module")
def originals(truth, tmp_path_factory):
    """The optimal depths as they are stored, as a method's images."""
    archive, path = open_archive(truth), tmp_path_factory.mktemp("identity") / "images.zarr"
    images = np.zeros((CASES, *archive.grid), np.uint8)
    for case in map(archive.read, range(CASES)):
        y, x = case.depths.shape[1:]
        images[case.index, :y, :x] = case.depths[case.optimal]
    zarr.create_group(path).create_array("enhanced", data=images)
    return path


@pytest.fixture(scope="module")
def identity(originals, truth):
    return evaluate(truth, SHIPPED, images=originals)


def means(found, group="all cases"):
    return found.groups[group]


def test_the_original_scored_as_enhanced_gains_nothing(identity):
    assert identity.cases == CASES
    for measure in ("cnr_ln", "snr_ln", "cnr_log10", "snr_log10", "psnr", "dice", "lost"):
        rows = means(identity)
        assert rows["enhanced"][measure] == pytest.approx(rows["original"][measure], abs=0.1)
    assert all(abs(share.value) < 0.02 for share in identity.gain_share.values())
    assert all(abs(gain) < 0.1 for gain in identity.identity_gain.values())


def test_the_clean_target_scored_as_enhanced_has_all_of_the_ceilings_gain(truth):
    found = evaluate(truth, SHIPPED, images=truth / "clean")
    assert found.gain_share["cnr"].value == pytest.approx(1)
    assert means(found)["enhanced"]["psnr"] > 100
    assert means(found)["enhanced"]["ms_ssim"] == pytest.approx(1)
    verdicts = {bar.title: bar.verdict for bar in bars(found)}
    assert verdicts["identity run, gain in CNR, 20 ln"] == "met"
    for measure, ceiling in (("CNR", "cnr_ln"), ("SNR", "snr_ln")):
        (gain,) = (x for x in bars(found) if x.title == f"{measure} over the original, 20 ln")
        rows = means(found)
        assert gain.measured == pytest.approx(
            rows["clean target"][ceiling] - rows["original"][ceiling]
        )


def test_a_level_wiped_out_is_lost_and_the_angle_is_not_read_or_far_off(truth, originals, tmp_path):
    copy = shutil.copytree(originals, tmp_path / "wiped.zarr")
    images = zarr.open_array(copy / "enhanced", mode="r+")
    whole = np.asarray(images[:])
    lower = whole[:, whole.shape[1] // 2 :]
    lower[lower > 0] = 200  # as bright as tissue
    images[:] = whole
    found = evaluate(truth, SHIPPED, images=copy)
    rows = means(found)
    assert rows["enhanced"]["lost"] > rows["original"]["lost"] + 3
    lumbar = found.angles[0].rows["enhanced"][1]
    assert lumbar.cases < CASES or lumbar.mad > 20
    assert judge(found)["levels lost or invented, per case"] == "missed"


def judge(found):
    """The verdicts, as if there were enough cases."""
    return {bar.title: bar.verdict for bar in bars(replace(found, cases=FEWEST))}


def test_few_cases_get_no_verdict_and_the_reason(identity):
    verdicts = {bar.title: bar.verdict for bar in bars(identity)}
    assert verdicts.pop("identity run, gain in CNR, 20 ln") == "met"  # true of every case alone
    assert verdicts.pop("identity run, gain in SNR, 20 ln") == "met"
    assert set(verdicts.values()) == {TOO_FEW, "reported"}
    assert f"{TOO_FEW}: a verdict needs {FEWEST} cases" in as_text(identity)
    enough = replace(identity, cases=FEWEST)
    assert TOO_FEW not in judge(enough).values()
    assert TOO_FEW not in as_text(enough)


def test_raters_read_clean_phantoms_nearly_right(identity):
    rows = means(identity)
    assert rows["clean target"]["dice"] > 0.8
    assert rows["clean target"]["lost"] + rows["clean target"]["invented"] < 2
    against_truth = identity.angles[0].rows["clean target"]
    assert all(angles.cases >= CASES - 1 and angles.mad < 10 for angles in against_truth)


def test_a_run_is_scored_as_text_and_as_json(enhanced, truth):
    words = ["--run", str(enhanced), "--truth", str(truth)]
    text = CliRunner().invoke(command, words, catch_exceptions=False).output
    assert max(len(line) for line in text.splitlines()) <= 100
    for part in (*METHODS, "TABLE II,", "TABLES III AND V", "TABLE IV", "BARS", "own label map"):
        assert part in text
    document = json.loads(CliRunner().invoke(command, [*words, "--json"]).output)
    assert len(document["per_case"]) == CASES
    assert document["about"]["phantom"]["seed"] == 77
    assert {"title", "measured", "bar", "verdict"} <= set(document["bars"][0])


def test_both_logarithms_stand_beside_the_papers_figures_each_by_its_name(originals, truth):
    words = ["--images", str(originals), "--truth", str(truth)]
    document = json.loads(CliRunner().invoke(command, [*words, "--json"]).output)
    row = document["groups"]["all cases"]["original"]
    for measure in ("cnr", "snr"):
        assert row[f"{measure}_ln"] == pytest.approx(np.log(10) * row[f"{measure}_log10"], abs=1e-3)
    assert document["paper"]["table_iii"]["enhanced"]["cnr_ln"] == [16.87, 0.65]
    assert document["paper"]["table_v"]["optimal depth"]["snr_ln"] == 30.87
    assert document["paper"]["table_iv"]["inter_rater"]["original"][1]["mad"] == 3.97
    text = CliRunner().invoke(command, words).output
    table = text[text.index("TABLES III AND V") : text.index("TABLE IV,")].splitlines()
    assert "CNR, 20 ln" in table[2]
    assert "CNR, dB" in table[2]
    assert "20 log10" in table[0]
    (paper,) = (x for x in table if "paper, enhanced" in x)
    assert "16.87 (0.65)" in paper
    (original,) = (x for x in table if x.strip().startswith("original"))
    assert f"{row['cnr_ln']:.2f} (" in original
    assert f"{row['cnr_log10']:.2f} (" in original


def test_another_method_of_the_same_archive_is_a_row_and_two_bars(truth, originals, enhanced):
    found = evaluate(truth, SHIPPED, images=truth / "clean", against=(originals, enhanced))
    assert found.methods[-4:] == ("images", "truth", "enhanced", "clean target")
    rows = means(found)
    assert rows["images"]["cnr_ln"] == pytest.approx(rows["original"]["cnr_ln"], abs=0.1)
    (cnr,) = (x for x in bars(found) if x.title == "CNR over images, 20 ln")
    assert cnr.measured == rows["enhanced"]["cnr_ln"] - rows["images"]["cnr_ln"]
    assert judge(found)[cnr.title] == "met"
    text = as_text(found)
    assert text.count("\n  truth ") >= 5  # in every table


def test_a_rival_that_is_the_same_is_not_beaten(truth, originals, identity):
    found = evaluate(truth, SHIPPED, images=originals, against=(originals,))
    assert judge(found)["PSNR to clean over images, dB"] == "met"
    assert judge(found)["CNR over images, 20 ln"] == "missed"
    assert not any(" over images" in bar.title for bar in bars(identity))


def test_cases_that_a_rival_lacks_are_left_out_and_its_name_may_be_no_other_rows(
    truth, originals, tmp_path
):
    few = tmp_path / "few"
    few.mkdir()
    case = open_archive(truth).read(1)
    Image.fromarray(case.depths[case.optimal]).save(few / "1.png")
    found = evaluate(truth, SHIPPED, images=originals, against=(few,))
    assert [x["case"] for x in found.per_case] == [1]
    copy = shutil.copytree(originals, tmp_path / "enhanced.zarr")
    with pytest.raises(UsageError, match="two rows"):
        evaluate(truth, SHIPPED, images=originals, against=(copy,))


def test_a_second_seed_gives_the_intra_rater_row_and_the_same_seed_is_refused(
    enhanced, truth, tmp_path
):
    copy = shutil.copytree(enhanced, tmp_path / "second.enhanced")
    with pytest.raises(UsageError, match="has the same noise"):
        evaluate(truth, SHIPPED, run=enhanced, second=copy)
    stored = json.loads((copy / "run.json").read_text())
    stored["settings"]["seed"] += 1
    (copy / "run.json").write_text(json.dumps(stored))
    found = evaluate(truth, SHIPPED, run=enhanced, second=copy)
    (block,) = (x for x in found.angles if x.title == "A, two noise seeds")
    assert block.rows["enhanced"][0].mad == 0  # the same images


def test_png_files_are_found_by_case_id_or_index(truth, identity, tmp_path):
    archive = open_archive(truth)
    for case in map(archive.read, range(2)):
        name = case.key if case.index else "000"
        Image.fromarray(case.depths[case.optimal]).save(tmp_path / f"{name}.png")
    found = evaluate(truth, SHIPPED, images=tmp_path)
    assert [x["case"] for x in found.per_case] == [0, 1]
    first, whole = (x.per_case[1]["methods"]["enhanced"] for x in (found, identity))
    assert first["cnr_ln"] == pytest.approx(whole["cnr_ln"], abs=1e-4)


def test_an_image_may_have_the_scans_shape_a_frames_or_a_squares():
    extent = (960, 240)
    y, x = np.mgrid[: extent[0], : extent[1]]
    scan = 0.5 + 0.2 * np.sin(y / 40) + 0.2 * np.cos(x / 25)
    frame = Frame(height=256, width=64)
    shapes = [extent, (480, 120), (512, 128), (960, 960)]
    seen = [
        on_frame(to_frame(scan, Frame(height=y, width=x), 0.0), extent, frame) for y, x in shapes
    ]
    for image in seen:
        np.testing.assert_allclose(image, to_frame(scan, frame, 0.0), atol=0.01)


def test_images_that_fit_no_case_are_refused(enhanced, truth, tmp_path):
    with pytest.raises(ArchiveError, match="holds no PNG"):
        evaluate(truth, SHIPPED, images=tmp_path)
    Image.new("L", (8, 8)).save(tmp_path / "99.png")
    with pytest.raises(ArchiveError, match="is not a case"):
        evaluate(truth, SHIPPED, images=tmp_path)
    zarr.create_array(tmp_path / "few.zarr", data=np.ones((1, 64, 16), np.uint8))
    with pytest.raises(ArchiveError, match=r"expected \(3, y, x\)"):
        evaluate(truth, SHIPPED, images=tmp_path / "few.zarr")
    zarr.create_array(tmp_path / "wild.zarr", data=np.full((CASES, 64, 16), 200.0))
    with pytest.raises(ArchiveError, match=r"floats in \[0, 1\]"):
        evaluate(truth, SHIPPED, images=tmp_path / "wild.zarr")
    with pytest.raises(UsageError, match="either --run or --images"):
        CliRunner().invoke(
            command, ["--truth", str(truth)], standalone_mode=False, catch_exceptions=False
        )
    bare = zarr.create_group(tmp_path / "bare.zarr")
    bare.create_array("depths", data=np.ones((CASES, 5, 64, 16), np.uint8))
    with pytest.raises(ArchiveError, match="expected phantoms"):
        evaluate(tmp_path / "bare.zarr", SHIPPED, run=enhanced)


@pytest.mark.parametrize(
    ("field", "message"), [("bundle", "was made with bundle"), ("archive", "another archive")]
)
def test_a_run_of_another_bundle_or_archive_is_refused(field, message, enhanced, truth, tmp_path):
    copy = shutil.copytree(enhanced, tmp_path / "other.enhanced")
    stored = json.loads((copy / "run.json").read_text())
    stored["settings"][field] = "0" * 64
    (copy / "run.json").write_text(json.dumps(stored))
    with pytest.raises(ArchiveError, match=message):
        evaluate(truth, SHIPPED, run=copy)


def test_what_is_no_run_is_answered_with_the_run_that_was_meant(enhanced, truth):
    with pytest.raises(UsageError, match=f"is an archive, not an output; did you mean {enhanced}"):
        evaluate(truth, SHIPPED, run=truth)


def test_evaluation_never_imports_torch(truth, originals, tmp_path):
    words = ["mcdiff-batch", "evaluate", "--images", str(originals), "--truth", str(truth)]
    code = f"""
import sys
from mcdiff_batch.engine.cli import main
sys.argv = {words!r}
try:
    main()
except SystemExit as end:
    assert end.code == 0
assert "torch" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "TABLE IV" in done.stdout
