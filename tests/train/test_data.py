"""What a training reads: whole depths, labels and patients, and batches of them."""

import shutil

import numpy as np
import pytest
import torch
import zarr

from mcdiff_batch.engine.errors import ArchiveError
from mcdiff_batch.engine.image.frame import Frame
from mcdiff_batch.train.cases.corruption import corrupt_batch, corrupt_depths
from mcdiff_batch.train.cases.data import PART, batch_of, draw, leave_out_optimal, load, split
from tests.support.networks import stack
from tests.support.running import archive


def test_an_archive_read_by_several_processes_keeps_its_order(tmp_path):
    path, cases = archive(tmp_path / "a.zarr", cases=PART + 1), np.arange(PART + 1)
    group = zarr.open_group(path, mode="r+")
    labels = np.broadcast_to(cases.astype(np.uint8)[:, None, None], (PART + 1, 40, 16))
    group.create_array("label", data=labels, chunks=(1, 40, 16))
    group.create_array("artifact_free", data=cases % 2 == 0)
    found = load(path, Frame(height=32, width=16), (0.5, 0.5), 0.0)
    assert found.artifact_free.tolist() == (cases % 2 == 0).tolist()
    assert found.label.max((1, 2)).tolist() == cases.tolist()


def test_an_archive_without_labels_is_refused(tmp_path, phantoms):
    group = zarr.open_group(tmp_path / "bare.zarr", mode="w")
    depths = zarr.open_group(phantoms, mode="r")["depths"]
    group.create_array("depths", data=depths[:2], chunks=(1, *depths.shape[1:]))
    with pytest.raises(ArchiveError, match="no label"):
        load(tmp_path / "bare.zarr", Frame(height=64, width=16), (0.2,) * 5, 0.0)


def test_the_clean_target_is_never_read(tmp_path, phantoms):
    """A phantom archive whose clean target is gone gives the same training data."""
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
