"""Training on the toy preset: the three stages learn, resume, and refuse what does not fit."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from mcdiff_batch.engine.errors import FingerprintError, UsageError
from mcdiff_batch.train.cases.data import load
from mcdiff_batch.train.networks.presets import PRESETS, adjust
from mcdiff_batch.train.training import checkpoint
from mcdiff_batch.train.training.cli import train
from mcdiff_batch.train.training.loop import Setting
from mcdiff_batch.train.training.stages import train_all
from mcdiff_batch.train.training.weights import read_weights
from tests.support.crafting import CLI, MAIN


def command(*words, **kwargs):
    return subprocess.run([*CLI, *map(str, words)], capture_output=True, text=True, **kwargs)


def weights(folder):
    return (folder / "weights.safetensors").read_bytes()


def test_every_stage_of_the_toy_preset_learns(toy_training):
    stages = json.loads((toy_training / "card.json").read_text())["stages"]
    for name in ("foundation", "tuner"):
        first, *_, last = stages[name]["history"]
        assert last["psnr_T"] > first["psnr_T"], name
    first, *_, last = stages["extractor"]["history"]
    assert last["loss"] < 0.8 * first["loss"]
    assert (toy_training / "curves.png").stat().st_size > 10_000


def test_samples_are_drawn_while_a_stage_learns(toy_training):
    drawn = sorted(x.name for x in (toy_training / "samples").iterdir())
    assert drawn[-1] == "tuner_000060.png"
    assert sum(x.startswith("foundation") for x in drawn) >= 5
    picture = Image.open(toy_training / "samples" / "tuner_000060.png")
    assert picture.height == 64
    assert np.asarray(picture).std() > 10


def test_the_help_names_every_preset():
    (option,) = (x for x in train.params if x.name == "preset")
    assert set(option.help.rstrip(".").replace(" or ", ", ").split(", ")) == set(PRESETS)


def test_a_budget_scales_every_stage():
    half = adjust(PRESETS["small"], 0.5, {"residual": False, "conditions": None})
    for whole, stage in zip(PRESETS["small"].stages, half.stages, strict=True):
        assert stage.steps == round(whole.steps / 2)
        assert stage.crop_steps == round(whole.crop_steps / 2)
    assert not half.residual
    assert half.conditions == "depths"


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # of a machine of one core
def test_processes_that_prepare_ahead_change_no_weight_and_the_wait_is_recorded(phantoms, tmp_path):
    preset = adjust(PRESETS["toy"], 0.1, {})
    cases = load(phantoms, preset.frame, preset.depth_weights, 0.0)
    for loaders in (0, 2):
        setting = Setting(
            seed=0,
            device=torch.device("cpu"),
            ema=0.9,
            clip=1.0,
            folder=tmp_path / str(loaders),
            loaders=loaders,
        )
        _, records = train_all(preset, cases, cases, setting, lambda text: None)
        times = [(x["waited_for_data"], x["seconds"]) for x in records.values()]
        assert all(0 <= waited < seconds + 0.05 for waited, seconds in times)
        assert loaders or all(waited for waited, _ in times)
    assert weights(tmp_path / "0") == weights(tmp_path / "2")


def test_a_training_ends_when_its_minutes_are_over(phantoms, tmp_path):
    words = ["--data", str(phantoms), "--preset", "toy", "--output", str(tmp_path / "short")]
    more = ["--budget", "1000", "--minutes", "0.1"]
    CliRunner().invoke(train, words + more, catch_exceptions=False)
    stages = json.loads((tmp_path / "short" / "card.json").read_text())["stages"]
    assert all(0 < x["steps"] < 1000 for x in stages.values())


def test_a_stage_can_be_trained_alone_from_other_weights(toy_training, phantoms, tmp_path):
    words = ["--data", str(phantoms), "--preset", "toy", "--output", str(tmp_path / "more")]
    more = ["--stage", "extractor", "--from", str(toy_training), "--budget", "0.1"]
    CliRunner().invoke(train, words + more, catch_exceptions=False)
    card = json.loads((tmp_path / "more" / "card.json").read_text())
    assert list(card["stages"]) == ["extractor"]
    assert "--stage extractor" in card["command"]
    before, after = (read_weights(x)[0].all() for x in (toy_training, tmp_path / "more"))
    same = {
        part: all(map(torch.equal, before[part].parameters(), after[part].parameters()))
        for part in before
    }
    assert same == {"foundation": True, "extractor": False, "tuner": True}


@pytest.mark.parametrize(
    ("preset", "stages", "said"),
    [
        ("toy", ["tuner"], "--from"),
        ("small-more", ["foundation"], "has the stages extractor, tun"),
        ("small-more", [], "--preset small-more: the networks of the other stages"),
        ("small-morphology", [], "add --from"),
    ],
)
def test_a_stage_that_cannot_be_trained_alone_is_refused(phantoms, tmp_path, preset, stages, said):
    words = ["--data", str(phantoms), "--preset", preset, "--output", str(tmp_path / "none")]
    chosen = [word for x in stages for word in ("--stage", x)]
    ended = CliRunner().invoke(train, words + chosen)
    assert isinstance(ended.exception, UsageError)
    assert said in str(ended.exception)
    assert not (tmp_path / "none").exists()


def test_a_training_killed_in_any_stage_resumes_to_the_same_weights(
    toy_training, phantoms, tmp_path
):
    output = tmp_path / "resumed"
    train = ["train", "--data", phantoms, "--preset", "toy", "--output", output]
    for stage in ("foundation", "tuner"):
        process = subprocess.Popen([*CLI, *map(str, train)], stdout=subprocess.PIPE, text=True)
        for line in process.stdout:
            if line.startswith(f"{stage} "):
                process.kill()
                break
        process.wait()
        process.stdout.close()
    done = command(*train)
    assert done.returncode == 0, done.stderr
    assert weights(output) == weights(toy_training)


def test_another_seed_in_the_same_folder_is_refused_naming_the_field(toy_training, phantoms):
    done = command(
        "train", "--data", phantoms, "--preset", "toy", "--output", toy_training, "--seed", 1
    )
    assert done.returncode == FingerprintError.exit_code
    assert "seed" in done.stderr


@pytest.mark.parametrize("tunes", ["tuner", "decoder", "all"])
def test_stage_iii_trains_what_the_preset_says_and_the_extractor_never(phantoms, tmp_path, tunes):
    preset = replace(adjust(PRESETS["toy"], 0.05, {}), tunes=tunes)
    data = load(phantoms, preset.frame, preset.depth_weights, 0.0)
    setting = Setting(
        seed=0, device=torch.device("cpu"), ema=0.5, clip=1.0, folder=tmp_path / "t", notes=1
    )
    nets, _ = train_all(preset, data, data, setting, lambda text: None)
    before = {
        stage: checkpoint.select_prefix("average", checkpoint.load(setting.folder / stage)[0])
        for stage in ("foundation", "extractor")
    }
    after = {"foundation": nets.foundation, "extractor": nets.extractor}
    changed = {
        f"{stage}.{name.split('.')[0]}"
        for stage, model in after.items()
        for name, x in model.state_dict().items()
        if not torch.equal(x, before[stage][name])
    }
    if tunes == "tuner":
        assert not changed
    elif tunes == "decoder":
        assert changed == {"foundation.decoder", "foundation.last", "foundation.out"}
    else:
        assert {"foundation.stem", "foundation.encoder", "foundation.out"} <= changed
        assert not any(x.startswith("extractor") for x in changed)


def test_a_training_that_began_before_a_setting_existed_goes_on(toy_training, phantoms, tmp_path):
    folder = shutil.copytree(toy_training, tmp_path / "toy")
    pinned = json.loads((folder / "training.json").read_text())
    del pinned["preset"]["sigma_b_input"]
    (folder / "training.json").write_text(json.dumps(pinned))
    words = ["--data", str(phantoms), "--preset", "toy", "--output", str(folder)]
    CliRunner().invoke(train, words, catch_exceptions=False)
    assert weights(folder) == weights(toy_training)


@pytest.mark.slow
def test_two_processes_train_as_one_under_torchrun(phantoms, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    script = tmp_path / "main.py"
    script.write_text(MAIN)
    words = ["train", "--data", phantoms, "--preset", "toy", "--output", tmp_path / "two"]
    done = subprocess.run(
        [*launch, "--master-port", "29517", script, *map(str, words)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    card = json.loads((tmp_path / "two" / "card.json").read_text())
    assert card["stages"]["tuner"]["steps"] == 60
