"""A contact sheet of phantoms, among which to look for the real image; and some by depth."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image as Picture

from mcdiff_batch.train.phantom.case import Phantom, phantom

Grey = npt.NDArray[np.uint8]
SHOWN = 12  # optimal depths, six per row
BY_DEPTH = 3  # cases that are shown at every depth, with their clean target
TILE = (520, 130)  # y, x px: half the largest scan
REAL_SCALE = 0.4  # 0.18 mm/px to 0.45


def contact_sheet(path: Path, seed: int, beside: Path | None) -> None:
    """Writes a PNG.  Above: twelve optimal depths; the real image `beside` replaces one at random.

    Below: one case of each grade, its depths from superficial to deep, then its clean target.
    """
    phantoms = [phantom(seed, index) for index in range(SHOWN)]
    tiles = [_half(case.depths[case.optimal_depth]) for case in phantoms]
    if beside is not None:
        tiles[int(np.random.default_rng().integers(SHOWN))] = _half(_reduce(beside))
    for case in _one_of_each_grade(phantoms):
        tiles += [_half(depth) for depth in case.depths] + [_half(case.clean)]
    rows = [np.hstack(tiles[k : k + 6]) for k in range(0, len(tiles), 6)]
    Picture.fromarray(np.vstack(rows)).save(path, optimize=True)


def _one_of_each_grade(phantoms: list[Phantom]) -> list[Phantom]:
    """One case of each grade that was drawn, the easy one first."""
    grades = {(case.difficult, not case.artifact_free): case for case in reversed(phantoms)}
    return [grades[key] for key in sorted(grades)][:BY_DEPTH]


def _half(image: Grey) -> Grey:
    reduced = np.asarray(Picture.fromarray(image).reduce(2))[: TILE[0], : TILE[1]]
    room = [(0, side - n) for side, n in zip(TILE, reduced.shape, strict=True)]
    return np.pad(reduced, room)


def _reduce(path: Path) -> Grey:
    picture = Picture.open(path).convert("L")
    size = (round(picture.width * REAL_SCALE), round(picture.height * REAL_SCALE))
    return np.asarray(picture.resize(size, Picture.Resampling.BOX))
