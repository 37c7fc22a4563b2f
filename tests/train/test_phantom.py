"""The phantom: repeatable case by case, true to its own mask and angles, and readable as stored."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from scipy import ndimage

from mcdiff_batch.bench.studies.calibration import contrasts
from mcdiff_batch.engine.errors import UsageError
from mcdiff_batch.train.phantom.anatomy import LUMP, PROCESS, RIB, THORACIC, anatomy, curve_angles
from mcdiff_batch.train.phantom.archive import GRID, write_phantoms
from mcdiff_batch.train.phantom.case import GRADES, OPTIMAL, VERSION, Phantom, phantom
from mcdiff_batch.train.phantom.cli import phantom as command
from mcdiff_batch.train.phantom.texture import stream

CASES = 16


@cache
def case(index: int) -> Phantom:
    return phantom(1, index)


def cases() -> Iterator[Phantom]:
    return map(case, range(CASES))


def contrast(image: np.ndarray, which: Phantom) -> float:
    """CNR in the paper's 20 ln."""
    return contrasts(image, which.label, which.clean > 0)["cnr"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("phantoms") / "demo.zarr"
    write_phantoms(path, cases=3, seed=1, workers=2)
    return path


def test_a_case_is_repeatable_byte_for_byte() -> None:
    once, again = phantom(1, 3), phantom(1, 3)
    for name in ("depths", "clean", "label", "landmarks", "angles_deg"):
        assert getattr(once, name).tobytes() == getattr(again, name).tobytes()
    assert once.optimal_depth == again.optimal_depth


def test_neighbouring_cases_and_seeds_differ() -> None:
    assert case(0).label.tobytes() != case(1).label.tobytes()
    assert phantom(2, 0).label.tobytes() != case(0).label.tobytes()


def test_all_pictures_of_a_case_have_one_grid_within_the_largest() -> None:
    for one in cases():
        assert one.depths.shape == (5, *one.extent)
        assert one.clean.shape == one.label.shape == one.extent
        assert 880 <= one.extent[0] <= GRID[0]
        assert 220 <= one.extent[1] <= GRID[1]
        assert one.depths.dtype == one.clean.dtype == one.label.dtype == np.uint8


def test_a_phantom_is_black_outside_the_strip_and_its_mask_lies_inside() -> None:
    for one in cases():
        outside = one.clean == 0
        assert 0.2 < outside.mean() < 0.6
        assert not one.depths[:, outside].any()
        assert not one.label[outside].any()


def test_only_dead_pixels_are_black_inside_the_strip() -> None:
    for one in cases():
        dead = (one.depths == 0) & (one.clean > 0)
        assert dead.mean() < (1e-9 if one.artifact_free else 0.1)
        assert (dead == dead[0]).all()


def test_every_kind_of_bone_occurs_and_is_darker_than_the_tissue() -> None:
    for one in cases():
        tissue = one.clean[(one.label == 0) & (one.clean > 0)].mean()
        for kind in (PROCESS, RIB, LUMP):
            assert one.clean[one.label == kind].mean() < 0.6 * tissue


def test_the_optimal_depth_shows_bone_best() -> None:
    best = [int(np.argmax([contrast(x, one) for x in one.depths])) for one in cases()]
    assert np.mean([b == one.optimal_depth for b, one in zip(best, cases(), strict=True)]) > 0.8


def test_clean_targets_are_alike_and_an_easy_case_is_near_its_own() -> None:
    easy = [x for x in cases() if x.artifact_free]
    hard = [x for x in cases() if x.difficult]
    seen = lambda some: np.mean([contrast(x.depths[x.optimal_depth], x) for x in some])
    ideal = lambda some: np.mean([contrast(x.clean, x) for x in some])
    assert ideal(easy) == pytest.approx(ideal(hard), abs=1.5) == pytest.approx(17, abs=1.5)
    assert ideal(easy) - 5 < seen(easy) < ideal(easy) - 1
    assert seen(hard) < seen(easy) - 8


def test_clutter_differs_from_depth_to_depth() -> None:
    """Tissue beside the bones, between blurs of 3 and 10 px, depth 2 against depth 4."""

    def alike(one: Phantom) -> float:
        tissue = (one.clean > 0) & (one.label == 0) & (one.depths[0] > 0)
        share = ndimage.gaussian_filter(tissue.astype(float), 10) + 1e-3
        wide = [ndimage.gaussian_filter(x * tissue, 10, output=float) / share for x in one.depths]
        fine = [ndimage.gaussian_filter(x, 3, output=float) for x in one.depths]
        return float(np.corrcoef([(fine[k] - wide[k])[tissue] for k in (2, 4)])[0, 1])

    easy = np.mean([alike(x) for x in cases() if x.artifact_free])
    hard = np.mean([alike(x) for x in cases() if x.difficult])
    assert hard < easy - 0.08


def test_landmarks_lie_on_bone_of_their_kind() -> None:
    for one in cases():
        marks = one.landmarks
        assert marks.shape == (18, 2, 2)
        there = ~np.isnan(marks[..., 0])
        assert 30 <= there.sum() <= 34
        y, x = marks[there].astype(int).T
        levels = np.nonzero(there)[0]
        on = one.label[y, x] == np.where(levels < THORACIC, PROCESS, LUMP)
        assert on.mean() > 0.95
        both = there.all(1)
        assert (marks[both, 0, 1] < marks[both, 1, 1]).all()


def test_angles_are_those_of_the_landmarks() -> None:
    marks = np.full((18, 2, 2), np.nan, dtype=np.float32)
    for level, tilt in ((3, 10.0), (9, -15.0), (12, -5.0), (16, 3.0)):
        rise = 40 * np.tan(np.radians(tilt))
        marks[level] = [(500 - rise, 60), (500 + rise, 140)]
    assert curve_angles(marks) == pytest.approx([25, 8], abs=1e-3)


def test_curves_are_distributed_as_in_the_published_cohorts() -> None:
    bodies = [anatomy(stream(4, index, "anatomy")) for index in range(300)]
    major = np.array([curve_angles(body.landmarks).max() for body in bodies])
    assert major.mean() == pytest.approx(24.8, abs=2)
    assert major.std() == pytest.approx(9.7, abs=2)
    assert 9 < major.min() < major.max() < 70


def test_shares_and_weights_are_distributions() -> None:
    assert sum(grade.share for grade in GRADES) == pytest.approx(1)
    assert OPTIMAL.sum() == pytest.approx(1, abs=2e-3)


def test_an_archive_holds_the_cases_whatever_their_number(archive: Path) -> None:
    group = zarr.open_group(archive, mode="r")
    for index in range(3):
        one = phantom(1, index)
        y, x = group["extent"][index].tolist()
        assert (y, x) == one.extent
        assert np.array_equal(group["depths"][index, :, :y, :x], one.depths)
        assert not group["depths"][index, :, y:].any()
        assert not group["depths"][index, :, :, x:].any()
        assert np.array_equal(group["clean"][index, :y, :x], one.clean)
        assert np.array_equal(group["label"][index, :y, :x], one.label)
        assert np.array_equal(group["landmarks"][index], one.landmarks, equal_nan=True)
        assert np.array_equal(group["angles_deg"][index], one.angles_deg)
        assert group["optimal_depth"][index] == one.optimal_depth
        assert group["artifact_free"][index] == one.artifact_free
        assert group["difficult"][index] == one.difficult
        assert group["case_id"][index] == f"phantom-1-{index:06d}"


def test_chunks_do_not_depend_on_workers_or_first_case(archive: Path, tmp_path: Path) -> None:
    done: list[int] = []
    write_phantoms(tmp_path / "b.zarr", cases=2, seed=1, first=1, workers=1, progress=done.append)
    for index in (0, 1):
        here = tmp_path / f"b.zarr/depths/c/{index}/0/0/0"
        there = archive / f"depths/c/{index + 1}/0/0/0"
        assert here.read_bytes() == there.read_bytes()
    assert done == [1, 2]
    assert zarr.open_group(tmp_path / "b.zarr", mode="r")["case_id"][0] == "phantom-1-000001"


def test_an_archive_says_what_its_pixels_mean(archive: Path) -> None:
    group = zarr.open_group(archive, mode="r")
    assert group.attrs["mcdiff"] == {
        "schema": 1,
        "intensity_range": [0, 255],
        "pixel_spacing_mm": [0.45, 0.45],
        "depth_mm": [8.0, 13.0, 18.0, 23.0, 28.0],
    }
    assert group.attrs["phantom"] == {"seed": 1, "version": VERSION}
    assert group["depths"].shape == (3, 5, *GRID)
    assert group["depths"].chunks == (1, 5, *GRID)
    assert group["depth_present"][:].all()
    assert group["pixel_spacing_mm"][:] == pytest.approx(0.45)


def test_every_chunk_carries_a_checksum(archive: Path) -> None:
    for array in archive.glob("*/zarr.json"):
        codecs = json.loads(array.read_text())["codecs"]
        assert codecs[-1] == {"name": "zstd", "configuration": {"level": 3, "checksum": True}}


def test_an_existing_output_is_refused_and_not_changed(archive: Path) -> None:
    before = sorted(archive.rglob("*"))
    with pytest.raises(UsageError, match="exists already"):
        write_phantoms(archive, cases=1, seed=0)
    assert sorted(archive.rglob("*")) == before


def test_a_failed_archive_leaves_nothing_behind(tmp_path: Path) -> None:
    def stop(done: int) -> None:
        raise RuntimeError(str(done))

    with pytest.raises(RuntimeError):
        write_phantoms(tmp_path / "a.zarr", cases=2, seed=0, workers=1, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_the_command_ends_with_one_line(tmp_path: Path) -> None:
    path = tmp_path / "demo.zarr"
    result = CliRunner().invoke(command, ["--output", str(path), "--cases", "1", "--workers", "1"])
    assert result.exit_code == 0
    assert result.output == f"wrote 1 phantoms (seed 0, from case 0) to {path}\n"
