"""Training cases: what stage III learns towards, and what the networks read instead."""

import numpy as np
import pytest
import torch

from mcdiff_batch.engine.image.frame import Frame
from mcdiff_batch.train.cases.data import load
from mcdiff_batch.train.cases.targets import contrast_to_bone, even
from mcdiff_batch.train.cases.variation import vary
from mcdiff_batch.train.networks.fusion import fuse_after_decoding, fuse_before_decoding
from mcdiff_batch.train.networks.presets import PRESETS
from mcdiff_batch.train.networks.trio import Networks

TOY = PRESETS["toy"]
MM = 0.9  # of a px


def scan(dim: float) -> tuple[np.ndarray, np.ndarray]:
    """A strip of tissue with a dark bar; its lower half is dimmed to `dim` of the brightness."""
    label = np.zeros((128, 32), np.uint8)
    label[30:40, 8:24] = label[90:100, 8:24] = 1
    level = np.where(label > 0, 0.2, 0.7).astype(np.float32)
    level[64:] *= dim
    level[:, :4] = level[:, -4:] = 0
    return 2 * level - 1, label


def test_even_takes_a_share_of_the_shading_out_and_leaves_black_black() -> None:
    image, label = scan(dim=0.5)
    uneven = lambda x: float(x[20, 16] - x[115, 16]) / 2
    assert uneven(even(image, label, MM, 0.4)) < 0.75 * uneven(image)
    assert uneven(even(image, label, MM, 1.0)) < 0.1 * uneven(image)
    assert (even(image, label, MM, 0.4)[:, :4] == -1).all()


def test_even_changes_nothing_at_share_0_or_where_tissue_is_even() -> None:
    image, label = scan(dim=0.5)
    np.testing.assert_array_equal(even(image, label, MM, 0.0), image)
    image, label = scan(dim=1.0)
    inside = np.s_[:, 4:-4]
    np.testing.assert_allclose(even(image, label, MM, 1.0)[inside], image[inside], atol=1e-4)


def test_contrast_to_bone_falls_with_shading_and_is_lowest_without_bone() -> None:
    (clear, label), (shaded, _) = scan(dim=0.9), scan(dim=0.5)
    assert contrast_to_bone(clear, label, MM) > contrast_to_bone(shaded, label, MM)
    assert contrast_to_bone(clear, np.zeros_like(label), MM) == -np.inf


def test_the_clearest_cases_are_those_of_the_highest_contrast(phantoms) -> None:
    data = load(phantoms, Frame(height=256, width=64), TOY.depth_weights, 0.0)
    half = data.clearest(0.5)
    assert len(half) == len(data) // 2
    assert half.contrast.min() >= np.median(data.contrast)
    assert len(data.clearest(0.0)) == 1


def test_the_faintest_cases_are_those_of_the_lowest_contrast(phantoms) -> None:
    data = load(phantoms, PRESETS["small"].frame, TOY.depth_weights, 0.0)
    faint = data.faintest(0.25)
    assert len(faint) == round(0.25 * len(data))
    assert faint.contrast.max() <= np.sort(data.contrast)[len(faint) - 1]
    assert len(data.faintest(0.0)) == 1


def test_only_the_target_is_made_even(phantoms) -> None:
    plain, evened = (load(phantoms, TOY.frame, TOY.depth_weights, 0.0, x) for x in (0.0, 0.4))
    np.testing.assert_array_equal(plain.depths, evened.depths)
    cases = np.arange(len(plain))
    np.testing.assert_array_equal(plain.image, plain.depths[cases, plain.optimal])
    assert (plain.image != evened.image).any()


def test_varied_images_keep_to_their_labels_and_to_black() -> None:
    image, label = (torch.from_numpy(x)[None] for x in scan(dim=1.0))
    image, label = image[None].expand(8, 1, -1, -1), label.expand(8, -1, -1)
    varied, moved = vary(image, label, np.random.default_rng(0))
    assert varied.shape == image.shape
    assert (varied.amin((1, 2, 3)) == -1).all()
    assert set(moved.unique().tolist()) <= {0, 1}
    for one, where in zip(varied[:, 0], moved, strict=True):
        inside = one > -1
        assert one[inside & (where > 0)].mean() < one[inside & (where == 0)].mean()
    assert not torch.equal(varied, image)


@pytest.mark.parametrize("fusion", [fuse_before_decoding, fuse_after_decoding])
def test_equal_depths_fuse_to_the_features_of_one(fusion) -> None:
    torch.manual_seed(0)
    extractor = Networks(TOY, torch.device("cpu")).extractor.eval()
    one = torch.randn(1, 1, 64, 16)
    with torch.no_grad():
        alone = extractor.features(one)
        fused = fusion(extractor, one.expand(3, -1, -1, -1), torch.tensor([[0.2, 0.3, 0.5]]))
    for a, b in zip(alone.encoder + alone.decoder, fused.encoder + fused.decoder, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert torch.equal(alone.logits.argmax(1), fused.logits.argmax(1))
    assert len(fused.logits) == 1
