"""Training on the toy preset: the three stages learn, resume, and refuse what does not fit."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from click.testing import CliRunner
from markupsafe import escape
from PIL import Image

from mcdiff_batch.engine.errors import ArchiveError, FingerprintError, UsageError
from mcdiff_batch.engine.image.frame import Frame
from mcdiff_batch.train.cases.corruption import corrupt_batch, corrupt_depths
from mcdiff_batch.train.cases.data import (
    PART,
    batch_of,
    draw,
    leave_out_optimal,
    load,
    split,
)
from mcdiff_batch.train.networks.presets import PRESETS, adjust, preset_from
from mcdiff_batch.train.networks.unet import Widths
from mcdiff_batch.train.training import checkpoint
from mcdiff_batch.train.training.cli import train
from mcdiff_batch.train.training.loop import Setting
from mcdiff_batch.train.training.stages import train_all
from mcdiff_batch.train.training.weights import read_weights, start_from
from tests.support.networks import networks, stack
from tests.support.running import archive

CLI = [sys.executable, "-c", "from mcdiff_batch.engine.cli import main; main()"]


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


def test_a_budget_scales_every_stage():
    half = adjust(PRESETS["small"], 0.5, {"residual": False, "conditions": None})
    for whole, stage in zip(PRESETS["small"].stages, half.stages, strict=True):
        assert stage.steps == round(whole.steps / 2)
        assert stage.crop_steps == round(whole.crop_steps / 2)
    assert not half.residual
    assert half.conditions == "depths"


def test_an_archive_read_by_several_processes_keeps_its_order(tmp_path):
    path, cases = archive(tmp_path / "a.zarr", cases=PART + 1), np.arange(PART + 1)
    group = zarr.open_group(path, mode="r+")
    labels = np.broadcast_to(cases.astype(np.uint8)[:, None, None], (PART + 1, 40, 16))
    group.create_array("label", data=labels, chunks=(1, 40, 16))
    group.create_array("artifact_free", data=cases % 2 == 0)
    found = load(path, Frame(height=32, width=16), (0.5, 0.5), 0.0)
    assert found.artifact_free.tolist() == (cases % 2 == 0).tolist()
    assert found.label.max((1, 2)).tolist() == cases.tolist()


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
    [("toy", ["tuner"], "--from"), ("small-more", ["foundation"], "has the stages extractor, tun")],
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


def test_an_archive_without_labels_is_refused(tmp_path, phantoms):
    group = zarr.open_group(tmp_path / "bare.zarr", mode="w")
    depths = zarr.open_group(phantoms, mode="r")["depths"]
    group.create_array("depths", data=depths[:2], chunks=(1, *depths.shape[1:]))
    with pytest.raises(ArchiveError, match="no label"):
        load(tmp_path / "bare.zarr", Frame(height=64, width=16), (0.2,) * 5, 0.0)


def test_the_clean_target_is_never_read(tmp_path, phantoms):
    """A phantom archive whose clean target is gone gives the same training data."""
    import shutil

    copy = shutil.copytree(phantoms, tmp_path / "copy.zarr")
    shutil.rmtree(copy / "clean")
    one, two = (load(x, Frame(height=64, width=16), (0.2,) * 5, 0.0) for x in (phantoms, copy))
    assert (one.depths == two.depths).all()
    assert (one.label == two.label).all()


def test_a_patient_is_on_one_side_of_the_split_only(phantoms):
    data = load(phantoms, Frame(height=64, width=16), (0.2,) * 5, 0.0)
    data.patient[:] = [f"p{i // 4}" for i in range(len(data))]
    known, unseen = split(data, held_out=0.4)
    assert len(known) + len(unseen) == len(data)
    assert not set(known.patient) & set(unseen.patient)


def test_a_flip_turns_all_depths_and_the_label_together(phantoms):
    data = load(phantoms, Frame(height=64, width=16), (0.2,) * 5, 0.0)
    plain, mirrored = (batch_of(data, np.array([0]), np.array([f])) for f in (False, True))
    assert torch.equal(mirrored.depths, plain.depths.flip(-1))
    assert torch.equal(mirrored.label, plain.label.flip(-1))
    assert torch.equal(mirrored.image, plain.image.flip(-1))


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


def test_a_crop_is_a_part_of_the_rows_of_all_depths_and_the_label(phantoms):
    data = load(phantoms, Frame(height=64, width=16), (0.2,) * 5, 0.0)
    batch = draw(data, 4, np.random.default_rng(0), crop=True)
    assert batch.depths.shape == (4, 5, 16, 16)
    assert batch.label.shape == (4, 16, 16)
    rows = np.arange(20, 36)[None]
    cut = batch_of(data, np.array([1]), np.array([False]), rows)
    whole = batch_of(data, np.array([1]), np.array([False]))
    assert torch.equal(cut.depths, whole.depths[:, :, 20:36])
    assert torch.equal(cut.label, whole.label[:, 20:36])


def test_a_stack_without_its_optimal_depth_has_another_there_and_keeps_its_target(phantoms):
    data = load(phantoms, Frame(height=64, width=16), (0.2,) * 5, 0.0)
    clear = batch_of(data, np.arange(8), np.zeros(8, bool))
    left = leave_out_optimal(clear, 1.0, np.random.default_rng(0))
    assert torch.equal(left.image, clear.image)
    for i, optimal in enumerate(clear.optimal.tolist()):
        assert torch.equal(left.depths[i, optimal], left.scan[i, 0])
        others = [d for d in range(5) if d != optimal]
        assert any(torch.equal(left.scan[i, 0], clear.depths[i, d]) for d in others)
        assert torch.equal(left.depths[i, others], clear.depths[i, others])
    assert torch.equal(leave_out_optimal(clear, 0.0, np.random.default_rng(0)).depths, clear.depths)


def test_presets_and_weights_survive_being_stored(toy_training):
    for preset in PRESETS.values():
        from dataclasses import asdict

        assert preset_from(json.loads(json.dumps(asdict(preset)))) == preset
    nets, card = read_weights(toy_training)
    assert nets.preset.name == card["preset"]["name"] == "toy"


def test_a_damaged_checkpoint_is_refused(toy_training, tmp_path):
    from mcdiff_batch.engine.errors import BundleError

    data = (toy_training / "weights.safetensors").read_bytes()
    (tmp_path / "weights.safetensors").write_bytes(data[:100])
    with pytest.raises(BundleError, match="is not a checkpoint"):
        checkpoint.load(tmp_path / "weights")


@pytest.mark.slow
def test_two_processes_train_as_one_under_torchrun(phantoms, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    script = tmp_path / "main.py"
    script.write_text("from mcdiff_batch.engine.cli import main; main()")
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


def spoiled(depths, seed):
    label = torch.zeros(len(depths), 64, 16, dtype=torch.uint8)
    label[:, 20:30, 5:9] = 1
    return corrupt_depths(depths, label, torch.Generator().manual_seed(seed), 64)


def test_corruption_stays_inside_the_strip_and_the_range_and_is_drawn_from_the_seed():
    depths = stack()
    found, again, other = (spoiled(depths, s) for s in (7, 7, 8))
    assert torch.equal(found, again)
    assert not torch.equal(found, other)
    assert (found[..., :3] == -1).all()
    assert (found[..., -3:] == -1).all()
    assert found.abs().max() <= 1
    assert (found - depths)[..., 3:-3].abs().mean() > 0.02


def test_corruption_changes_what_is_read_and_neither_target_nor_mask(phantoms):
    data = load(phantoms, Frame(height=64, width=16), (0.2,) * 5, 0.0)
    clear = batch_of(data, np.arange(8), np.zeros(8, bool))
    none, some = (corrupt_batch(clear, share, np.random.default_rng(0), 64) for share in (0.0, 0.5))
    assert none is clear
    changed = (some.depths != clear.depths).flatten(1).any(1)
    assert 0 < changed.sum() < 8
    assert torch.equal(some.image, clear.image)
    assert torch.equal(some.label, clear.label)


def test_clutter_differs_between_depths():
    depths = torch.full((1, 5, 64, 16), 0.0)
    found = spoiled(depths, 3)[0]
    pairs = [(i, j) for i in range(5) for j in range(i)]
    assert all((found[i] - found[j]).abs().mean() > 0.02 for i, j in pairs)


def tensors_of(nets):
    return {f"{part}.{k}": x for part, m in nets.all().items() for k, x in m.state_dict().items()}


def test_a_training_starts_from_the_very_weights_of_a_bundle_or_of_a_training(
    toy_training, toy_bundle
):
    trained, _ = read_weights(toy_training)
    for source in (toy_training, toy_bundle):
        nets = networks()
        start_from(nets, source)
        for name, x in tensors_of(nets).items():
            assert torch.equal(x, tensors_of(trained)[name]), (source, name)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"residual": False}, "trained with residual True"),
        ({"widths": Widths(base=16, multipliers=(1, 2), blocks=1)}, "expected \\("),
    ],
)
def test_a_start_from_another_kind_of_model_is_refused(toy_training, toy_bundle, changes, said):
    for source in (toy_training, toy_bundle):
        with pytest.raises(UsageError, match=said):
            start_from(networks(**changes), source)
