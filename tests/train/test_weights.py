"""Weights and presets survive being stored, and a training can start from them."""

import json
from dataclasses import asdict

import pytest
import torch

from mcdiff_batch.engine.errors import BundleError, UsageError
from mcdiff_batch.train.networks.presets import PRESETS, preset_from
from mcdiff_batch.train.networks.unet import Widths
from mcdiff_batch.train.training import checkpoint
from mcdiff_batch.train.training.weights import read_weights, start_from
from tests.support.networks import networks


def test_presets_and_weights_survive_being_stored(toy_training):
    for preset in PRESETS.values():
        assert preset_from(json.loads(json.dumps(asdict(preset)))) == preset
    nets, card = read_weights(toy_training)
    assert nets.preset.name == card["preset"]["name"] == "toy"


def test_a_damaged_checkpoint_is_refused(toy_training, tmp_path):
    data = (toy_training / "weights.safetensors").read_bytes()
    (tmp_path / "weights.safetensors").write_bytes(data[:100])
    with pytest.raises(BundleError, match="is not a checkpoint"):
        checkpoint.load(tmp_path / "weights")


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
