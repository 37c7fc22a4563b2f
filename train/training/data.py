"""Training cases: an archive's depths and labels on a frame, split by patient."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
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
    Image,
    Labels,
    nearest_to_frame,
    place,
    scan_strip,
    to_frame,
)
from mcdiff_batch.engine.image.metrics import FALLBACK_SPACING_MM, contrast, regions
from mcdiff_batch.engine.model.framing import fusion_weights, standardised
from mcdiff_batch.engine.telemetry.machine import cores

Bytes = npt.NDArray[np.uint8]
NEEDED = ("label", "artifact_free")
PART = 100  # cases that a process reads at a time
CROP = 4  # a crop is so many times lower than the frame
Told = Callable[[Case], npt.NDArray[np.float32]]  # fusion weights of a case


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """N cases on one frame.  The clean target of a phantom is never read (SCIENCE.md)."""

    depths: Bytes  # [N, D, H, W], 0 black, 255 white
    weights: npt.NDArray[np.float32]  # [N, D], adding to 1 over the depths a case has
    label: Bytes  # [N, H, W]
    optimal: npt.NDArray[np.int64]  # [N]
    artifact_free: npt.NDArray[np.bool_]  # [N]
    contrast: npt.NDArray[np.float32]  # [N], of the optimal image: eq. 12 + eq. 13, 20 ln
    patient: npt.NDArray[np.str_]  # [N]
    sha256: str  # of the archive's identity, and of what was read
    origin: dict[str, Any]  # what a phantom archive says of its making

    def __len__(self) -> int:
        return len(self.depths)

    def subset(self, where: npt.NDArray[np.bool_]) -> "Dataset":
        columns = ("depths", "weights", "label", "optimal", "artifact_free", "contrast", "patient")
        chosen = {name: getattr(self, name)[where] for name in columns}
        return Dataset(**chosen, sha256=self.sha256, origin=self.origin)

    def clearest(self, share: float) -> "Dataset":
        """The `share` of the cases with the highest contrast, at least one."""
        least = np.sort(self.contrast)[-max(1, round(share * len(self)))]
        return self.subset(self.contrast >= least)

    def optimal_alone(self) -> "Dataset":
        """With no other depth."""
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
) -> Dataset:
    """Reads a whole training archive, by all cores; weights as `fusion_weights` has them.

    Raises ArchiveError where labels or flags are absent.
    """
    archive = open_archive(path)
    truth = _truth(path, archive)
    told = partial(_told, weights, optimal_share)
    parts = [range(i, min(i + PART, archive.cases)) for i in range(0, archive.cases, PART)]
    read = partial(_rows, path, frame, told)
    if len(parts) == 1:
        kept = read(parts[0])
    else:
        with get_context("spawn").Pool(min(cores(), len(parts))) as pool:
            kept = [row for rows in pool.imap(read, parts) for row in rows]
    if not kept:
        raise ArchiveError(f"{path}: no case can be trained on; see `mcdiff-batch check`")
    columns = {name: np.stack([row[name] for row in kept]) for name in kept[0]}
    digest = hashlib.sha256(archive.identity.encode() + columns["depths"].tobytes())
    origin = {"cases": archive.cases, "phantom": truth.attrs.get("phantom")}
    return Dataset(**columns, sha256=digest.hexdigest(), origin=origin)


def one_hot(data: Dataset) -> Dataset:
    """All weight on the optimal depth: Table V's conditions from one depth."""
    weights = np.eye(data.weights.shape[1], dtype=np.float32)[data.optimal]
    return replace(data, weights=weights)


def split(data: Dataset, held_out: float = 0.05) -> tuple[Dataset, Dataset]:
    """(train, held-out) by patient, never by image: a patient's side is drawn from its name."""
    share = np.array([int(hashlib.sha256(p.encode()).hexdigest()[:8], 16) for p in data.patient])
    away = share / 2**32 < held_out
    if away.all() or not away.any():
        away = np.arange(len(data)) == len(data) - 1
    return data.subset(~away), data.subset(away)


def _truth(path: Path, archive: Archive) -> zarr.Group:
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


def _told(weights: tuple[float, ...], optimal_share: float, case: Case) -> npt.NDArray[np.float32]:
    return fusion_weights(weights, case.present, case.optimal, optimal_share)


def _rows(path: Path, frame: Frame, told: Told, cases: range) -> list[dict[str, Any]]:
    """Columns of those that can be read (`check` lists the others)."""
    archive = open_archive(path)
    truth = _truth(path, archive)
    found = (_row(archive, i, truth, frame, told) for i in cases)
    return [row for row in found if row is not None]


