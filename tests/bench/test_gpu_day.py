"""The day on a GPU, rehearsed here: every part is done, and the same line again adds none."""

import json

import pytest
from click.testing import CliRunner

from mcdiff_batch.bench.gpu.day import CLI, DAY, Part, main, performed, programme


@pytest.mark.slow
def test_the_programme_is_done_from_training_to_benches(tmp_path):
    words = ["--rehearse", "--devices", "cpu", "--minutes", "10", "--output", str(tmp_path / "day")]
    first = CliRunner().invoke(main, words)
    assert first.exit_code == 0, first.output
    told = json.loads((tmp_path / "day" / "programme.json").read_text())
    assert {x["ended"] for x in told["parts"]} == {"done"}
    for name in ("step", "throughput", "latency", "peers", "profile"):
        assert json.loads((tmp_path / "day" / f"{name}.json").read_text())["machine"]
    again = CliRunner().invoke(main, words)
    assert json.loads((tmp_path / "day" / "programme.json").read_text()) == told
    assert again.exit_code == 0
    few = CliRunner().invoke(main, [*words, "--only", "step", "--only", "environment"])
    parts = [line.split()[0] for line in few.output.splitlines() if line.endswith(" s")]
    assert parts == ["environment", "step"]
    wrong = CliRunner().invoke(main, [*words, "--only", "lunch"])
    assert wrong.exit_code == 2
    assert "phantoms train" in wrong.output


def test_a_part_that_fails_or_lasts_leaves_the_others_alone(tmp_path):
    parts = (
        Part(name="wrong", words=(*CLI, "status", tmp_path / "nothing"), share=1),
        Part(name="long", words=(*CLI, "bench", "startup", "--repeats", "10000"), share=0.05),
        Part(name="after long", words=(*CLI, "--version"), share=1, needs=("long",)),
        Part(name="well", words=(*CLI, "--version"), share=1),
    )
    found = {x.name: x for x in performed(parts, tmp_path, 1.0)}
    assert {name: x.ended for name, x in found.items()} == {
        "wrong": "failed",
        "long": "ran out of time",
        "after long": "left out",
        "well": "done",
    }
    assert found["wrong"].code == 2
    assert "nothing" in found["wrong"].said


def test_a_day_needs_a_gpu_and_its_training_has_the_most_of_it(tmp_path):
    ended = CliRunner().invoke(main, ["--devices", "cpu", "--output", str(tmp_path)])
    assert ended.exit_code == 2
    assert "--rehearse" in ended.output
    parts = programme(DAY, tmp_path, "cuda:0", 20)
    assert max(parts, key=lambda x: x.share).name == "training"
