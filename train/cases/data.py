"""Training cases: an archive's depths and labels on a frame, and their split by patient."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import zarr
from torch import Tensor

from mcdiff_batch.engine.archive.archive import Archive, Case, open_archive
from mcdiff_batch.engine.errors import ArchiveError, CaseError
from mcdiff_batch.engine.image.frame import (
    Frame,
    nearest_to_frame,
    place,
    to_frame,
)
from mcdiff_batch.engine.model.framing import fusion_weights, standardise
from mcdiff_batch.engine.signals import start_pool
from mcdiff_batch.engine.telemetry.machine import cores

from .targets import contrast_to_bone, even

Bytes = npt.NDArray[np.uint8]
NEEDED = ("label", "artifact_free")
PART = 100  # cases that a process reads at a time
CROP = 4  # the frame is so many times higher than a crop
Weigh = Callable[[Case], npt.NDArray[np.float32]]  # the fusion weights of a case


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """N cases on one frame.  The clean target of a phantom is never read."""

    depths: Bytes  # [N, D, H, W], 0 black, 255 white
    weights: npt.NDArray[np.float32]  # [N, D], which add to 1 over the depths a case has
    label: Bytes  # [N, H, W]
    image: Bytes  # [N, H, W], the optimal depth, its tissue made even: the target
    optimal: npt.NDArray[np.int64]  # [N]
    artifact_free: npt.NDArray[np.bool_]  # [N]
    contrast: npt.NDArray[np.float32]  # [N], eq. 12 + eq. 13 of the optimal image, 20 ln
    patient: npt.NDArray[np.str_]  # [N]
    sha256: str  # of the archive's identity and of the depths
    origin: dict[str, Any]  # how a phantom archive was made

    def __len__(self) -> int:
        return len(self.depths)

    def subset(self, where: npt.NDArray[np.bool_]) -> "Dataset":
        arrays = ("depths", "weights", "label", "image", "optimal", "artifact_free")
        chosen = {name: getattr(self, name)[where] for name in (*arrays, "contrast", "patient")}
        return Dataset(**chosen, sha256=self.sha256, origin=self.origin)

    def clearest(self, share: float) -> "Dataset":
        """The share of the cases with the highest contrast; at least one."""
        least = np.sort(self.contrast)[-max(1, round(share * len(self)))]
        return self.subset(self.contrast >= least)

    def faintest(self, share: float) -> "Dataset":
        """The share of the cases with the lowest contrast; at least one."""
        most = np.sort(self.contrast)[max(1, round(share * len(self))) - 1]
        return self.subset(self.contrast <= most)

    def optimal_alone(self) -> "Dataset":
        """The same cases with their optimal depth only."""
        cases = np.arange(len(self))
        return replace(
            self,
            depths=self.depths[cases, self.optimal][:, None],
            weights=np.ones((len(self), 1), np.float32),
            optimal=np.zeros_like(self.optimal),
        )


def load(
    path: Path,
    frame: Frame,
    weights: tuple[float, ...],
    optimal_share: float,
    evened: float = 0.0,
) -> Dataset:
    """Reads a whole training archive on all cores.

    weights, optimal_share: as for `fusion_weights`; evened: share, as for `even`.
    Raises ArchiveError if labels or flags are absent.
    """
    archive = open_archive(path)
    truth = _truth(path, archive)
    weigh = partial(_weigh, weights, optimal_share)
    parts = [range(i, min(i + PART, archive.cases)) for i in range(0, archive.cases, PART)]
    read = partial(_rows, path, frame, weigh, evened)
    if len(parts) == 1:
        table = read(parts[0])
    else:
        with start_pool(min(cores(), len(parts))) as pool:
            table = [row for rows in pool.imap(read, parts) for row in rows]
    if not table:
        raise ArchiveError(f"{path}: no case can be read; see `mcdiff-batch check {path}`")
    columns = {name: np.stack([row[name] for row in table]) for name in table[0]}
    digest = hashlib.sha256(archive.identity.encode() + columns["depths"].tobytes())
    origin = {"cases": archive.cases, "phantom": truth.attrs.get("phantom")}
    return Dataset(**columns, sha256=digest.hexdigest(), origin=origin)


def one_hot(data: Dataset) -> Dataset:
    """The cases with all weight on the optimal depth: Table V's conditions from one depth."""
    weights = np.eye(data.weights.shape[1], dtype=np.float32)[data.optimal]
    return replace(data, weights=weights)


def split(data: Dataset, held_out: float = 0.05) -> tuple[Dataset, Dataset]:
    """Splits into (train, held out) by patient; a patient's name decides its side."""
    share = np.array([int(hashlib.sha256(p.encode()).hexdigest()[:8], 16) for p in data.patient])
    away = share / 2**32 < held_out
    if away.all() or not away.any():
        away = np.arange(len(data)) == len(data) - 1
    return data.subset(~away), data.subset(away)


def _truth(path: Path, archive: Archive) -> zarr.Group:
    """The archive's group, after a check that it can be trained on."""
    group = zarr.open_group(path, mode="r", use_consolidated=False)
    absent = [name for name in NEEDED if name not in group]
    if absent:
        raise ArchiveError(
            f"{path}: has no {' and no '.join(absent)}; training needs `label (case, y, x)` and "
            "`artifact_free (case)`: add them, or make phantoms with `mcdiff-batch phantom`"
        )
    label: Any = group["label"]
    if label.ndim != 3 or label.shape[0] != archive.cases:
        raise ArchiveError(f"{path}: label is {label.shape}, expected ({archive.cases}, y, x)")
    return group


