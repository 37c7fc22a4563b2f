"""Percentiles against MLPerf's own figures, its rule done by hand, and known distributions."""

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcdiff_batch.bench.common.percentiles import (
    PERCENTS,
    percentile,
    samples_needed,
    spread,
    tolerated_misses,
)

TIMES = st.lists(st.floats(0.001, 1e4), min_size=1, max_size=300)


@pytest.mark.parametrize(("percent", "fewest"), [(50, 11), (90, 64), (95, 130), (99, 662)])
def test_as_many_samples_are_needed_as_mlperf_says(percent, fewest):
    assert samples_needed(percent) == fewest
    assert tolerated_misses(fewest - 1, percent) == 0
    assert tolerated_misses(fewest, percent) == 1


def by_hand(samples, percent):
    """loadgen's search, in exact arithmetic: the last t that `samples` pass with."""
    over, passed = Fraction(100 - percent, 100), 0
    for t in range(1, samples + 1):
        odds = sum(comb(samples, k) * over**k * (1 - over) ** (samples - k) for k in range(t + 1))
        if odds >= Fraction(1, 100):
            return passed
        passed = t
    return passed


@pytest.mark.parametrize("percent", [50, 90, 95])
@pytest.mark.parametrize("samples", [10, 63, 64, 129, 130, 200])
def test_the_slowest_discarded_are_those_of_the_rule_done_by_hand(samples, percent):
    assert tolerated_misses(samples, percent) == by_hand(samples, percent)


def test_a_percentile_of_too_few_samples_is_refused():
    found = percentile([0.1] * 129, 95)
    assert (found.measured, found.estimate, found.needed) == (None, None, 130)
    assert percentile([0.1] * 130, 95).estimate == 0.1


def test_of_the_fewest_samples_the_estimate_is_the_slowest():
    assert percentile(range(64), 90).estimate == 63
    assert percentile(range(64), 90).measured == 57


@given(TIMES, st.sampled_from(PERCENTS))
def test_an_estimate_is_a_sample_no_faster_than_the_measured_percentile(values, percent):
    found = percentile(values, percent)
    if found.estimate is None:
        assert len(values) < found.needed
    else:
        assert found.estimate in values
        assert found.measured <= found.estimate
        assert found == percentile(sorted(values, reverse=True), percent)


@given(TIMES)
def test_a_higher_percentile_is_never_faster(values):
    percentiles = [percentile(values, x) for x in PERCENTS]
    estimates = [x.estimate for x in percentiles if x.estimate is not None]
    assert estimates == sorted(estimates)
    assert all(later.estimate is None for later in percentiles[len(estimates) :])


def test_an_estimate_is_below_the_true_percentile_once_in_a_hundred_at_most():
    rng = np.random.default_rng(0)
    runs = rng.exponential(size=(2000, 200))
    true = -np.log(0.05)
    low = sum(percentile(run.tolist(), 95).estimate < true for run in runs)
    assert 0 < low / 2000 < 0.01


def test_a_spread_is_the_median_and_the_ends():
    found = spread([4.0, 7.0, 5.00001])
    assert found.as_dict() == {"median": 5.0, "low": 4.0, "high": 7.0, "repeats": 3}
    assert str(found) == "5 (4..7)"
