"""The card of a training, and the experiments that it shows."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from markupsafe import escape

from mcdiff_batch.engine.errors import UsageError
from mcdiff_batch.train.training.cli import train


def test_the_card_says_data_split_settings_metrics_and_machine_on_one_page(toy_training):
    card = json.loads((toy_training / "card.json").read_text())
    sides = card["sides"]
    assert sides["train"]["cases"] + sides["held_out"]["cases"] == 24
    assert set(card["held_out"]) == {"foundation", "extractor", "tuner"}
    assert card["machine"]["versions"]["torch"] == torch.__version__
    assert "--preset toy" in card["command"]
    page = (toy_training / "card.html").read_text()
    for said in (card["data"]["sha256"], card["weights_sha256"], card["command"]):
        assert said in page
    assert page.count("data:image/png;base64,") == 4
    assert "<script" not in page
    assert 'src="http' not in page
    assert str(toy_training.parent) not in page


def experiments():
    """What `bench experiments` writes, with two arms."""
    measures = {m: [1.25, 0.5, 2.0] for m in ("psnr", "cnr_ln", "snr_ln")}
    row = {"4": measures, "10": measures}
    over = {"4, over base": measures, "10, over base": measures | {"psnr": [-0.5, -1.0, 0.0]}}
    gains = {"cnr_ln": [3.0, 2.5, 3.5], "snr_ln": [float("nan")] * 3}
    return {
        "frame": {"height": 128, "width": 32},
        "steps": 400,
        "cases": 48,
        "evaluations": [4, 10],
        "references": {"original": {"psnr": [20.5, 19.0, 22.0]}},
        "table_v": {"base": {"seeds": 3, "4": gains}, "not played": {"seeds": 0}},
        "runs": [
            {"arm": "base", "question": "the preset"} | row | over,
            {"arm": "a <b> arm", "question": "fusion"} | row | over,
        ],
    }


def train_again(toy_training, phantoms, tmp_path, file):
    """The command of a training that is done already, with --experiments."""
    folder = shutil.copytree(toy_training, tmp_path / "toy")
    words = ["--data", str(phantoms), "--preset", "toy", "--output", str(folder)]
    ended = CliRunner().invoke(train, [*words, "--experiments", str(file)])
    return folder, ended


def test_a_card_shows_the_experiments_that_settled_its_settings(toy_training, phantoms, tmp_path):
    (tmp_path / "settled.json").write_text(json.dumps(experiments()))
    folder, ended = train_again(toy_training, phantoms, tmp_path, tmp_path / "settled.json")
    assert ended.exit_code == 0, ended.exception
    assert json.loads((folder / "card.json").read_text())["experiments"]["steps"] == 400
    page = (folder / "card.html").read_text()
    for said in (
        *("a &lt;b&gt; arm", "fusion", "128 x 32", "20.50", "Table V: gain over the original"),
        *("+1.25 (+0.50 to +2.00)", "+3.00 (+2.50 to +3.50)", "10 evaluations"),
    ):
        assert said in page
    for never in (">nan", "not played", "<b>"):
        assert never not in page
    assert "Experiments" not in (toy_training / "card.html").read_text()


def test_the_committed_experiments_fit_into_a_card(toy_training, phantoms, tmp_path):
    path = Path(__file__).parents[2] / "bench/results/experiments.json"
    folder, ended = train_again(toy_training, phantoms, tmp_path, path)
    assert ended.exit_code == 0, ended.exception
    page = (folder / "card.html").read_text()
    for row in json.loads(path.read_text())["runs"]:
        assert f">{escape(row['arm'])}<" in page


@pytest.mark.parametrize(
    "content", ["no JSON", "[]", "{}", '{"runs": 3}', '{"evaluations": [], "runs": []}']
)
def test_experiments_that_a_card_cannot_show_are_refused_before_the_training(
    toy_training, phantoms, tmp_path, content
):
    (tmp_path / "e.json").write_text(content)
    folder, ended = train_again(toy_training, phantoms, tmp_path, tmp_path / "e.json")
    assert isinstance(ended.exception, UsageError)
    assert "bench experiments" in str(ended.exception)
    assert (folder / "card.html").read_bytes() == (toy_training / "card.html").read_bytes()
