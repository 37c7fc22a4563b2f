"""README's pictures: the cases are those of the rule, the panels those that are promised."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import zarr
from click.testing import CliRunner
from PIL import Image
from scipy import ndimage

from mcdiff_batch.bench.studies.panels import MARGIN, heat
from mcdiff_batch.bench.studies.picture import ARMS, choose_cases
from mcdiff_batch.bench.studies.picture_cli import picture
from mcdiff_batch.engine.cli.run import run
from mcdiff_batch.engine.errors import UsageError
from mcdiff_batch.train.networks.presets import PRESETS
from mcdiff_batch.train.networks.trio import Networks
from mcdiff_batch.train.training.weights import write_weights
from tests.support.running import archive, bundle

CASES, DRAWS = 12, 2
SIZE = (32, 16)  # the frame's, so that px stay as they are
INSIDE = np.s_[:, 2:-2]  # what is not margin
ORIGINAL = 0  # the depth that the engine takes as optimal here


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run of two draws; the clean target of case k lies (k + 1)/13 of the way to the enhanced
    image, so that the gain grows with k.  Every second case is difficult."""
    home = tmp_path_factory.mktemp("picture")
    truth = archive(home / "truth.zarr", CASES, size=SIZE)
    group = zarr.open_group(truth, mode="a")
    put = lambda name, data: group.create_array(name, data=np.asarray(data))
    put("difficult", np.arange(CASES) % 2 == 1)
    put("label", np.zeros((CASES, *SIZE), np.uint8))
    put("landmarks", np.zeros((CASES, 18, 2, 2), np.float32))
    put("angles_deg", np.zeros((CASES, 2), np.float32))
    put("optimal_depth", np.full(CASES, ORIGINAL))
    bundle(home / "bundle")
    for name, draws in (("run", 1), ("drawn", DRAWS)):
        words = ["--input", truth, "--output", home / name, "--bundle", home / "bundle"]
        more = ["--steps", 1, "--draws", draws]  # more, and the fake's draws come to one image
        assert run.main([str(x) for x in (*words, *more)], standalone_mode=False) == 0
    put("clean", [_clean(home, k) for k in range(CASES)])
    Image.fromarray(original(home, 0)).resize((64, 128)).save(home / "real.png")
    return home


def original(home, k):
    return np.asarray(zarr.open_group(home / "truth.zarr", mode="r")["depths"][k, ORIGINAL])


def enhanced(home, k, name="run"):
    return np.asarray(zarr.open_group(home / name / "images.zarr", mode="r")["enhanced"][k])


def _clean(home, k):
    share = (k + 1) / (CASES + 1)
    mixed = (1 - share) * original(home, k) + share * enhanced(home, k)
    return mixed.round().astype(np.uint8)


def draw(*words):
    """What the command prints."""
    done = CliRunner().invoke(
        picture, [str(x) for x in words], standalone_mode=False, catch_exceptions=False
    )
    if done.exception:
        raise done.exception
    return done.stdout.splitlines()


def of_run(home, name):
    return "--run", home / name, "--truth", home / "truth.zarr", "--bundle", home / "bundle"


def pixels(path):
    with Image.open(path) as made:
        return np.asarray(made if made.mode == "L" else made.convert("RGB"))


def panels(path):
    """The pictures in the row, cut to what is not black."""
    made = pixels(path)
    bright = made if made.ndim == 2 else made.max(axis=2)
    lit, count = ndimage.label(bright[MARGIN + 40] > 0)
    spans = [np.flatnonzero(lit == k + 1) for k in range(count)]
    last = np.flatnonzero(bright[:, spans[0]].any(axis=1))
    gap = last[np.flatnonzero(np.diff(last) > 3)]
    end = gap[0] + 1 if len(gap) else last[-1] + 1
    wide = 12 / 32 * (end - MARGIN)  # of INSIDE; the rest is the enlarging's
    firsts = [round((x[0] + x[-1] + 1 - wide) / 2) for x in spans]
    return [made[MARGIN:end, x : x + round(wide)] for x in firsts]


