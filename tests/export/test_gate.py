"""The gate names the cases to look at first."""

import numpy as np
import pytest
from click.testing import CliRunner

from mcdiff_batch.engine.errors import UsageError
from mcdiff_batch.engine.image.gate import Gate, failed_checks
from mcdiff_batch.engine.image.measure import depth_coverage
from mcdiff_batch.engine.model.contract import load_bundle
from mcdiff_batch.engine.output import ledger
from mcdiff_batch.export.cli import gate as gate_command
from mcdiff_batch.export.gate import SOUND as SOUND_CASE
from mcdiff_batch.export.gate import Result, as_text, choose_gate, read_cases, sample_with_failures
from tests.support import running
from tests.support.fake import FakePlan

SOUND = {
    "label_agreement": 0.9,
    "levels_lost": 0,
    "levels_invented": 1,
    "uca_thoracic_before": 20.0,
    "uca_thoracic_after": 22.0,
    "uca_lumbar_before": 10.0,
    "uca_lumbar_after": 9.0,
    "mean_spread": 0.01,
    "depth_coverage": 0.95,
}
GATE = Gate(agreement=0.8, coverage=0.5, levels=1.5, angle=5.0, spread=0.05)


def test_a_sound_case_has_no_flag():
    assert failed_checks(GATE, SOUND) == ()


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({"label_agreement": 0.7}, "agreement"),
        ({"levels_lost": 1}, "levels"),
        ({"uca_thoracic_after": 14.0}, "angle"),
        ({"uca_lumbar_after": 16.0}, "angle"),
        ({"mean_spread": 0.06}, "spread"),
        ({"depth_coverage": 0.0}, "coverage"),
    ],
)
def test_each_threshold_that_is_broken_is_named(change, flag):
    assert failed_checks(GATE, SOUND | change) == (flag,)


def test_every_broken_threshold_is_named():
    bad = SOUND | {"label_agreement": 0.1, "depth_coverage": 0.1, "levels_lost": 9}
    assert failed_checks(GATE, bad) == ("agreement", "coverage", "levels")


@pytest.mark.parametrize("unknown", [None, float("nan")])
def test_an_undefined_value_fails_no_check(unknown):
    assert failed_checks(GATE, dict.fromkeys(SOUND, unknown)) == ()
    assert failed_checks(
        GATE, SOUND | {"uca_thoracic_before": unknown, "uca_lumbar_after": 30}
    ) == ("angle",)


def test_absent_thresholds_and_absent_columns_flag_nothing():
    assert failed_checks(Gate(), dict.fromkeys(SOUND, 0.0)) == ()
    assert failed_checks(GATE, {}) == ()


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


def trial(case, kind, agreement, **more):
    quality = SOUND | {"label_agreement": agreement} | more
    return Result(case=case, kind=kind, quality=quality, psnr_to_sound_db=20.0)


def test_one_check_is_enough_where_it_tells_failures_apart():
    results = [trial(i, SOUND_CASE, 0.9 + 0.001 * i) for i in range(40)]
    results += [trial(i, "swapped case", 0.3 + 0.001 * i) for i in range(40)]
    gate = choose_gate(results)
    assert 0.35 < gate.agreement < 0.9
    assert (gate.coverage, gate.levels, gate.angle, gate.spread) == (None,) * 4
    assert gate.figures["caught"] == "20 of 20"
    assert gate.figures["false_alarms"] == "0 of 20"


def test_checks_are_added_until_every_kind_of_failure_is_caught():
    results = [trial(i, SOUND_CASE, 0.9 + 0.001 * i) for i in range(40)]
    results += [trial(i, "swapped case", 0.3) for i in range(40)]
    results += [trial(i, "missing depth", 0.92, depth_coverage=0.0) for i in range(40)]
    gate = choose_gate(results)
    assert 0 < gate.coverage < 0.95
    assert {kind: row["caught"] for kind, row in gate.figures["kinds"].items()} == {
        "swapped case": "20 of 20",
        "missing depth": "20 of 20",
    }


