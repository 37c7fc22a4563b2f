"""The gate names the cases to look at first."""

import numpy as np
import pytest

from mcdiff_batch.engine.gate import Gate, depth_coverage, flags

SOUND = {
    "label_agreement": 0.9,
    "levels_lost": 0,
    "levels_invented": 1,
    "uca_thoracic_before": 20.0,
    "uca_thoracic_after": 22.0,
    "uca_lumbar_before": 10.0,
    "uca_lumbar_after": 9.0,
    "mean_spread": 0.01,
    "trust": 0.8,
    "depth_coverage": 0.95,
}
GATE = Gate(agreement=0.8, trust=0.5, coverage=0.5, levels=1.5, angle=5.0, spread=0.05)


def test_a_sound_case_has_no_flag():
    assert flags(GATE, SOUND) == ()


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({"label_agreement": 0.7}, "agreement"),
        ({"levels_lost": 1}, "levels"),
        ({"uca_thoracic_after": 14.0}, "angle"),
        ({"uca_lumbar_after": 16.0}, "angle"),
        ({"mean_spread": 0.06}, "spread"),
        ({"trust": 0.4}, "trust"),
        ({"depth_coverage": 0.0}, "coverage"),
    ],
)
def test_each_threshold_that_is_broken_is_named(change, flag):
    assert flags(GATE, SOUND | change) == (flag,)


def test_every_broken_threshold_is_named():
    bad = SOUND | {"label_agreement": 0.1, "trust": 0.1, "levels_lost": 9}
    assert flags(GATE, bad) == ("agreement", "trust", "levels")


@pytest.mark.parametrize("unknown", [None, float("nan")])
def test_what_is_undefined_is_no_flag(unknown):
    assert flags(GATE, dict.fromkeys(SOUND, unknown)) == ()
    assert flags(GATE, SOUND | {"uca_thoracic_before": unknown, "uca_lumbar_after": 30}) == (
        "angle",
    )


def test_a_gate_without_thresholds_and_columns_that_are_not_there_flag_nothing():
    assert flags(Gate(), dict.fromkeys(SOUND, 0.0)) == ()
    assert flags(GATE, {}) == ()


def test_coverage_is_that_of_the_emptiest_depth_present():
    depths = np.zeros((3, 8, 4), np.float32)
    strip = np.zeros((8, 4), bool)
    strip[2:6] = True
    depths[1, 2] = -1
    depths[2] = -1
    weights = np.array([0.4, 0.3, 0.3], np.float32)
    assert depth_coverage(depths, weights, strip) == 0
    weights[2] = 0
    assert depth_coverage(depths, weights, strip) == 0.75
