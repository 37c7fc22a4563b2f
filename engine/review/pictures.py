"""What the page shows of one case: grey levels of every depth, the results, and what to mark.

All planes of a case have one size.  They are on the grid of the output: the part of the frame that
the scan covers, or with `--grid input` the px of the scan itself.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from mcdiff_batch.engine.archive.archive import Archive, Case
from mcdiff_batch.engine.errors import CaseError
from mcdiff_batch.engine.image.frame import (
    Frame,
    Image,
    Pixels,
    Placement,
    grey,
    nearest_to_frame,
    place,
    to_frame,
)
from mcdiff_batch.engine.model.framing import standardise
from mcdiff_batch.engine.output import shards
from mcdiff_batch.engine.output.ledger import Entry
from mcdiff_batch.engine.report.gallery import Angle, find_angles, read_image

DAMAGED = "The stored images are not as they were committed; see `mcdiff-batch verify`."


@dataclass(frozen=True, slots=True, kw_only=True)
class Planes:
    """The images of a case, all [y, x], and their scale."""

    depths: tuple[Pixels | None, ...]  # None: that depth was not taken; empty: no archive
    results: dict[str, Pixels]  # by the names of shards.IMAGES
    spacing_mm: tuple[float, float]  # of a px, y and x; NaN where unknown


class DamagedPixels(Exception):
    """The stored images of a case are not those of its record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaneSource:
    """Reads the images of cases from the output of a run and from its archive."""

    out: Path
    frame: Frame
    archive: Archive | None  # None: there are no depths
    cropped: bool = False  # results are on the input's grid, padded

    def read(self, entry: Entry) -> Planes:
        """The planes of a case that is done.  Raises DamagedPixels."""
        assert entry.extent is not None
        where, results = place(entry.extent, self.frame), self._results(entry)
        case = self._case(entry.case)
        spacing = case.spacing_mm if case is not None else (math.nan, math.nan)
        cut = self._cut_extent if self.cropped else lambda x, _: x[where.window]
        return Planes(
            depths=tuple(self._depths(case, where)) if case is not None else (),
            results={name: cut(x, entry) for name, x in results.items()},
            spacing_mm=spacing if self.cropped else _divide(spacing, where.scale),
        )

    def find_angles(self, entry: Entry) -> list[Angle]:
        """The curve angles of a case, with the lines that they are between, in px of its planes.

        Raises DamagedPixels.
        """
        assert entry.extent is not None
        where, case = place(entry.extent, self.frame), self._case(entry.case)
        if case is None:  # nothing says how large a px is
            return []
        labels = self._cut_extent(self._results(entry)["label"], entry)
        spacing = _divide(case.spacing_mm, where.scale)
        angles = find_angles(nearest_to_frame(labels, self.frame), spacing, where, entry)
        return [_scale(x, 1 / where.scale) if self.cropped else x for x in angles]

    def _results(self, entry: Entry) -> dict[str, Pixels]:
        """The images as they were committed."""
        images = {}
        for name in shards.IMAGES:
            try:
                images[name] = read_image(self.out / shards.FOLDER, name, entry.case)
            except (ValueError, OSError):
                break
        if shards.hash_pixels(images.values()) != entry.pixels:
            raise DamagedPixels
        return images

    def _cut_extent(self, image: Pixels, entry: Entry) -> Pixels:
        assert entry.extent is not None
        return image[: entry.extent[0], : entry.extent[1]] if self.cropped else image

    def _case(self, case: int) -> Case | None:
        try:
            return self.archive.read(case) if self.archive else None
        except (CaseError, OSError):
            return None

    def _depths(self, case: Case, where: Placement) -> Iterator[Pixels | None]:
        for depth, present in zip(standardise(case), case.present, strict=True):
            image: Image = depth
            if not self.cropped and present:
                image = to_frame(depth, self.frame, black=-1.0)[where.window]
            yield grey(image, np.ones(image.shape, bool)) if present else None


def _divide(pair: tuple[float, float], by: float) -> tuple[float, float]:
    return pair[0] / by, pair[1] / by


def _scale(angle: Angle, factor: float) -> Angle:
    upper, lower = (
        replace(x, **{name: value * factor for name, value in asdict(x).items()})
        for x in angle.lines
    )
    return replace(angle, lines=(upper, lower))