def is_of(panel, image):
    """Whether a panel shows an image, as far as enlarging lets one tell."""
    shape = image[INSIDE].shape[::-1]
    seen = np.asarray(Image.fromarray(panel).convert("L").resize(shape, Image.Resampling.BOX))
    return np.corrcoef(seen.ravel(), image[INSIDE].ravel())[0, 1] > 0.9


def test_before_and_after_shows_the_difficult_cases_of_the_rule_and_the_real_image(home, tmp_path):
    path = tmp_path / "made.png"
    *said, last = draw(
        "before-after", *of_run(home, "run"), "--real", home / "real.png", "--output", path
    )
    assert last == str(path)
    assert [x.split()[0] for x in said] == ["10th", "50th", "90th", "real"]
    shown = panels(path)
    assert len(shown) == 3 * 3 + 2
    picked = (1, 5, 9)  # of 1, 3, 5, 7, 9, 11, at ranks 0.5, 2.5, 4.5: to even
    for place, k in enumerate(picked):
        images = (original(home, k), enhanced(home, k), _clean(home, k))
        assert all(is_of(shown[3 * place + i], x) for i, x in enumerate(images)), k
        share = (k + 1) / (CASES + 1)
        gain = 20 * np.log10(share / (1 - share))
        assert float(said[place].split()[4]) == pytest.approx(gain, abs=0.15)
    assert is_of(shown[9], original(home, 0))
    assert pixels(path).ndim == 2
    assert pixels(path).shape[1] <= 1200


def test_uncertainty_shows_the_mean_of_draws_their_spread_and_the_true_error(home, tmp_path):
    path = tmp_path / "made.png"
    *said, _ = draw(
        "uncertainty", *of_run(home, "drawn"), "--real", home / "real.png", "--output", path
    )
    assert [x.split()[0] for x in said] == ["25th", "75th", "real"]
    colours = np.ptp(pixels(path).astype(int), axis=2)
    height = panels(path)[0].shape[0]
    hot = ndimage.label(colours[MARGIN : MARGIN + height].mean(axis=0) > 10)[0]
    wide = [n for n in np.bincount(hot)[1:] if n > 30]
    assert len(wide) == 5  # spread and error twice, spread of the real scan
    assert colours[MARGIN + height + 10 :].max() > 60  # the scale below
    with pytest.raises(UsageError, match="--draws 8"):
        draw("uncertainty", *of_run(home, "run"), "--output", path)


def test_conditions_show_every_arm_between_original_and_clean_target(phantoms, tmp_path):
    conditions_of = {
        "base": "depths",
        "optimal features": "optimal",
        "optimal segmentation": "segmentation",
    }
    assert conditions_of.keys() == ARMS.keys()
    for arm, conditions in conditions_of.items():
        preset = replace(PRESETS["toy"], conditions=conditions)
        (tmp_path / arm).mkdir()
        nets = Networks(preset, torch.device("cpu"))
        write_weights(nets, tmp_path / arm, {"preset": asdict(preset)})
        (tmp_path / arm / "card.json").write_text("{}")
    path = tmp_path / "made.png"
    *said, _ = draw("conditions", "--work", tmp_path, "--truth", phantoms, "--output", path)
    assert [x.split()[0] for x in said] == ["25th", "75th"]
    assert pixels(path).shape[1] > 600


def test_cases_are_chosen_by_the_nearest_rank():
    gains = [3.0, -1.0, 2.0, 0.0, 1.0]
    assert choose_cases(gains, (0, 50, 100)) == [1, 4, 0]
    assert choose_cases(gains, (25, 75)) == [3, 2]
    with pytest.raises(UsageError, match="2 difficult cases, the picture needs 3"):
        choose_cases([1.0, 2.0], (10, 50, 90))


def test_heat_is_black_at_0_and_white_at_the_end():
    ramp = heat(np.array([[0, 5, 10, 99]], np.float32), 10)
    assert ramp[0, 0].tolist() == [0, 0, 0]
    assert np.ptp(ramp[0, 1].astype(int)) > 100
    assert (ramp[0, 2:] == 255).all()