def _weigh(weights: tuple[float, ...], optimal_share: float, case: Case) -> npt.NDArray[np.float32]:
    return fusion_weights(weights, case.present, case.optimal, optimal_share)


def _rows(
    path: Path, frame: Frame, weigh: Weigh, evened: float, cases: range
) -> list[dict[str, Any]]:
    """The columns of those cases that can be read; `check` lists the others."""
    archive = open_archive(path)
    truth = _truth(path, archive)
    rows = (_row(archive, i, truth, frame, weigh, evened) for i in cases)
    return [row for row in rows if row is not None]


def _row(
    archive: Archive, index: int, truth: Any, frame: Frame, weigh: Weigh, evened: float
) -> dict[str, Any] | None:
    """The columns of one case; None if it cannot be read."""
    try:
        case = archive.read(index)
    except CaseError:
        return None
    framed = to_frame(standardise(case), frame, black=-1.0)
    share = weigh(case)
    optimal = int(np.argmax(share)) if case.optimal is None else case.optimal
    y, x = case.depths.shape[1:]
    label = nearest_to_frame(np.asarray(truth["label"][index])[:y, :x], frame)
    spacing = math.sqrt(math.prod(case.spacing_mm)) / place((y, x), frame).scale
    grey = lambda image: np.round((image + 1) * 127.5).astype(np.uint8)
    return {
        "depths": grey(framed),
        "image": grey(even(framed[optimal], label, spacing, evened)),
        "weights": share,
        "label": label,
        "optimal": np.int64(optimal),
        "artifact_free": np.bool_(truth["artifact_free"][index]),
        "contrast": np.float32(contrast_to_bone(framed[optimal], label, spacing)),
        "patient": np.str_(truth["patient"][index] if "patient" in truth else index),
    }


class Batch(NamedTuple):
    """B cases as a stage reads them."""

    depths: Tensor  # [B, D, H, W] in [-1, 1]
    weights: Tensor  # [B, D]
    image: Tensor  # [B, 1, H, W], the target
    label: Tensor  # [B, H, W]
    optimal: Tensor  # [B], which depth that is

    @property
    def scan(self) -> Tensor:
        """The optimal depth as the networks read it, [B, 1, H, W]: `image`, or what replaced it."""
        return self.depths[torch.arange(len(self.depths)), self.optimal][:, None]


def draw(data: Dataset, size: int, rng: np.random.Generator, *, crop: bool = False) -> Batch:
    """Draws `size` random cases; flips each left to right or not, depths and label together.

    crop: take a random part of each, the frame's height / CROP.
    """
    chosen, height = rng.integers(len(data), size=size), data.depths.shape[2]
    rows = np.arange(height)[None]
    if crop:
        rows = rng.integers(height - height // CROP + 1, size=(size, 1)) + rows[:, : height // CROP]
    return batch_of(data, chosen, rng.random(size) < 0.5, rows)


def batch_of(
    data: Dataset,
    chosen: npt.NDArray[Any],
    flips: npt.NDArray[np.bool_],
    rows: npt.NDArray[Any] | None = None,
) -> Batch:
    """The cases `chosen` as tensors.  rows [N or 1, H]: the rows to take of each; None: all."""
    if rows is None:
        rows = np.arange(data.depths.shape[2])[None]
    at = chosen[:, None]
    cut = data.depths.transpose(0, 2, 1, 3)[at, rows].transpose(0, 2, 1, 3)
    depths = torch.from_numpy(np.ascontiguousarray(cut)).float() / 127.5 - 1
    label = torch.from_numpy(data.label[at, rows])
    flipped = torch.from_numpy(flips)
    depths = torch.where(flipped[:, None, None, None], depths.flip(-1), depths)
    label = torch.where(flipped[:, None, None], label.flip(-1), label)
    optimal = torch.from_numpy(data.optimal[chosen])
    image = torch.from_numpy(data.image[at, rows]).float()[:, None] / 127.5 - 1
    image = torch.where(flipped[:, None, None, None], image.flip(-1), image)
    return Batch(depths, torch.from_numpy(data.weights[chosen]), image, label, optimal)


def other_depth(batch: Batch, rng: np.random.Generator) -> Tensor:
    """The optimal depth [B]; for every second case a depth drawn by its weight instead."""
    drawn = torch.tensor([rng.choice(w.shape[0], p=w / w.sum()) for w in batch.weights.numpy()])
    return torch.where(torch.arange(len(drawn)) % 2 == 0, batch.optimal, drawn)


def leave_out_optimal(batch: Batch, share: float, rng: np.random.Generator) -> Batch:
    """Replaces the optimal depth by another one, in about `share` of the batch's cases.

    The other depth is drawn by its weight, as if a scanner had missed the best depth.  The target
    stays the optimal depth.
    """
    depths = batch.depths.clone()
    for i in np.flatnonzero(rng.random(len(depths)) < share):
        optimal, weights = int(batch.optimal[i]), batch.weights[i].numpy().astype(np.float64)
        weights[optimal] = 0
        if weights.sum() > 0:
            depths[i, optimal] = depths[i, rng.choice(len(weights), p=weights / weights.sum())]
    return batch._replace(depths=depths)
