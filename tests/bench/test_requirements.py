"""Requirements, baseline and capacity: what passes, what fails, what is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcdiff_batch.bench.acceptance.requirements import (
    MEASURES,
    capacity,
    compare,
    facts,
    judge,
    parse_requirements,
    parse_tolerance,
    read_baseline,
)
from mcdiff_batch.engine.errors import UsageError

DOCUMENT = {
    "measures": {"step_ms": 3, "of another version": 1},
    "machine": {"cpu": "EPYC"},
    "where": "1 device",
    "bundle": {"name": "small", "sha256": "0" * 64},
}
FOUND = {"p95_latency_ms": 380.0, "cases_per_hour": 1700.0, "psnr_db": 52.9}


def verdicts(text, measures=FOUND, unknown=None):
    return [x.met for x in judge(parse_requirements(text), measures, unknown or {})]


def test_each_requirement_is_judged_for_itself():
    asked = "p95_latency_ms<=400, cases_per_hour>=1800, psnr_db >= 45"
    assert verdicts(asked) == [True, False, True]
    failing = judge(parse_requirements(asked), FOUND, {})[1]
    assert str(failing) == "FAILS  cases_per_hour>=1800: 1700"


def test_a_bound_itself_passes():
    assert verdicts("p95_latency_ms<=380,cases_per_hour>=1700") == [True, True]


def test_a_measure_that_could_not_be_taken_fails_and_says_why():
    (verdict,) = judge(
        parse_requirements("p99_latency_ms<=400"),
        FOUND,
        {"p99_latency_ms": "662 samples are needed"},
    )
    assert not verdict.met
    assert "662 samples" in verdict.text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("p95_latency<=400", "p95_latency_ms<="),  # lists the known
        ("p95_latency_ms<400", "write for example"),
        ("p95_latency_ms<=4OO", "write for example"),
        ("p95_latency_ms<=nan", "write for example"),
        ("p95_latency_ms<=400,", "write for example"),
        ("", "write for example"),
        ("p95_latency_ms>=400", "would pass a worse machine"),
    ],
)
def test_text_that_is_not_a_requirement_is_refused(text, said):
    with pytest.raises(UsageError, match=said):
        parse_requirements(text)


@given(st.sampled_from(sorted(MEASURES)), st.floats(0, 1e6), st.floats(0, 1e6))
def test_of_two_machines_the_better_never_fails_where_the_worse_passes(name, found, bound):
    better = found * (0.5 if MEASURES[name] == "<=" else 2)
    (asked,) = parse_requirements(f"{name}{MEASURES[name]}{bound:.3f}")
    worse_met, better_met = (judge([asked], {name: x}, {})[0].met for x in (found, better))
    assert better_met or not worse_met


def test_a_baseline_allows_what_the_tolerance_says_and_no_more():
    before = {"p95_latency_ms": 400.0, "cases_per_hour": 1000.0}
    check = lambda latency, rate: [
        x.met
        for x in compare(before, {"p95_latency_ms": latency, "cases_per_hour": rate}, {}, 0.05)
    ]
    assert check(419, 951) == [True, True]
    assert check(421, 951) == [False, True]
    assert check(100, 949) == [True, False]


def test_against_a_baseline_a_refused_measure_fails_and_a_part_not_run_does_not():
    before = {"p95_latency_ms": 400.0, "step_ms": 20.0, "cases_per_hour": 100.0}
    found = compare(before, {"step_ms": 20.0}, {"p95_latency_ms": "too few"}, 0.0)
    assert [x.met for x in found] == [False, True]
    with pytest.raises(UsageError, match="in common"):
        compare(before, {"psnr_db": 50.0}, {}, 0.0)


def test_a_tolerance_is_a_percentage():
    assert parse_tolerance("5%") == parse_tolerance("5.0 %") == 0.05
    for wrong in ("5", "0.05", "-5%", "100%", "%"):
        with pytest.raises(UsageError, match="for example 5%"):
            parse_tolerance(wrong)


def test_a_baseline_is_a_document_of_bench(tmp_path):
    path = tmp_path / "b.json"
    path.write_text(json.dumps(DOCUMENT))
    found = read_baseline(path)
    assert found.measures == {"step_ms": 3.0}
    assert found.differences(facts(DOCUMENT)) == []
    (note,) = found.differences(facts(DOCUMENT) | {"cpu": "other"})
    assert "cpu of the baseline is EPYC, now other" in note
    nothing, wild = {"measures": {}}, {"measures": {"step_ms": float("nan")}}
    for wrong in ("{", "[]", "{}", *(json.dumps(DOCUMENT | x) for x in (nothing, wild))):
        path.write_text(wrong)
        with pytest.raises(UsageError, match="--against"):
            read_baseline(path)
    with pytest.raises(UsageError, match="--against"):
        read_baseline(tmp_path / "absent.json")


def test_capacity_is_answered_in_words():
    night = lambda rate: (
        capacity(18000, 10, start_s=36, cases_per_hour=rate, where="2 x NVIDIA RTX A6000").judgement
    )
    assert night(2613).met
    assert night(2613).text == (
        "18,000 cases fit in 10 h on 2 x NVIDIA RTX A6000 with 31 % to spare"
    )
    assert not night(1000).met
    assert "do not fit in 10 h" in night(1000).text
    assert "18.0 h" in night(1000).text
