"""Experiments: every arm differs in what it says, and the figures are what they claim to be."""

import numpy as np
import pytest

from mcdiff_batch.bench.studies.arms import ALL, ARMS, BASE, REPEATS, TABLE_V, with_stages
from mcdiff_batch.bench.studies.scoring import gain_share, interval


def test_every_arm_changes_one_thing_or_only_how_it_is_sampled():
    names = [x.name for x in ALL]
    assert len(set(names)) == len(names)
    for arm in ARMS[1:]:
        sampling = arm.temperature != ARMS[0].temperature
        assert len(arm.changes) + sampling == 1, arm.name
        assert (arm.sampled in names) if sampling else arm.sampled is None
        assert (arm.preset() != BASE) == bool(arm.changes), arm.name


def test_each_condition_of_table_v_is_trained_with_three_seeds():
    for name in TABLE_V:
        arms = [x for x in (*ARMS, *REPEATS) if x.name.split(", ")[0] == name]
        assert [x.seed for x in arms] == [0, 1, 2]
        assert len({str(x.changes) for x in arms}) == 1


def test_equal_budgets_are_equal_steps():
    preset = with_stages(BASE, 40, {"foundation": 0.5, "tuner": 1.0})
    assert [(x.name, x.steps, x.crop_steps) for x in preset.stages] == [
        ("foundation", 20, 0),
        ("tuner", 40, 0),
    ]


def test_an_interval_holds_the_mean_and_shrinks_with_the_cases():
    rng = np.random.default_rng(0)
    few, many = (interval(rng.normal(5, 1, n)) for n in (20, 2000))
    for mean, low, high in (few, many):
        assert low < mean < high
    assert many[2] - many[1] < 0.2 * (few[2] - few[1])
    assert interval([1.0, float("nan"), 3.0])[0] == 2


def test_the_original_has_no_share_of_the_ceilings_gain_and_the_ceiling_all_of_it():
    original, ceiling = {"cnr": [1.0, 2.0, 4.0]}, {"cnr": [3.0, 5.0, 6.0]}
    assert gain_share(original, original, ceiling, "cnr") == [0, 0, 0]
    assert gain_share(ceiling, original, ceiling, "cnr") == [1, 1, 1]
    half = {"cnr": [2.0, 3.5, 5.0]}
    assert gain_share(half, original, ceiling, "cnr") == pytest.approx([0.5, 0.5, 0.5])
