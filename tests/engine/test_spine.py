"""Levels, tilts and curve angles are read from a label map."""

from dataclasses import replace

import numpy as np
import pytest

from mcdiff_batch.engine.image.frame import Frame, nearest_to_frame, place
from mcdiff_batch.engine.image.spine import compare_levels, read_spine, spine_of_landmarks
from mcdiff_batch.train.phantom.case import SPACING_MM, phantom

TILTS = (0, 4, 8, 12, 10, 5, 0, -5, -9, -12, -8, -2, 6, 12, 14, 11, 5)  # 12 pairs, 5 lumps
SPACING = (1.8, 1.8)


def ellipse(grid, y, x, high, wide, tilt=0.0):
    """Of half axes, mm, on a grid of mm."""
    down, right = grid[0] - y, grid[1] - x
    sine, cosine = np.sin(np.radians(tilt)), np.cos(np.radians(tilt))
    along, across = right * cosine + down * sine, down * cosine - right * sine
    return (along / wide) ** 2 + (across / high) ** 2 <= 1


def painted(spacing=SPACING, tilts=TILTS, lump_high=9.0, lose=()):
    """A straight spine of 24 mm pitch whose levels have these tilts, 115 mm wide."""
    shape = round(460 / spacing[0]), round(115 / spacing[1])
    grid = np.meshgrid(*(np.arange(n) * mm for n, mm in zip(shape, spacing, strict=True)))
    grid = [axis.T for axis in grid]
    label = np.zeros(shape, np.uint8)
    for level, tilt in enumerate(tilts):
        y, x = 30 + 24 * level, 57.0
        if level in lose:
            continue
        if level >= 12:
            label[ellipse(grid, y, x, lump_high, 24, tilt)] = 3
            continue
        for side in (-20, 20):
            at = y + side * np.sin(np.radians(tilt)), x + side * np.cos(np.radians(tilt))
            label[ellipse(grid, *at, 7.5, 7)] = 1
    return label


@pytest.mark.parametrize("spacing", [(1.8, 1.8), (0.9, 0.9), (1.2, 2.0)])
def test_levels_and_angles_are_those_painted_whatever_the_px(spacing):
    spine = read_spine(painted(spacing), spacing)
    assert [x.label for x in spine.levels] == [1] * 12 + [3] * 5
    assert np.allclose([x.y_mm for x in spine.levels], 30 + 24 * np.arange(17), atol=1.5)
    assert np.allclose([x.tilt_deg for x in spine.levels], TILTS, atol=2.5)
    assert spine.thoracic_deg == pytest.approx(24, abs=2)
    assert spine.lumbar_deg == pytest.approx(9, abs=2)
    assert spine.confidence > 0.95


def test_a_mirrored_map_has_the_mirrored_spine():
    label = painted()
    here, there = read_spine(label, SPACING), read_spine(label[:, ::-1].copy(), SPACING)
    tilts = np.array([[x.tilt_deg, y.tilt_deg] for x, y in zip(here.levels, there.levels)])  # noqa: B905
    assert len(tilts) == 17
    assert np.allclose(tilts[:, 0], -tilts[:, 1], atol=0.5)


def test_lumps_and_processes_that_touch_are_levels_of_their_own():
    touching = painted(lump_high=13.5)
    spine = read_spine(touching, SPACING)
    assert sum(x.label == 3 for x in spine.levels) == 5
    touching[10:160, 30:34] |= touching[10:160, 20:24]  # nothing: both are the gap in the middle
    for column in (20, 21, 42, 43):
        touching[20:160, column] = 1
    assert compare_levels(read_spine(touching, SPACING), spine) == (0, 0)


def test_pieces_of_a_process_are_one_and_specks_are_none():
    label = painted()
    whole = read_spine(label, SPACING)
    label[16::40] = 0  # a row that was lost cuts what it crosses
    rng = np.random.default_rng(0)
    specks = rng.random(label.shape) < 0.01
    label[specks] = rng.integers(0, 4, specks.sum())
    spine = read_spine(label, SPACING)
    assert compare_levels(whole, spine) == (0, 0)
    assert spine.thoracic_deg == pytest.approx(whole.thoracic_deg, abs=3)


def test_a_level_that_goes_is_lost_and_one_that_comes_is_invented():
    whole, less = read_spine(painted(), SPACING), read_spine(painted(lose=(4, 14)), SPACING)
    assert compare_levels(whole, less) == (2, 0)
    assert compare_levels(less, whole) == (0, 2)
    assert less.confidence < whole.confidence - 0.1


def test_a_pair_where_a_lump_was_is_one_lost_and_one_invented():
    spine = read_spine(painted(), SPACING)
    first, *rest = spine.levels
    other = replace(spine, levels=(replace(first, label=3), *rest))
    assert compare_levels(spine, other) == (1, 1)


def test_one_of_a_pair_alone_is_no_level_and_costs_confidence():
    label = painted()
    label[60:120, :32] = 0
    spine = read_spine(label, SPACING)
    assert sum(x.label == 1 for x in spine.levels) < 12
    assert spine.confidence < 0.8


@pytest.mark.parametrize("label", [0, 1, 2, 3])
def test_a_map_of_one_class_has_no_spine(label):
    spine = read_spine(np.full((256, 64), label, np.uint8), SPACING)
    assert spine.confidence < 0.5
    assert len(spine.levels) or np.isnan([spine.thoracic_deg, spine.lumbar_deg]).all()


def test_noise_is_no_spine():
    rng = np.random.default_rng(1)
    for blob in (1, 4, 9):
        noise = rng.integers(0, 4, (256 // blob + 1, 64 // blob + 1), np.uint8)
        label = np.kron(noise, np.ones((blob, blob), np.uint8))[:256, :64]
        assert read_spine(label, SPACING).confidence < 0.5


@pytest.mark.parametrize("spacing", [float("nan"), 0.01, 100.0])
def test_nothing_is_read_where_the_size_of_a_px_is_unknown_or_fits_no_spine(spacing):
    spine = read_spine(painted(), (spacing, spacing))
    assert spine.levels == ()
    assert np.isnan([spine.thoracic_deg, spine.lumbar_deg, spine.confidence]).all()


def test_the_true_spine_of_a_phantom_is_read_from_its_label_map():
    frame = Frame(height=256, width=64)
    errors, changed = [], 0
    for index in range(6):
        case = phantom(7, index)
        where = place(case.extent, frame)
        spacing = (SPACING_MM / where.scale,) * 2
        true = spine_of_landmarks(case.landmarks, where, spacing)
        found = read_spine(nearest_to_frame(case.label, frame), spacing)
        assert [true.thoracic_deg, true.lumbar_deg] == pytest.approx(case.angles_deg, abs=0.01)
        errors.append([found.thoracic_deg - true.thoracic_deg, found.lumbar_deg - true.lumbar_deg])
        changed += sum(compare_levels(true, found))
    assert (np.abs(errors).mean(axis=0) < 3.4).all()  # six cases; 1.1 and 1.7 degrees over 200
    assert changed <= 1


def test_processes_grown_into_one_without_a_waist_are_two():
    label = painted()
    whole = read_spine(label, SPACING)
    rows = round(78 / 1.8), round(102 / 1.8)
    label[rows[0] : rows[1], 17:25] = 1
    assert compare_levels(whole, read_spine(label, SPACING)) == (0, 0)
