"""Experiments: every arm differs in what it says, and the figures are what they claim to be."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from mcdiff_batch.bench.cli import bench
from mcdiff_batch.bench.studies.arms import (
    ALL,
    ARMS,
    BASE,
    PAPERS_TABLE_V,
    TABLE_V,
    with_stages,
)
from mcdiff_batch.bench.studies.scoring import gain_share, interval
from mcdiff_batch.bench.studies.summary import as_text, summarise
from mcdiff_batch.engine.errors import FingerprintError, UsageError
from mcdiff_batch.train.networks.presets import PAPER_WAY
from mcdiff_batch.train.networks.trio import Networks
from mcdiff_batch.train.phantom.archive import write_phantoms
from mcdiff_batch.train.training import checkpoint


def test_every_arm_changes_one_thing_or_only_how_it_is_sampled():
    names = [x.name for x in ALL]
    assert len(set(names)) == len(names)
    for arm in ARMS[1:]:
        sampling = arm.temperature != ARMS[0].temperature
        assert len(arm.changes) + sampling == 1, arm.name
        assert (arm.sampled in names) if sampling else arm.sampled is None
        assert (arm.preset() != BASE) == bool(arm.changes), arm.name


def seeds_of(name):
    return [x for x in ALL if x.name == name or x.name.startswith(f"{name}, seed ")]


@pytest.mark.parametrize("name", [*TABLE_V, *(x.name for x in PAPERS_TABLE_V)])
def test_each_condition_of_table_v_is_trained_with_three_seeds(name):
    assert [x.seed for x in seeds_of(name)] == [0, 1, 2]
    assert len({str(dict(x.changes)) for x in seeds_of(name)}) == 1


def test_table_v_in_the_papers_way_differs_in_its_conditions_alone_and_shares_stages_i_and_ii():
    first, *others = PAPERS_TABLE_V
    assert first.changes == PAPER_WAY
    assert [x.preset().conditions for x in PAPERS_TABLE_V] == ["depths", "optimal", "segmentation"]
    for arm in others:
        assert {k: v for k, v in arm.changes.items() if k != "conditions"} == PAPER_WAY
    for arm in (*others, *(x for y in PAPERS_TABLE_V for x in seeds_of(y.name)[1:])):
        assert arm.start == first.name
        assert set(arm.parts) == {"tuner"}


@pytest.mark.parametrize("arm", [x for x in ALL if x.sampled is None], ids=lambda x: x.name)
def test_the_networks_of_every_arm_compute_an_image(arm):
    nets = Networks(arm.preset(), torch.device("cpu"))
    scan, weights = torch.rand(1, 1, 64, 16), torch.full((1, 5), 0.2)
    t, *alpha = (torch.tensor([x]) for x in (500.0, 0.6, 0.8))
    with torch.no_grad():
        conditions = nets.conditions(scan.expand(-1, 5, -1, -1), weights)
        assert nets.x0(scan, t, *alpha, scan, conditions).shape == scan.shape


def scores(seed, cases=6):
    rng = np.random.default_rng(seed)
    return {m: rng.normal(5, 1, cases).tolist() for m in ("psnr", "cnr_ln", "snr_ln", "dice")}


def test_differences_are_paired_with_the_base_arm_and_left_out_without_it():
    arms = {name: {"1": scores(i)} for i, name in enumerate(("base", "plain regression"))}
    original, target = scores(8), scores(9)
    off = np.subtract(arms["plain regression"]["1"]["psnr"], arms["base"]["1"]["psnr"])
    with_base = summarise(arms, original, target)["runs"]
    assert with_base[1]["1, over base"]["psnr"] == interval(off.tolist())
    alone = summarise({"plain regression": arms["plain regression"]}, original, target)
    assert [x["arm"] for x in alone["runs"]] == ["plain regression"]
    assert "1, over base" not in alone["runs"][0]
    assert "1, share of the ceiling's gain" in alone["runs"][0]


def test_the_text_has_a_table_v_of_each_way_with_its_seeds():
    names = [*(x.name for x in seeds_of("base")), *(x.name for x in PAPERS_TABLE_V)]
    arms = {name: {"1": scores(i) | {"levels": [0.0] * 6}} for i, name in enumerate(names)}
    document = summarise(arms, scores(8), scores(9)) | {"evaluations": [1]}
    assert {k: x["seeds"] for k, x in document["table_v"].items()} == {
        "base": 3,
        "optimal features": 0,
        "optimal segmentation": 0,
    }
    assert {x["seeds"] for x in document["table_v_papers_way"].values()} == {1}
    said = as_text(document).split("TABLE V")
    assert "3 seeds" in said[1]
    assert "the paper's way, optimal features" in said[2]


def play(phantoms, output, *more, held_out=None):
    held_out = held_out or phantoms
    words = ["experiments", "--data", phantoms, "--held-out", held_out, "--output", output]
    return CliRunner().invoke(bench, [*map(str, words), *more])


def test_the_name_of_no_arm_is_refused_before_anything_is_made(phantoms, tmp_path):
    ended = play(phantoms, tmp_path / "e.json", "--arm", "base", "--arm", "supper")
    assert isinstance(ended.exception, UsageError)
    for said in ("'supper'", "; plain regression;"):
        assert said in str(ended.exception)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_chosen_arms_share_stages_i_and_ii_and_the_folder_keeps_to_its_steps(phantoms, tmp_path):
    output, names = tmp_path / "e.json", ("base", "regression in stage III")
    few = tmp_path / "few.zarr"
    write_phantoms(few, cases=4, seed=6, workers=1)
    arms = [word for x in names for word in ("--arm", x)]
    ended = play(phantoms, output, "--steps", "4", *arms, held_out=few)
    assert ended.exit_code == 0, ended.output
    document = json.loads(output.read_text())
    assert [x["arm"] for x in document["runs"]] == list(names)
    assert set(document["runs"][1]["1, over base"]) >= {"psnr", "cnr_ln"}
    for stage in ("foundation", "extractor"):
        one, two = (checkpoint.load(output.with_suffix(".work") / x / stage)[0] for x in names)
        assert all(torch.equal(one[k], two[k]) for k in one)
    ended = play(phantoms, output, "--steps", "5", *arms, held_out=few)
    assert isinstance(ended.exception, FingerprintError)
    assert "steps" in str(ended.exception)
    assert json.loads(output.read_text()) == document


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
