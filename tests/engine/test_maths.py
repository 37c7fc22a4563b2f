"""Schedule, ladders, solvers, noise, frame and measures against what is known in closed form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcdiff_batch.engine.errors import UsageError
from mcdiff_batch.engine.image.columns import KEYS
from mcdiff_batch.engine.image.frame import (
    Frame,
    from_frame,
    nearest_from_frame,
    nearest_to_frame,
    place,
    scan_strip,
    to_frame,
)
from mcdiff_batch.engine.image.measure import Result, measure
from mcdiff_batch.engine.image.metrics import (
    cnr_ratio,
    dice,
    ln_db,
    log10_db,
    psnr,
    regions,
    roc_area,
    snr_ratio,
)
from mcdiff_batch.engine.model.noise import gaussian
from mcdiff_batch.engine.model.schedule import (
    Schedule,
    half_log_snr,
    log_snr_ladder,
    uniform_ladder,
)
from mcdiff_batch.engine.model.solver import rungs

SPREAD = 0.5  # standard deviation of the data whose denoiser is known exactly


def posterior_mean(x, rung):
    """E[x0 | x_t] for x0 ~ N(0, SPREAD^2): what a perfect network says."""
    return x * rung.signal * SPREAD**2 / (rung.signal**2 * SPREAD**2 + rung.noise**2)


def walked(solver, ladder, x):
    previous = np.zeros_like(x)
    for rung in rungs(solver, Schedule(), ladder):
        x0 = posterior_mean(x, rung)
        x, previous = rung.a * x + rung.b * x0 + rung.c * previous, x0
    return x


def exact(ladder, x):
    """The probability-flow ODE of Gaussian data scales x by the ratio of standard deviations."""
    alpha = Schedule().alpha_at(ladder[0])
    return x * SPREAD / np.sqrt(alpha * SPREAD**2 + 1 - alpha)


def order_of(solver):
    """Of convergence, from the error at 20 and 80 evaluations up to the last, first-order, step."""
    x = np.linspace(-2, 2, 9)
    errors = []
    for evaluations in (20, 80):
        ladder = log_snr_ladder(Schedule(), evaluations, first=-3.0, last=5.0)
        errors.append(np.abs(walked(solver, ladder, x) - exact(ladder, x)).max())
    return np.log(errors[0] / errors[1]) / np.log(4)


def test_alpha_falls_from_one_and_stays_above_zero():
    alphas = Schedule().alphas()
    assert alphas[0] == 1
    assert (np.diff(alphas) < 0).all()
    assert 1e-9 < alphas[-1] < 1e-8  # clipped betas: 2.4e-9


def test_ddim_is_equation_3_of_the_paper():
    alphas = Schedule().alphas()
    (rung, *_) = rungs("ddim", Schedule(), (400, 300))
    x, eps = 0.7, -0.3
    now, then = alphas[400], alphas[300]
    x0 = (x - np.sqrt(1 - now) * eps) / np.sqrt(now)
    direct = np.sqrt(then / now) * x - (np.sqrt((1 - now) * then / now) - np.sqrt(1 - then)) * eps
    assert rung.a * x + rung.b * x0 == pytest.approx(direct, rel=1e-12)


def test_ddim_converges_at_first_order_and_dpmpp_2m_at_second_on_gaussian_data():
    assert order_of("ddim") == pytest.approx(1, abs=0.25)
    assert order_of("dpmpp_2m") == pytest.approx(2, abs=0.35)


def test_every_solver_ends_on_the_last_estimate_of_the_image():
    for solver in ("ddim", "dpmpp_2m"):
        last = rungs(solver, Schedule(), (900, 500, 100))[-1]
        assert (last.a, last.b, last.c) == (0, 1, 0)


@given(st.integers(2, 60), st.floats(1.0, 4.5))
def test_a_log_snr_ladder_has_the_length_asked_and_equal_steps(evaluations, last):
    ladder = log_snr_ladder(Schedule(), evaluations, last=last)
    assert len(ladder) == evaluations
    steps = np.diff(half_log_snr(Schedule().alpha_at(ladder)))
    assert steps == pytest.approx(np.full(len(steps), steps.mean()), rel=0.05)


def test_a_thousand_uniform_steps_visit_every_t():
    assert uniform_ladder(Schedule(), 1000) == tuple(range(1000, 0, -1))


@pytest.mark.parametrize("ladder", [(), (100, 200), (100, 100), (1001, 5), (5, 0)])
def test_a_ladder_that_does_not_fall_inside_the_schedule_is_refused(ladder):
    with pytest.raises(UsageError, match="ladder"):
        rungs("ddim", Schedule(), ladder)


def test_noise_is_named_by_seed_case_and_draw():
    first = gaussian(0, "a", (64, 64))
    assert (gaussian(0, "a", (64, 64)) == first).all()
    for other in (gaussian(1, "a", (64, 64)), gaussian(0, "b", (64, 64))):
        assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 0.1
    assert abs(first.std() - 1) < 0.05


@given(st.integers(8, 300), st.integers(8, 300))
def test_framing_keeps_the_mean_and_the_aspect(height, width):
    frame = Frame(height=64, width=16)
    where = place((height, width), frame)
    framed = to_frame(np.full((height, width), 7, np.uint8), frame, black=0.0)
    inner = framed[where.top : where.top + where.height, where.left : where.left + where.width]
    assert inner == pytest.approx(np.full(inner.shape, 7.0), rel=1e-5)
    assert framed.sum() == pytest.approx(inner.sum())


def test_area_averaging_is_the_mean_of_what_a_pixel_covers():
    image = np.arange(32, dtype=np.float32).reshape(8, 4)
    framed = to_frame(image, Frame(height=4, width=2), black=0.0)
    assert framed == pytest.approx(image.reshape(4, 2, 2, 2).mean(axis=(1, 3)))


def test_an_image_comes_back_from_the_frame_where_it_was():
    y, x = np.mgrid[0:240, 0:50]
    smooth = (np.sin(y / 40) + np.cos(x / 20)).astype(np.float32)
    back = from_frame(to_frame(smooth, Frame(height=128, width=32), black=0.0), smooth.shape)
    assert np.abs(back - smooth)[4:-4, 4:-4].max() < 0.02
    blocks = (y // 60 % 4).astype(np.uint8)
    framed = nearest_to_frame(blocks, Frame(height=128, width=32))
    assert (nearest_from_frame(framed, blocks.shape) == blocks).mean() > 0.97


def test_the_strip_bridges_lost_rows_but_not_the_black_around_the_scan():
    depths = np.full((2, 80, 20), -1.0, np.float32)
    depths[:, 10:70, 5:15] = 0.1
    depths[:, 40:42] = -1  # dead rows
    depths[0, 20, 8] = -1  # a hole
    strip = scan_strip(depths)
    expected = np.zeros((80, 20), bool)
    expected[10:70, 5:15] = True
    assert (strip == expected).all()


def test_snr_and_cnr_are_equations_12_and_13():
    image = np.zeros((10, 10), np.float32)
    image[:5] = np.tile([0.5, 0.7], (5, 5))
    image[5:] = np.tile([0.1, 0.3], (5, 5))
    bright = np.zeros((10, 10), bool)
    bright[:5] = True
    assert snr_ratio(image, ~bright, bright) == pytest.approx((1 - 0.2) / 0.1)
    assert cnr_ratio(image, ~bright, bright) == pytest.approx(0.4 / np.hypot(0.1, 0.1))
    assert cnr_ratio(1 - image, ~bright, bright) == pytest.approx(0.4 / np.hypot(0.1, 0.1))


def test_the_papers_logarithm_is_the_natural_one_and_a_decibel_is_not():
    assert log10_db(10) == pytest.approx(20)
    assert ln_db(np.e) == pytest.approx(20)
    assert np.isnan(log10_db(float("nan")))
    assert np.isnan(ln_db(float("nan")))


def test_the_roc_area_counts_pairs_in_which_bone_is_the_darker_and_ties_half():
    image = np.array([[0.1, 0.4, 0.2, 0.4, 0.9]], np.float32)
    bone = np.array([[True, True, False, False, False]])
    # against 0.2, 0.4, 0.9: 0.1 is darker than 3, 0.4 than 1 and ties once
    assert roc_area(image, bone, ~bone) == pytest.approx(4.5 / 6)


def measure_image(image, label, spacing_mm=1.8, spread=None):
    """The columns of a case that enhancement leaves as it is."""
    return measure(
        Result(
            before=image,
            after=image,
            labels=(label, label),
            depths=2 * image[None] - 1,
            weights=np.ones(1, np.float32),
            strip=np.ones(image.shape, bool),
            spacing_mm=(spacing_mm, spacing_mm),
            spread=spread,
        )
    )


def test_every_column_of_the_table_is_measured_and_no_other():
    image, label = np.full((16, 8), 0.5, np.float32), np.zeros((16, 8), np.uint8)
    assert set(measure_image(image, label, spread=image)) == set(KEYS)
    assert len(set(KEYS)) == len(KEYS)


def test_an_identity_enhancement_gains_exactly_nothing():
    rng = np.random.default_rng(0)
    image = rng.random((64, 16), dtype=np.float32)
    label = (rng.random((64, 16)) < 0.1).astype(np.uint8)
    found = measure_image(image, label)
    assert found["cnr_log10_after"] == found["cnr_log10_before"]
    assert found["snr_log10_after"] == found["snr_log10_before"]
    assert found["label_agreement"] == 1


def test_the_background_is_a_ring_of_4_5_mm_beyond_a_millimetre_around_the_bone():
    bone = np.zeros((41, 41), bool)
    bone[20, 20] = True
    strip = np.ones_like(bone)
    strip[:, :16] = False
    s, b = regions(bone, strip, spacing_mm=0.5)
    assert s.sum() == 1
    assert not b[20, 18:23].any()  # 1 mm
    assert b[20, 23:32].all()  # then 4.5 mm
    assert not b[20, 32:].any()
    assert b[20, 17]
    assert not b[:, :16].any()


def test_the_columns_see_the_ring_around_the_bone_and_not_the_rest_of_the_strip():
    label = np.zeros((40, 16), np.uint8)
    label[4:8] = 1
    image = np.tile(np.float32([0.6, 0.8]), (40, 8))
    image[4:8] = 0.2
    far = image.copy()
    far[20:] = 0.1
    measured = [measure_image(x, label, spacing_mm=1.0) for x in (image, far)]
    np.testing.assert_equal(measured[0], measured[1])
    ratio = 0.5 / 0.1  # mu_s 0.2 of sigma 0, mu_b 0.7 of sigma 0.1
    assert measured[0]["cnr_log10_after"] == pytest.approx(20 * np.log10(ratio), abs=1e-4)
    assert measured[0]["snr_log10_after"] == pytest.approx(20 * np.log10(8), abs=1e-4)


def test_measures_without_bone_are_nan_and_not_a_crash():
    blank = np.zeros((16, 8), np.uint8)
    image = np.full((16, 8), 0.5, np.float32)
    found = measure_image(image, blank, spacing_mm=np.nan)
    assert np.isnan(found["cnr_log10_before"])
    assert found["label_agreement"] == 1


def test_dice_and_psnr_by_hand():
    a = np.array([[1, 1, 0, 2]], np.uint8)
    b = np.array([[1, 0, 0, 2]], np.uint8)
    assert dice(a, b)[:2] == pytest.approx([2 / 3, 1])
    assert np.isnan(dice(a, b)[2])
    image, other = np.zeros((2, 2), np.float32), np.full((2, 2), 0.1, np.float32)
    assert psnr(image, other, np.ones((2, 2), bool)) == pytest.approx(20, abs=1e-4)
