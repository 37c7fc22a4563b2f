"""The networks compute what the equations say, with every setting that a preset may have."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from onnxruntime import InferenceSession

from mcdiff_batch.engine.backends.ort import REFERENCE
from mcdiff_batch.engine.errors import UsageError
from mcdiff_batch.engine.image.frame import Frame
from mcdiff_batch.engine.model.contract import load_bundle
from mcdiff_batch.engine.model.plan import Device
from mcdiff_batch.engine.model.solver import Rung
from mcdiff_batch.export.onnx import write_denoiser
from mcdiff_batch.train.cases.data import (
    batch_of,
    load,
    one_hot,
)
from mcdiff_batch.train.networks.fusion import fuse
from mcdiff_batch.train.networks.graphs import condition_names
from mcdiff_batch.train.networks.losses import coefficients, denoising_loss, diffuse
from mcdiff_batch.train.networks.plan import TorchPlan
from mcdiff_batch.train.networks.presets import PRESETS, adjust
from mcdiff_batch.train.networks.trio import Networks
from mcdiff_batch.train.networks.unet import Widths
from mcdiff_batch.train.training.loop import Setting
from mcdiff_batch.train.training.noising import Noising
from mcdiff_batch.train.training.stages import train_all
from mcdiff_batch.train.training.weights import read_weights, start_from
from tests.support.networks import drawn, networks, stack


def test_the_networks_as_a_plan_compute_what_the_bundle_does(toy_training, toy_bundle):
    bundle = load_bundle(toy_bundle)
    rng = np.random.default_rng(3)
    depths, x = (rng.uniform(-1, 1, (2, n, 64, 16)).astype(np.float32) for n in (5, 1))
    weights, strip = np.full((2, 5), 0.2, np.float32), np.ones((2, 1, 64, 16), np.float32)
    rung = Rung(t=400.0, signal=0.8, noise=0.6, a=0.5, b=0.4, c=0.1)
    found = []
    for plan in (
        REFERENCE.load(bundle, Device(kind="cpu", index=0), 2),
        TorchPlan(read_weights(toy_training)[0], 2),
    ):
        conditioned = plan.condition(depths, weights, strip, depths[:, :1])
        found.append((conditioned.label, *plan.step(x, x / 2, rung, conditioned)))
    for theirs, mine in zip(*found, strict=True):
        assert np.abs(theirs.astype(np.float32) - mine).max() < 1e-4


def x0_pair(nets):
    depths, weights = torch.rand(2, 5, 64, 16), torch.full((2, 5), 0.2)
    x, scan = torch.randn(2, 1, 64, 16), depths[:, :1]
    conditions = nets.conditions(depths, weights)
    return drawn(nets, x, scan, None), drawn(nets, x, scan, conditions)


def test_a_residual_tuner_begins_at_the_pretrained_model_and_eq_8_as_written_does_not():
    plain, tuned = x0_pair(networks(residual=True, middle=True))
    assert torch.equal(plain, tuned)
    plain, tuned = x0_pair(networks(residual=False))
    assert not torch.allclose(plain, tuned, atol=1e-3)


def test_the_folded_tuner_is_equation_7_and_8():
    tuner = networks(residual=False).tuner[0]
    f, feature, star = torch.randn(3, 1, 8, 6, 4).unbind()
    conv = torch.nn.functional.conv2d
    down = conv(f + feature, tuner.down.weight, tuner.down.bias)
    written = tuner.up(torch.nn.functional.silu(down)) + conv(star, tuner.star.weight)
    assert torch.allclose(tuner(f, *tuner.fold(feature, star)), written, atol=1e-6)


def test_fusion_is_the_weighted_sum_over_depths():
    stacked = torch.randn(6, 2, 4, 4)
    weights = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])
    found = fuse(weights, stacked)
    assert torch.allclose(found[0], 0.2 * stacked[0] + 0.3 * stacked[1] + 0.5 * stacked[2])
    assert torch.equal(found[1], stacked[3])


def test_the_two_terms_of_equation_9_add_up_to_the_mean_square_of_v():
    x0, eps, eps_hat = torch.randn(3, 4, 1, 8, 8, dtype=torch.float64).unbind()
    alpha = torch.tensor([0.9, 0.5, 0.3, 0.2], dtype=torch.float64)
    signal, noise = alpha.sqrt()[:, None, None, None], (1 - alpha).sqrt()[:, None, None, None]
    x = diffuse(x0, eps, alpha)
    x0_hat = (x - noise * eps_hat) / signal
    both = (eps - eps_hat).square().mean() + (x0 - x0_hat).square().mean()
    scale = coefficients("v", signal, noise, 0.25).net.abs()
    everywhere = torch.ones_like(x0)
    found = denoising_loss(x0_hat, x0, scale, everywhere, power=0.0)
    assert found.item() == pytest.approx(both.item(), rel=1e-6)
    v, v_hat = (signal * e - noise * i for e, i in ((eps, x0), (eps_hat, x0_hat)))
    assert found.item() == pytest.approx((v - v_hat).square().mean().item(), rel=1e-6)


def test_the_linear_estimate_is_the_best_one_of_two_noisy_observations():
    rng = np.random.default_rng(0)
    x0, sigma_b, alpha = rng.standard_normal(200_000) * 50, 0.25, 0.8
    x = np.sqrt(alpha) * x0 + np.sqrt(1 - alpha) * rng.standard_normal(len(x0))
    scan = x0 + sigma_b * rng.standard_normal(len(x0))
    scalars = (torch.tensor(value) for value in (alpha**0.5, (1 - alpha) ** 0.5))
    c = coefficients("scan", *scalars, sigma_b)
    fitted = np.linalg.lstsq(np.stack([x, scan], axis=1), x0, rcond=None)[0]
    assert [c.x.item(), c.scan.item()] == pytest.approx(fitted.tolist(), abs=2e-3)
    off = np.std(c.x.item() * x + c.scan.item() * scan - x0)
    assert c.net.item() == pytest.approx(off, rel=0.01)


def test_at_full_noise_the_estimate_is_the_scan_and_without_noise_it_is_x_t():
    nets, scan, x = networks(), torch.rand(1, 1, 64, 16), torch.rand(1, 1, 64, 16)
    for p in nets.foundation.out.parameters():
        torch.nn.init.zeros_(p)
    assert torch.allclose(drawn(nets, x, scan, None, signal=5e-5, noise=1.0), scan, atol=1e-4)
    assert torch.allclose(drawn(nets, x, scan, None, signal=1.0, noise=0.0), x, atol=1e-6)


def test_only_px_inside_the_strip_count_in_the_loss():
    x0, inside = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    inside[..., :2] = 1
    guess = torch.where(inside > 0, 0.5, 9.0)
    loss = denoising_loss(guess, x0, torch.ones(1, 1, 1, 1), inside, power=2.0)
    assert loss.item() == pytest.approx(0.25)


def test_plain_regression_is_trained_at_full_noise_alone():
    image, toy = torch.zeros(6, 1, 8, 8), PRESETS["toy"]
    noising = Noising(replace(toy, regression=True))
    found = noising(image, image, np.random.default_rng(0))
    assert found.t.tolist() == [1000] * 6
    assert len(set(Noising(toy)(image, image, np.random.default_rng(0)).t.tolist())) == 6


def test_sigma_b_is_the_presets_or_drawn_around_it_and_nothing_else_changes():
    image, toy = torch.zeros(200, 1, 8, 8), PRESETS["toy"]
    fixed, told = (
        Noising(replace(toy, sigma_b=0.2, sigma_b_input=told))(
            image, image, np.random.default_rng(0)
        )
        for told in (False, True)
    )
    assert set(fixed.sigma_b.tolist()) == {torch.tensor(0.2).item()}
    assert 0.1 <= told.sigma_b.min() < 0.11
    assert 0.36 < told.sigma_b.max() <= 0.4
    assert (told.sigma_b < 0.2).float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert torch.equal(told.x, fixed.x)
    assert torch.equal(told.t, fixed.t)


def test_only_a_foundation_that_is_told_sigma_b_answers_to_it():
    x, scan, t = torch.randn(2, 1, 64, 16), torch.rand(2, 1, 64, 16), torch.tensor([500.0])
    alpha = torch.tensor([0.6]), torch.tensor([0.8])
    for told in (False, True):
        nets = networks(sigma_b_input=told)
        low, high = (nets.foundation(x, t, None, torch.tensor([sd])) for sd in (0.2, 0.4))
        assert torch.equal(low, high) == (not told)
        given = nets.x0(x, t, *alpha, scan, None, torch.full((2,), nets.preset.sigma_b))
        assert torch.allclose(nets.x0(x, t, *alpha, scan, None), given, atol=1e-6)
        other = nets.x0(x, t, *alpha, scan, None, torch.tensor([nets.preset.sigma_b, 0.5]))
        assert torch.allclose(other[0], given[0], atol=1e-6)
        assert not torch.allclose(other[1], given[1], atol=1e-2)


@pytest.fixture(scope="module")
def told_training(phantoms, tmp_path_factory):
    """A short training whose foundation is told sigma_b."""
    preset = replace(adjust(PRESETS["toy"], 0.05, {}), sigma_b_input=True)
    data = load(phantoms, preset.frame, preset.depth_weights, 0.0)
    setting = Setting(
        seed=0,
        device=torch.device("cpu"),
        ema=0.5,
        clip=1.0,
        folder=tmp_path_factory.mktemp("told") / "t",
        notes=1,
    )
    train_all(preset, data, data, setting, lambda text: None)
    return setting.folder


def test_a_foundation_learns_what_sigma_b_means(told_training):
    nets, card = read_weights(told_training)
    assert nets.preset.sigma_b_input
    assert card["preset"]["sigma_b_input"]
    before = networks(sigma_b_input=True).foundation.sigma
    for a, b in zip(before.parameters(), nets.foundation.sigma.parameters(), strict=True):
        assert not torch.equal(a, b)


def test_an_exported_step_has_the_presets_sigma_b_and_no_input_more(tmp_path):
    nets = networks(sigma_b_input=True)
    told = write_denoiser(nets, tmp_path / "told.onnx")
    plain = write_denoiser(networks(), tmp_path / "plain.onnx")
    assert told.inputs == plain.inputs
    session = InferenceSession(tmp_path / "told.onnx", providers=["CPUExecutionProvider"])
    shapes = {
        x.name: [size if isinstance(size, int) else 2 for size in x.shape] for x in told.inputs
    }
    fed = {name: torch.rand(shape) for name, shape in shapes.items()}
    fed |= {"t": torch.tensor([500.0]), "coefficients": torch.tensor([0.6, 0.8, 0.5, 0.4, 0.1])}
    _, found = session.run(None, {name: x.numpy() for name, x in fed.items()})
    folded = [fed[name] for name in condition_names(nets)]
    pairs = list(zip(folded[::2], folded[1::2], strict=True))
    x0 = drawn(nets, fed["x"], fed["scan"], pairs).clamp(-1, 1)
    expected = fed["strip"] * x0 - (1 - fed["strip"])
    assert np.abs(found - expected.detach().numpy()).max() < 1e-4


def test_a_start_from_a_foundation_that_is_told_more_or_less_is_refused(
    told_training, toy_training
):
    with pytest.raises(UsageError, match="trained with sigma_b_input True"):
        start_from(networks(), told_training)
    with pytest.raises(UsageError, match="trained with sigma_b_input False"):
        start_from(networks(sigma_b_input=True), toy_training)


@pytest.mark.parametrize("name", PRESETS)
def test_the_networks_of_every_preset_compute_an_image(name):
    small = Widths(base=8, multipliers=(1, 2), blocks=1, patch=PRESETS[name].widths.patch)
    nets = Networks(replace(PRESETS[name], widths=small), torch.device("cpu"))
    depths, scan = torch.rand(1, 5, 64, 16), torch.rand(1, 1, 64, 16)
    conditions = nets.conditions(depths, torch.full((1, 5), 0.2))
    assert drawn(nets, scan, scan, conditions).shape == scan.shape


def test_every_kind_of_condition_reaches_every_skip():
    depths, weights = stack(), torch.full((2, 5), 0.2)
    for kind in ("depths", "segmentation"):
        nets = networks(conditions=kind, residual=False)
        torch.nn.init.normal_(nets.extractor.out.weight)
        encoder, star = nets.tuner_inputs(nets.features(depths, weights))
        assert len(encoder) == len(star) == len(nets.tuner)
        if kind == "segmentation":
            assert all(torch.allclose(x.sum(1), torch.ones(()), atol=1e-5) for x in encoder)
        conditions = nets.conditions(depths, weights)
        scan = depths[:, :1]
        assert drawn(nets, scan, scan, conditions).shape == (2, 1, 64, 16)


def test_conditions_from_one_depth_do_not_look_at_the_others(phantoms):
    data = one_hot(load(phantoms, Frame(height=64, width=16), (0.2,) * 5, 0.0))
    batch = batch_of(data, np.arange(2), np.zeros(2, bool))
    nets = networks()
    conditions = nets.conditions(batch.depths, batch.weights)
    others = torch.nn.functional.one_hot(batch.optimal, 5)[:, :, None, None] == 0
    moved = nets.conditions(torch.where(others, batch.depths.flip(2), batch.depths), batch.weights)
    for a, b in zip(conditions, moved, strict=True):
        assert torch.allclose(a[0], b[0], atol=1e-5)
        assert torch.allclose(a[1], b[1], atol=1e-5)
