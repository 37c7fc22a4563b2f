"""A phantom and its truth on the frame, and everything that is measured of an image of it."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from mcdiff_batch.engine.archive.archive import Archive
from mcdiff_batch.engine.image.frame import (
    Frame,
    Image,
    Labels,
    Mask,
    nearest_to_frame,
    place,
    to_frame,
)
from mcdiff_batch.engine.image.metrics import contrast, mean_dice, psnr, regions
from mcdiff_batch.engine.image.spine import Spine, compare_levels, read_spine, spine_of_landmarks
from mcdiff_batch.engine.model.contract import Contract
from mcdiff_batch.engine.model.framing import FramedCase, frame_case
from mcdiff_batch.train.segmenters.rater import Rater

from .similarity import Pyramid, ms_ssim, pyramid, square_view, strip_view
from .sources import on_frame

NEEDED = ("clean", "label", "landmarks", "angles_deg")
VIEWS = ("strip", "square")
Scores = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """The truth that a phantom archive stores with a case."""

    clean: Image  # [H, W] in [0, 1]
    label: Labels  # [H, W]
    full_label: Labels  # [y, x], as stored
    landmarks: npt.NDArray[np.float32]  # [18, 2, 2], stored px
    angles_deg: tuple[float, float]  # thoracic, lumbar; NaN if there is none
    difficult: bool | None


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One phantom on the frame, with its truth; images are [H, W] in [0, 1]."""

    case: FramedCase
    truth: Truth
    spacing_mm: tuple[float, float]  # y, x, of stored px
    depths: dict[int, Image] = field(repr=False)  # the depths that are present

    @cached_property
    def regions(self) -> tuple[Mask, Mask]:
        """s and b of eq. 12 and 13, by the true mask."""
        return regions(self.truth.label > 0, self.case.strip, self.case.spacing_mm[0])

    @cached_property
    def depth_views(self) -> dict[str, dict[int, tuple[Image, Pyramid]]]:
        return {v: {d: self.view(x, v) for d, x in self.depths.items()} for v in VIEWS}

    @cached_property
    def clean_view(self) -> tuple[Image, Pyramid]:
        return self.view(self.truth.clean, "strip")

    def contrast(self, image: Image) -> Scores:
        """CNR and SNR, eq. 12 and 13, each in both logarithms."""
        return contrast(image, *self.regions)

    def label_dice(self, label: Labels) -> float:
        return mean_dice(label, self.truth.label)

    def view(self, image: Image, kind: str) -> tuple[Image, Pyramid]:
        seen = strip_view(image, self.case.strip) if kind == "strip" else square_view(image)
        return seen, pyramid(seen)


def read_subject(archive: Archive, truth: Any, index: int, contract: Contract) -> Subject:
    """Reads case `index`.  truth: the archive's zarr group.  Raises CaseError for bad data."""
    case = frame_case(archive.read(index), contract)
    frame, (y, x) = contract.frame, case.extent
    clean = np.asarray(truth["clean"][index])[:y, :x]
    label = np.asarray(truth["label"][index])[:y, :x]
    thoracic, lumbar = np.asarray(truth["angles_deg"][index], float).tolist()
    stored = Truth(
        clean=to_frame(clean, frame, black=0.0) / np.float32(255),
        label=nearest_to_frame(label, frame),
        full_label=label,
        landmarks=np.asarray(truth["landmarks"][index]),
        angles_deg=(thoracic, lumbar),
        difficult=bool(truth["difficult"][index]) if "difficult" in truth else None,
    )
    scale = case.placement.scale
    return Subject(
        case=case,
        truth=stored,
        spacing_mm=(case.spacing_mm[0] * scale, case.spacing_mm[1] * scale),
        depths={d: (x + 1) / 2 for d, x in enumerate(case.depths) if x.max() > -1},
    )


def measure_image(subject: Subject, image: Image, raters: tuple[Rater, Rater]) -> Scores:
    """All figures of one image [H, W] in [0, 1]: dB, degrees, counts, otherwise shares of 1."""
    first, second = (read_image(subject, image, rater) for rater in raters)
    views = {kind: subject.view(image, kind) for kind in VIEWS}
    return {
        **subject.contrast(image),
        "psnr": psnr(image, subject.truth.clean, subject.case.strip),
        "ms_ssim": ms_ssim(views["strip"][1], subject.clean_view[1]),
        **first,
        "rater_b": second,
        "depths": {kind: _likeness(subject, kind, view) for kind, view in views.items()},
    }


def read_image(subject: Subject, image: Image, rater: Rater) -> Scores:
    """Dice, angles and levels that a rater reads from the image's pixels, against the truth."""
    extent = subject.case.extent
    label = rater.read(_on_frame(rater.frame, image, extent))
    true_spine, spine = _true_spine(subject, rater.frame), _spine(subject, label, rater.frame)
    lost, invented = compare_levels(true_spine, spine)
    angles = (spine.thoracic_deg, spine.lumbar_deg)
    off = [abs(a - b) for a, b in zip(angles, subject.truth.angles_deg, strict=True)]
    return {
        "dice": mean_dice(label, nearest_to_frame(subject.truth.full_label, rater.frame)),
        "thoracic_deg": angles[0],
        "lumbar_deg": angles[1],
        "thoracic_off": off[0],
        "lumbar_off": off[1],
        "lost": lost,
        "invented": invented,
        "confidence": spine.confidence,
    }


def _on_frame(frame: Frame, image: Image, extent: tuple[int, int]) -> Image:
    same = image.shape == (frame.height, frame.width)
    return image if same else on_frame(image, extent, frame)


def _spine(subject: Subject, label: Labels, frame: Frame) -> Spine:
    return read_spine(label, _spacing(subject, frame))


def _true_spine(subject: Subject, frame: Frame) -> Spine:
    where = place(subject.case.extent, frame)
    return spine_of_landmarks(subject.truth.landmarks, where, _spacing(subject, frame))


def _spacing(subject: Subject, frame: Frame) -> tuple[float, float]:
    """The spacing of frame px, (y, x) mm."""
    scale = place(subject.case.extent, frame).scale
    return subject.spacing_mm[0] / scale, subject.spacing_mm[1] / scale


def _likeness(subject: Subject, kind: str, view: tuple[Image, Pyramid]) -> dict[str, list[float]]:
    """MS-SSIM and PSNR to each depth [D], NaN if it is absent; all px of the view count."""
    image, scales = view
    scores: dict[str, list[float]] = {"ms_ssim": [], "psnr": []}
    everywhere = np.ones(image.shape, bool)
    for depth in range(len(subject.case.depths)):
        other = subject.depth_views[kind].get(depth)
        scores["ms_ssim"].append(ms_ssim(scales, other[1]) if other else float("nan"))
        scores["psnr"].append(psnr(image, other[0], everywhere) if other else float("nan"))
    return scores
