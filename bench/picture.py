"""README's picture: original, enhanced, clean target and label map of cases, side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from PIL import Image

from mcdiff_batch.engine.archive import open_archive
from mcdiff_batch.engine.frame import Frame, place, to_frame

Pixels = npt.NDArray[np.uint8]

GAP = 6  # px
SCALE = 2
COLOURS = np.array([[0, 0, 0], [86, 180, 233], [230, 159, 0], [0, 158, 115]], np.float32)


def draw(run: Path, truth: Path, cases: Sequence[int], path: Path) -> None:
    """Writes a PNG; images on the frame, twice its size, nothing sharpened or stretched."""
    archive = open_archive(truth)
    group: Any = zarr.open_group(truth, mode="r")
    output: Any = zarr.open_group(run / "images.zarr", mode="r")
    groups = [_case(archive, group, output, index) for index in cases]
    Image.fromarray(np.concatenate(_spaced(groups, 3 * GAP), axis=1)).save(path, optimize=True)


def _case(archive: Any, group: Any, output: Any, index: int) -> Pixels:
    enhanced, label = (np.asarray(output[name][index]) for name in ("enhanced", "label"))
    case = archive.read(index)
    y, x = archive.extent(index)
    frame = Frame(height=enhanced.shape[0], width=enhanced.shape[1])
    original = to_frame(case.depths[case.optimal], frame, black=0.0).round().astype(np.uint8)
    clean = to_frame(group["clean"][index][:y, :x], frame, black=0.0).round().astype(np.uint8)
    where = place((y, x), frame)
    inside = np.s_[:, where.left : where.left + where.width]
    panels = [grey(original), grey(enhanced), grey(clean), overlaid(enhanced, label)]
    return beside([p[inside] for p in panels])


def beside(panels: Sequence[Pixels]) -> Pixels:
    """[y, x, 3] each, enlarged, white between them."""
    return np.concatenate(_spaced([_large(p) for p in panels], GAP), axis=1)


def grey(image: Pixels) -> Pixels:
    return np.repeat(image[..., None], 3, axis=-1)


def overlaid(image: Pixels, label: Pixels) -> Pixels:
    mixed = 0.45 * grey(image) + 0.55 * COLOURS[label]
    return np.where(label[..., None] > 0, mixed, grey(image)).astype(np.uint8)


def _large(image: Pixels) -> Pixels:
    size = (image.shape[1] * SCALE, image.shape[0] * SCALE)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def _spaced(images: Sequence[Pixels], gap: int) -> list[Pixels]:
    white = np.full((images[0].shape[0], gap, 3), 255, np.uint8)
    return [part for image in images for part in (image, white)][:-1]
