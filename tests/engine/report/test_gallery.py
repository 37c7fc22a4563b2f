"""The images in a report: which cases it shows, and how."""

import io
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.image.columns import LUMBAR
from mcdiff_batch.engine.image.frame import Frame, grey, place
from mcdiff_batch.engine.image.spine import read_spine
from mcdiff_batch.engine.model.framing import frame_case
from mcdiff_batch.engine.page.write import write_report
from mcdiff_batch.engine.report.choice import Pick, choose_cases, take_evenly
from mcdiff_batch.engine.report.collect import collect, draw_pictures
from mcdiff_batch.engine.report.gallery import Pictures, PictureSource, find_angles
from tests.support.pages import CASES, assert_safe, done, read, stored
from tests.support.running import CONTRACT, archive, inline, job


def test_before_is_what_the_model_was_given(source: Path, night: Path) -> None:
    case = frame_case(open_archive(source).read(0), CONTRACT)
    shown = draw_pictures(night, collect(night))[0]
    expected = grey(case.depths[case.optimal], case.strip)
    top, left = case.placement.top, case.placement.left
    inner = expected[top : top + case.placement.height, left : left + case.placement.width]
    assert shown.before is not None
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(shown.before))), inner)


def test_results_on_the_inputs_grid_are_shown_on_the_frame(source: Path) -> None:
    target = source.parent / "grid.enhanced"
    inline(job(source, target, grid="input"))
    shown = draw_pictures(target, collect(target, archive=source), source)[0]
    assert shown.before is not None
    assert shown.after is not None
    sizes = {Image.open(io.BytesIO(x)).size for x in (shown.before, shown.after)}
    assert sizes == {(13, 32)}


def test_without_the_archive_the_results_are_shown_and_the_rest_is_said(
    night: Path, tmp_path: Path
) -> None:
    alone = shutil.copytree(night, tmp_path / "moved.enhanced")
    text = read(write_report(alone)).text
    assert "archive is not where it was" in text
    shown = draw_pictures(alone, collect(alone))[0]
    assert shown.before is None
    assert shown.after is not None


def test_an_archive_that_changed_is_not_shown(night: Path, tmp_path: Path) -> None:
    other = archive(tmp_path / "other.zarr", 3)
    assert collect(night, archive=other).gallery.before == "changed"


def test_a_damaged_result_is_left_out(night: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(night, tmp_path / "broken.enhanced")
    for shard in (broken / "images.zarr/enhanced/c").rglob("0"):
        if shard.is_file():
            shard.write_bytes(b"no shard")
    assert all(x.after is None for x in draw_pictures(broken, collect(broken)).values())
    assert_safe(read(write_report(broken)))


def test_flagged_cases_come_first() -> None:
    gain = np.array([-1.0, -3, 1, np.nan, *[2.0] * 96])
    agreement = np.array([0.9, 0.98, 0.1, np.nan, *[0.97] * 5, *[0.99] * 91])
    flagged = np.zeros(100, int)
    flagged[[50, 4, 60]] = 1, 1, 2
    worst = choose_cases(list(range(100)), gain, agreement, flagged.tolist())
    assert [x.case for x in worst[:9]] == [60, 4, 50, 2, 0, 5, 6, 7, 1]
    assert [x.flag for x in worst[:9]] == [*["gate"] * 3, *["agreement"] * 5, "cnr"]
    assert worst[9] == Pick(case=3)
    assert len(worst) == len({x.case for x in worst}) == 24


def test_a_case_whose_labels_did_not_change_is_not_among_those_that_changed_most() -> None:
    picks = choose_cases(range(3), np.ones(3), np.array([1.0, 0.9999, 0.9]), [0, 0, 0])
    assert [x.flag for x in picks] == ["agreement", "", ""]
    picks = choose_cases(range(2), np.ones(2), np.ones(2), [0, 0])
    assert {x.flag for x in picks} == {""}


def test_failed_cases_are_no_cards(night: Path) -> None:
    shown = {x["case"] for x in stored(night)["gallery"]["cases"]}
    assert shown == set(range(CASES)) - {4}
    assert [x["case"] for x in stored(night)["failures"]["rows"]] == [4]


def test_the_lines_of_an_angle_are_those_of_the_most_tilted_levels() -> None:
    labels = np.zeros((128, 64), np.uint8)
    labels[55:65, 10:54] = 3
    for column in range(10, 54):
        labels[25 - column // 8 : 35 - column // 8, column] = 3  # 7 degrees, anticlockwise
        labels[90 + column // 2 : 100 + column // 2, column] = 3  # 27 degrees, clockwise
    degrees = read_spine(labels, (1.0, 1.0)).lumbar_deg
    where = place((256, 128), Frame(height=128, width=64))
    (angle,) = find_angles(labels, (1.0, 1.0), where, done(0, **{LUMBAR.after: degrees}))
    first, last = sorted(angle.lines, key=lambda x: x.y2)
    assert angle.degrees == degrees == pytest.approx(34, abs=3)
    assert (first.y1 + first.y2) / 2 == pytest.approx(26, abs=1)
    tilts = [math.degrees(math.atan2(x.y2 - x.y1, x.x2 - x.x1)) for x in (first, last)]
    assert tilts[1] - tilts[0] == pytest.approx(degrees)
    assert (last.x1 + last.x2) / 2 == pytest.approx(32, abs=1)


def test_an_angle_that_the_ledger_does_not_have_is_not_drawn() -> None:
    labels = np.zeros((128, 64), np.uint8)
    labels[20:30, 10:54] = labels[55:65, 10:54] = 3
    where = place((256, 128), Frame(height=128, width=64))
    for entry in (done(0), done(0, **{LUMBAR.after: 12.0}), done(0, **{LUMBAR.after: None})):
        assert not list(find_angles(labels, (1.0, 1.0), where, entry))
    assert list(find_angles(labels, (1.0, 1.0), where, done(0, **{LUMBAR.after: 0.0})))


def test_an_even_choice_takes_both_ends() -> None:
    assert take_evenly(list(range(100)), 3) == [0, 50, 99]
    assert take_evenly([5], 3) == [5]


def test_a_missing_image_is_no_picture(tmp_path: Path) -> None:
    source = PictureSource(out=tmp_path, frame=CONTRACT.frame, archive=None)
    shown = source.draw(done(0))
    assert shown == Pictures(marks=shown.marks)
    assert shown.marks is not None
    assert math.isnan(shown.marks.mm)
