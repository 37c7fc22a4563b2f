"""The day on a GPU, rehearsed here: every part is done, and the same line again adds none."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mcdiff_batch.bench.common.command import CLI
from mcdiff_batch.bench.gpu.day import DAY, REHEARSAL, TESTS, Part, main, perform, programme
from mcdiff_batch.engine.model.contract import SHIPPED, load_bundle
from mcdiff_batch.engine.telemetry.machine import cores


@pytest.mark.slow
def test_the_rehearsal_does_every_part_and_skips_what_is_done(tmp_path):
    words = ["--rehearse", "--toy", "--devices", "cpu", "--minutes", "30"]
    words += ["--output", str(tmp_path / "day")]
    first = CliRunner().invoke(main, words)
    assert first.exit_code == 0, first.output
    programme_file = json.loads((tmp_path / "day" / "programme.json").read_text())
    assert {x["ended"] for x in programme_file["parts"]} == {"done"}
    for name in ("step", "throughput", "two_workers", "latency", "peers", "profile"):
        assert json.loads((tmp_path / "day" / f"{name}.json").read_text())["machine"]
    rows = json.loads((tmp_path / "day" / "two_workers.json").read_text())["parts"]["throughput"]
    assert [x["devices"] for x in rows["rows"]] == ["cpu:1", "cpu:2"]
    again = CliRunner().invoke(main, words)
    assert json.loads((tmp_path / "day" / "programme.json").read_text()) == programme_file
    assert again.exit_code == 0
    few = CliRunner().invoke(main, [*words, "--only", "step", "--only", "environment"])
    parts = [line.split()[0] for line in few.output.splitlines() if line.endswith(" s")]
    assert parts == ["environment", "step"]
    wrong = CliRunner().invoke(main, [*words, "--only", "lunch"])
    assert wrong.exit_code == 2
    assert "phantoms train" in wrong.output


def test_the_tests_of_a_gpu_are_where_the_day_looks_for_them():
    assert (Path(__file__).parents[2] / TESTS).is_file()


RECIPE = ("phantoms train", "training")


@pytest.mark.slow
def test_the_recipe_is_rehearsed_with_the_real_preset_and_the_shipped_weights(tmp_path):
    words = ["--rehearse", "--devices", "cpu", "--minutes", "30", "--output", str(tmp_path / "day")]
    only = [word for part in RECIPE for word in ("--only", part)]
    ended = CliRunner().invoke(main, [*words, *only])
    assert ended.exit_code == 0, ended.output
    card = json.loads((tmp_path / "day/trained/card.json").read_text())
    assert card["preset"]["name"] == DAY.preset
    assert card["from_sha256"] == load_bundle(SHIPPED).sha256
    assert {name: x["steps"] for name, x in card["stages"].items()} == {"tuner": 2}
    assert (tmp_path / "day/trained/weights.safetensors").is_file()


def test_the_rehearsal_trains_by_the_command_of_the_day(tmp_path):
    day, rehearsal = (
        list({x.name: x.words for x in programme(size, tmp_path, "cpu", 6)}["training"])
        for size in (DAY, REHEARSAL)
    )
    assert day[day.index("--preset") + 1] == "small-morphology-gpu"
    assert float(day[day.index("--minutes") + 1]) == 3
    assert float(day[day.index("--budget") + 1]) == 1
    rehearsal[rehearsal.index("--budget") + 1] = "1.0"
    assert rehearsal == day


def test_a_short_day_draws_as_many_phantoms_as_its_cores_can(tmp_path):
    def cases(minutes):
        words = {x.name: x.words for x in programme(DAY, tmp_path, "cuda:0", minutes)}
        return int(words["phantoms train"][list(words["phantoms train"]).index("--cases") + 1])

    assert 0 < cases(0.5) < cases(1) <= 20 * cores()
    assert cases(10_000) == DAY.train


def test_toy_is_for_a_rehearsal_only(tmp_path):
    ended = CliRunner().invoke(main, ["--toy", "--output", str(tmp_path)])
    assert ended.exit_code == 2
    assert "--toy" in ended.output


def test_a_part_that_fails_or_takes_too_long_does_not_stop_the_others(tmp_path):
    parts = (
        Part(name="wrong", words=(*CLI, "status", tmp_path / "nothing"), share=1),
        Part(name="long", words=(*CLI, "bench", "startup", "--repeats", "10000"), share=0.01),
        Part(name="after long", words=(*CLI, "--version"), share=1, needs=("long",)),
        Part(name="well", words=(*CLI, "--version"), share=1),
    )
    outcomes = {x.name: x for x in perform(parts, tmp_path, 5.0)}
    assert {name: x.ended for name, x in outcomes.items()} == {
        "wrong": "failed",
        "long": "ran out of time",
        "after long": "left out",
        "well": "done",
    }
    assert outcomes["wrong"].code == 2
    assert "nothing" in outcomes["wrong"].said


def test_a_day_measures_two_workers_on_the_gpu_against_one(tmp_path):
    words = {x.name: list(x.words) for x in programme(DAY, tmp_path, "cuda:0", 20)}["two workers"]
    assert words[words.index("--devices") + 1] == "cuda:0,cuda:0"


def test_a_day_needs_a_gpu_and_gives_training_the_most_time(tmp_path):
    ended = CliRunner().invoke(main, ["--devices", "cpu", "--output", str(tmp_path)])
    assert ended.exit_code == 2
    assert "--rehearse" in ended.output
    parts = programme(DAY, tmp_path, "cuda:0", 20)
    assert max(parts, key=lambda x: x.share).name == "training"