def _row(
    archive: Archive, index: int, truth: Any, frame: Frame, told: Told
) -> dict[str, Any] | None:
    """One case's columns; None for a case that cannot be read."""
    try:
        case = archive.read(index)
    except CaseError:
        return None
    framed = to_frame(standardised(case), frame, black=-1.0)
    share = told(case)
    optimal = int(np.argmax(share)) if case.optimal is None else case.optimal
    y, x = case.depths.shape[1:]
    label = nearest_to_frame(np.asarray(truth["label"][index])[:y, :x], frame)
    return {
        "depths": np.round((framed + 1) * 127.5).astype(np.uint8),
        "weights": share,
        "label": label,
        "optimal": np.int64(optimal),
        "artifact_free": np.bool_(truth["artifact_free"][index]),
        "contrast": np.float32(_contrast(case, framed[optimal], label, frame)),
        "patient": np.str_(truth["patient"][index] if "patient" in truth else index),
    }


def _contrast(case: Case, image: Image, label: Labels, frame: Frame) -> float:
    """Of image [H, W] in [-1, 1], 20 ln; -inf where there is no bone."""
    spacing = math.sqrt(math.prod(case.spacing_mm)) / place(case.depths.shape[1:], frame).scale
    spacing = spacing if math.isfinite(spacing) else FALLBACK_SPACING_MM
    where = regions(label > 0, scan_strip(image[None]), spacing)
    both = contrast((image + 1) / np.float32(2), *where)
    found = both["cnr_ln"] + both["snr_ln"]
    return found if math.isfinite(found) else -math.inf


class Batch(NamedTuple):
    """What a stage sees: depths [B, D, H, W] in [-1, 1], weights [B, D], optimal image, labels."""

    depths: Tensor
    weights: Tensor
    image: Tensor  # [B, 1, H, W], the optimal depth
    label: Tensor  # [B, H, W]
    optimal: Tensor  # [B], which depth that is

    @property
    def scan(self) -> Tensor:
        """[B, 1, H, W], the optimal depth as it is read: the image, unless depths were changed."""
        return self.depths[torch.arange(len(self.depths)), self.optimal][:, None]


def draw(data: Dataset, size: int, rng: np.random.Generator, *, crop: bool = False) -> Batch:
    """`size` random cases, each flipped left to right or not, all its depths and label together.

    crop: of each a part of all rows, the frame's height / CROP.
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
    """The cases `chosen`, as tensors; `rows` of each [N or 1, H], or all."""
    if rows is None:
        rows = np.arange(data.depths.shape[2])[None]
    at = chosen[:, None]
    cut = data.depths.transpose(0, 2, 1, 3)[at, rows].transpose(0, 2, 1, 3)
    depths = torch.from_numpy(np.ascontiguousarray(cut)).float() / 127.5 - 1
    label = torch.from_numpy(data.label[at, rows])
    mirrored = torch.from_numpy(flips)
    depths = torch.where(mirrored[:, None, None, None], depths.flip(-1), depths)
    label = torch.where(mirrored[:, None, None], label.flip(-1), label)
    optimal = torch.from_numpy(data.optimal[chosen])
    image = depths[torch.arange(len(chosen)), optimal][:, None]
    return Batch(depths, torch.from_numpy(data.weights[chosen]), image, label, optimal)


def other_depth(batch: Batch, rng: np.random.Generator) -> Tensor:
    """The optimal depth [B], or for every second case a depth drawn by its weight."""
    drawn = torch.tensor([rng.choice(w.shape[0], p=w / w.sum()) for w in batch.weights.numpy()])
    return torch.where(torch.arange(len(drawn)) % 2 == 0, batch.optimal, drawn)


def without_optimal(batch: Batch, share: float, rng: np.random.Generator) -> Batch:
    """The batch with another depth in the place of the optimal one, in about `share` of its cases.

    The other is drawn by its weight: what a scanner gives that missed the best depth.  The image,
    which is what is to be drawn, stays the optimal one's.
    """
    depths = batch.depths.clone()
    for i in np.flatnonzero(rng.random(len(depths)) < share):
        optimal, weights = int(batch.optimal[i]), batch.weights[i].numpy().astype(np.float64)
        weights[optimal] = 0
        if weights.sum() > 0:
            depths[i, optimal] = depths[i, rng.choice(len(weights), p=weights / weights.sum())]
    return batch._replace(depths=depths)
