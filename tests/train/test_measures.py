"""Formulas of the evaluation, against published figures and other people's code."""

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from mcdiff_batch.train.evaluation.agreement import agreement, bootstrap, icc
from mcdiff_batch.train.evaluation.draws import compare_spread, count_spread
from mcdiff_batch.train.evaluation.similarity import (
    WEIGHTS,
    ms_ssim,
    pyramid,
    square_view,
    strip_view,
)

SHROUT_FLEISS = np.array(  # 1979, table 2: six subjects, four judges
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float
)


def test_icc_is_that_of_shrout_and_fleiss():
    found = icc(SHROUT_FLEISS)
    assert found.value == pytest.approx(0.29, abs=0.005)
    assert found.low == pytest.approx(0.02, abs=0.005)
    assert found.high == pytest.approx(0.76, abs=0.005)


def test_icc_of_absolute_agreement_sees_a_constant_offset():
    angles = np.array([10.0, 20.0, 30.0, 45.0])
    assert icc(np.stack([angles, angles], axis=1)).value == 1
    assert icc(np.stack([angles, angles + 10], axis=1)).value < 0.9


def test_mad_and_sem_leave_out_angles_that_one_rater_could_not_read():
    a, b = np.array([10.0, 20.0, np.nan, 40.0, 50.0]), np.array([13.0, 16.0, 30.0, np.nan, 50.0])
    found = agreement(a, b)
    assert found.cases == 3
    assert found.mad == pytest.approx(7 / 3)
    assert found.sem == pytest.approx(np.sqrt((9 + 16 + 0) / 3 / 2))


def test_a_bootstrap_interval_holds_the_mean_and_narrows_with_cases():
    drawn = np.random.default_rng(0).normal(5, 1, (400, 1))
    few, many = (bootstrap(drawn[:n], lambda x: x[..., 0]) for n in (20, 400))
    assert many.low < 5 < many.high
    assert many.high - many.low < (few.high - few.low) / 2
    assert many == bootstrap(drawn, lambda x: x[..., 0])


def pair(seed=0, shape=(200, 181)):
    rng = np.random.default_rng(seed)
    image = rng.random(shape, dtype=np.float32)
    return image, np.clip(0.7 * image + 0.3 * rng.random(shape, dtype=np.float32), 0, 1)


def test_ms_ssim_is_made_of_skimages_ssim_at_every_scale():
    a, b = pair()
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected, x, y = 1.0, a.astype(np.float64), b.astype(np.float64)
    for scale, weight in enumerate(WEIGHTS):
        last = scale == len(WEIGHTS) - 1
        light = {} if last else {"K1": 1e6}  # luminance all but 1
        expected *= structural_similarity(x, y, data_range=1.0, **options, **light) ** weight
        x, y = (z[: z.shape[0] // 2 * 2, : z.shape[1] // 2 * 2] for z in (x, y))
        x, y = ((z[::2, ::2] + z[1::2, ::2] + z[::2, 1::2] + z[1::2, 1::2]) / 4 for z in (x, y))
    assert ms_ssim(pyramid(a), pyramid(b)) == pytest.approx(expected, abs=1e-4)
    assert ms_ssim(pyramid(a), pyramid(a)) == pytest.approx(1)
    assert ms_ssim(pyramid(a), pyramid(1 - a)) == 0


def test_the_strips_box_keeps_its_aspect_and_is_tall_enough_for_five_scales():
    image = np.zeros((256, 64), np.float32)
    strip = np.zeros(image.shape, bool)
    strip[20:220, 12:52] = True
    assert strip_view(image, strip).shape == (880, 176)
    assert square_view(image).shape == (256, 256)


def test_spread_that_follows_the_error_differs_from_spread_that_does_not():
    rng = np.random.default_rng(1)
    strip = np.ones((64, 32), bool)
    following, blind = [], []
    for scale in (0.5, 1.0, 1.5, 2.0):
        spread = (scale * rng.uniform(0, 0.2, strip.shape)).astype(np.float32)
        off = np.abs(rng.normal(0, 1, strip.shape) * spread)
        following.append(count_spread(spread, off, strip))
        blind.append(count_spread(spread, rng.permuted(off.ravel()).reshape(off.shape), strip))
    found, lost = compare_spread(following), compare_spread(blind)
    assert found is not None
    assert lost is not None
    assert found.per_px > 0.4 > 0.1 > abs(lost.per_px)
    assert found.per_case == pytest.approx(1)
    assert np.all(np.diff(found.spread) > 0)
    np.testing.assert_allclose(found.error, found.spread, rtol=0.25)
    assert compare_spread([]) is None