def test_a_check_with_more_room_is_preferred():
    results = [
        trial(i, SOUND_CASE, 0.900 + 0.002 * i, depth_coverage=0.7 + 0.004 * i) for i in range(40)
    ]
    results += [trial(i, "wrong conditions", 0.899, depth_coverage=0.3) for i in range(40)]
    gate = choose_gate(results)
    assert gate.agreement is None
    assert 0.4 < gate.coverage < 0.6


def test_a_failure_that_looks_sound_does_not_buy_false_alarms():
    rng = np.random.default_rng(0)
    results = [trial(i, SOUND_CASE, rng.normal(0.9, 0.02)) for i in range(400)]
    results += [trial(i, "unread depth", rng.normal(0.9, 0.02)) for i in range(400)]
    alarms, of = choose_gate(results).figures["false_alarms"].split(" of ")
    assert int(alarms) / int(of) < 0.1


def test_figures_come_from_cases_that_had_no_part_in_the_choice():
    results = [trial(i, SOUND_CASE, 0.9 if i % 2 == 0 else 0.3) for i in range(40)]
    results += [trial(i, "swapped case", 0.3 if i % 2 == 0 else 0.9) for i in range(40)]
    figures = choose_gate(results).figures
    assert (figures["caught"], figures["false_alarms"]) == ("0 of 20", "20 of 20")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return running.archive(tmp_path_factory.mktemp("gate") / "archive.zarr", cases=6)


@pytest.mark.parametrize(("caught", "warned"), [(8, True), (15, False)])
def test_a_gate_that_catches_too_little_says_so(caught, warned):
    figures = {"cases_scoring": 4, "false_alarms": "0 of 4", "caught": f"{caught} of 16"}
    text = as_text(Gate(figures={**figures, "kinds": {}}))
    assert ("warning: " in text) == warned


def test_a_sound_result_is_what_a_run_measures(archive, tmp_path):
    job = running.job(archive, tmp_path / "out")
    running.inline(job)
    plan = FakePlan(batch=1)
    cases = read_cases(archive, running.CONTRACT, 6)
    results = [
        x for x in sample_with_failures(plan, running.CONTRACT, cases, 1) if x.kind == SOUND_CASE
    ]
    entries = [e for n in (0, 1) for e in ledger.read(job.output, n).cases]
    assert [x.quality for x in results] == [e.quality for e in entries]


def test_every_failure_is_planted_in_every_case_and_does_what_it_says(archive):
    plan = FakePlan(batch=1)
    cases = read_cases(archive, running.CONTRACT, 6)
    results = list(sample_with_failures(plan, running.CONTRACT, cases, 2))
    by_kind = {
        kind: [x for x in results if x.kind == kind]
        for kind in dict.fromkeys(x.kind for x in results)
    }
    assert {len(rows) for rows in by_kind.values()} == {6}
    agreement = {k: np.mean([x.quality["label_agreement"] for x in v]) for k, v in by_kind.items()}
    for kind in ("wrong conditions", "swapped case"):
        assert agreement[kind] < agreement[SOUND_CASE] - 0.2
    for kind, rows in by_kind.items():
        missing = kind.startswith("missing")
        assert all((x.quality["depth_coverage"] == 0) == missing for x in rows), kind
        assert all((x.psnr_to_sound_db < 60) != (kind == SOUND_CASE) for x in rows), kind
        assert all(x.quality["mean_spread"] > 0 for x in rows)


def test_the_command_writes_the_gate_into_the_contract_and_runs_flag_by_it(archive, tmp_path):
    root = running.bundle(tmp_path / "bundle")
    before = load_bundle(root).contract
    words = [str(root), "--data", str(archive), "--cases", "6"]
    done = CliRunner().invoke(gate_command, words, catch_exceptions=False)
    after = load_bundle(root).contract
    assert before.gate is None
    assert after.gate is not None
    assert after.gate.figures["cases_scoring"] == 3
    assert after.gate.figures["caught"] in done.output
    assert (after.conditioner, after.sampler) == (before.conditioner, before.sampler)


def test_too_few_cases_are_refused(archive):
    with pytest.raises(UsageError, match="a gate needs 4"):
        read_cases(archive, running.CONTRACT, 2)
