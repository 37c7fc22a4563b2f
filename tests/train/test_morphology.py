"""The morphology loss: the extractor has to find the mask in x0-hat, as a run makes it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from mcdiff_batch.engine.model.contract import SHIPPED, load_bundle
from mcdiff_batch.engine.model.ladder import choose
from mcdiff_batch.engine.model.schedule import Schedule
from mcdiff_batch.train.cases.data import load
from mcdiff_batch.train.networks.presets import PRESETS, adjust
from mcdiff_batch.train.training.loop import Setting
from mcdiff_batch.train.training.morphology import (
    View,
    draw_view,
    first_time,
    morphology_loss,
    times_from_first,
)
from mcdiff_batch.train.training.stages import train_all


class Bright(nn.Module):
    """An extractor that takes bright px for bone; remembers what it saw."""

    def forward(self, image):
        self.seen = image.detach()
        return torch.cat((-9 * image, 9 * image, *[torch.full_like(image, -9.0)] * 2), 1)


def plain(height, width):
    return View(torch.zeros(1, 1, height, width), torch.arange(height), torch.arange(width))


def test_the_loss_is_low_where_the_image_shows_the_mask_and_pulls_towards_it():
    label = torch.zeros(1, 8, 8, dtype=torch.uint8)
    label[:, 2:5, 3:6] = 1
    shown = (2.0 * label - 1)[:, None]
    inside, view = torch.ones(1, 1, 8, 8), plain(8, 8)
    assert morphology_loss(Bright(), shown, inside, label, view) < 1e-6
    grey = torch.zeros(1, 1, 8, 8, requires_grad=True)
    morphology_loss(Bright(), grey, inside, label, view).backward()
    assert (torch.sign(-grey.grad) == shown).all()


def test_black_outside_the_strip_and_clamped_as_a_run_does_but_with_a_gradient():
    label, view, extractor = torch.zeros(1, 8, 8, dtype=torch.uint8), plain(8, 8), Bright()
    inside = torch.ones(1, 1, 8, 8)
    inside[..., :2] = 0
    image = torch.full((1, 1, 8, 8), 3.0, requires_grad=True)
    morphology_loss(extractor, image, inside, label, view).backward()
    assert (extractor.seen[..., :2] == -1).all()
    assert (extractor.seen[..., 2:] == 1).all()
    assert (image.grad[..., :2] == 0).all()
    assert (image.grad[..., 2:] > 0).all()


def test_image_and_mask_are_seen_from_the_same_place():
    rng = np.random.default_rng(0)
    label = torch.from_numpy(rng.integers(2, size=(3, 16, 8), dtype=np.uint8))
    image, inside = (2.0 * label - 1)[:, None], torch.ones(3, 1, 16, 8)
    views = [draw_view(image.shape, rng) for _ in range(8)]
    places = {(tuple(x.rows.tolist()), tuple(x.columns.tolist())) for x in views}
    assert len(places) > 4
    for view in views:
        assert 0 < view.grain.std() < 0.07
        assert morphology_loss(Bright(), image, inside, label, view) < 0.01


def test_the_first_draw_of_a_case_is_at_the_time_of_a_runs_first_evaluation():
    _, ladder = choose(load_bundle(SHIPPED).contract, 0.0, "ddim", 1)
    schedule = Schedule()
    assert first_time(schedule) == round(ladder[0])
    times = times_from_first(schedule, 5, 3, np.random.default_rng(0)).reshape(5, 3)
    assert (times[:, 0] == first_time(schedule)).all()
    assert len(set(times[:, 1:].ravel().tolist())) == 10
    assert times[:, 1:].min() >= 1
    assert times[:, 1:].max() <= schedule.steps
    assert times_from_first(schedule, 2, 1, np.random.default_rng(0)).tolist() == [996, 996]


@pytest.mark.slow
def test_stage_iii_with_the_loss_stops_and_resumes_to_the_same_weights(phantoms, tmp_path):
    preset = adjust(PRESETS["toy"], 0.1, {"morphology": 0.5})
    data = load(phantoms, preset.frame, preset.depth_weights, 0.0)

    def train(folder, limit=None):
        setting = Setting(
            seed=0, device=torch.device("cpu"), ema=0.5, clip=1.0, folder=folder, notes=1
        )
        said = []

        def say(text):
            said.append(text)
            if limit and text.startswith(limit):
                raise InterruptedError

        nets, _ = train_all(preset, data, data, setting, say)
        return {name: x.clone() for name, x in nets.all()["tuner"].state_dict().items()}

    whole = train(tmp_path / "whole")
    with pytest.raises(InterruptedError):
        train(tmp_path / "parts", "tuner")
    resumed = train(tmp_path / "parts")
    assert all(torch.equal(x, resumed[name]) for name, x in whole.items())
    preset = replace(preset, morphology=0.0)
    without = train(tmp_path / "without")
    assert any(not torch.equal(x, without[name]) for name, x in whole.items())
