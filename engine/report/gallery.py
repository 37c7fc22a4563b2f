"""Draws pictures of a few cases: before, enhanced, label map and spread, and what to mark in them.

A picture has the px of the frame, cut to what the scan covers.  Marks are given in those px.
"""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from mcdiff_batch.engine.archive.archive import Archive, Case
from mcdiff_batch.engine.archive.chunks import ChunkedArray
from mcdiff_batch.engine.archive.metadata import read_array_spec
from mcdiff_batch.engine.archive.store import open_store
from mcdiff_batch.engine.errors import CaseError
from mcdiff_batch.engine.image.columns import LUMBAR, THORACIC
from mcdiff_batch.engine.image.frame import (
    Frame,
    Labels,
    Pixels,
    Placement,
    grey,
    nearest_to_frame,
    place,
    scan_strip,
    to_frame,
)
from mcdiff_batch.engine.image.spine import Level, angle_levels, read_spine
from mcdiff_batch.engine.model.framing import standardise
from mcdiff_batch.engine.output import durable, shards
from mcdiff_batch.engine.output.ledger import Entry

TALLEST = 512  # px of a picture
SHARP = 2  # px of a label map's picture for each of the frame's, so that edges are thin
OPACITY, OUTLINE = 0.3, 0.9  # of a label's colour, inside and at its edge
BRIGHTEST = 32  # grey levels of spread that are drawn white
HEAT = ((0, 0, 0), (213, 94, 0), (255, 255, 255))  # no spread, half of BRIGHTEST, BRIGHTEST
COLOURS = ("#e69f00", "#56b4e9", "#cc79a7", "#f0e442", "#009e73", "#d55e00")  # Okabe and Ito
REACH_MM = 42.0  # from the middle of a level to the end of its line
ROUNDING = 0.1  # degrees by which an angle of a stored label map may differ from the ledger's


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """The line of a level, from the left to the right."""

    x1: float  # px
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Angle:
    """A curve angle as the ledger has it, and the two lines that it is between."""

    degrees: float
    lines: tuple[Line, Line]


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """Size and scale of the pictures of a case, and its angles after enhancement."""

    height: int  # px
    width: int
    px: float  # of the input, in one px
    mm: float = math.nan  # across one px, NaN where the spacing is unknown
    angles: tuple[Angle, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """PNG files of one case; None where there is no picture."""

    before: bytes | None = None
    after: bytes | None = None
    labels: bytes | None = None  # to lay over the image after; clear where there is no bone
    spread: bytes | None = None  # over draws
    marks: Marks | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureSource:
    """Draws cases from the output of a run and from its archive."""

    out: Path
    frame: Frame
    archive: Archive | None  # None: there are no images before, and no scale in mm
    cropped: bool = False  # results are on the input's grid, padded

    def draw(self, entry: Entry) -> Pictures:
        """Pictures of a case that is done, without those that cannot be read."""
        assert entry.extent is not None
        where, case = place(entry.extent, self.frame), self._read(entry.case)
        after, labels, spread = (self._stored(x, entry.case, entry.extent) for x in shards.IMAGES)
        shown: dict[str, Pixels] = {}
        if case is not None:
            shown["before"] = self._before(case, entry.optimal or 0)
        spacing = case.spacing_mm if case is not None else (math.nan, math.nan)
        spacing_mm = spacing[0] / where.scale, spacing[1] / where.scale
        angles: tuple[Angle, ...] = ()
        if after is not None and labels is not None:
            shown["after"] = to_frame(after, self.frame, black=0).round().astype(np.uint8)
            labels = nearest_to_frame(labels, self.frame)
            shown["labels"] = colour_labels(labels)
            angles = tuple(find_angles(labels, spacing_mm, where, entry))
        if spread is not None:
            shown["spread"] = heat(to_frame(spread, self.frame, black=0))
        marks = Marks(
            height=where.height,
            width=where.width,
            px=1 / where.scale,
            mm=spacing_mm[1],
            angles=angles,
        )
        return Pictures(
            **{name: encode_png(_cut(x, where, self.frame)) for name, x in shown.items()},
            marks=marks,
        )

    def _read(self, case: int) -> Case | None:
        try:
            return self.archive.read(case) if self.archive else None
        except (CaseError, OSError):
            return None

    def _before(self, case: Case, optimal: int) -> Pixels:
        """The optimal depth on the frame, [H, W], as the model gets it."""
        depths = to_frame(standardise(case), self.frame, black=-1.0)
        return grey(depths[optimal], scan_strip(depths[case.present]))

    def _stored(self, name: str, case: int, extent: tuple[int, int]) -> Pixels | None:
        """[y, x], as committed, without padding."""
        try:
            image = read_image(self.out / shards.FOLDER, name, case)
        except (ValueError, OSError):  # `verify` says what is damaged
            return None
        return image[: extent[0], : extent[1]] if self.cropped else image


def read_image(root: Path, name: str, case: int) -> Pixels:
    """A stored image [y, x].  Raises ValueError, OSError where it cannot be read."""
    store = open_store(durable.files(root.parent).place / root.name)
    metadata = read_array_spec(store, name)
    if metadata is None or not 0 <= case < metadata.spec.shape[0]:
        raise ValueError(f"no {name} of case {case}")
    array = ChunkedArray(store=store, name=name, spec=metadata.spec)
    height, width = metadata.spec.shape[1:]
    box = (slice(case, case + 1), slice(0, height), slice(0, width))
    return np.asarray(array.read(box)[0], np.uint8)


def find_angles(
    labels: Labels, spacing_mm: tuple[float, float], where: Placement, entry: Entry
) -> Iterator[Angle]:
    """The angles of a label map [H, W] on the frame.

    An angle that differs from the one in the ledger is left out, because its lines would be wrong.
    That happens where results are on the input's grid, so that the map was resampled twice.
    """
    pairs = angle_levels(read_spine(labels, spacing_mm))
    for column, levels in zip((THORACIC, LUMBAR), pairs, strict=True):
        degrees = entry.quality.get(column.after)
        if levels is None or degrees is None:
            continue
        if abs(levels[1].tilt_deg - levels[0].tilt_deg - degrees) <= ROUNDING:
            lines = (_line(x, spacing_mm, where) for x in levels)
            yield Angle(degrees=degrees, lines=(next(lines), next(lines)))


def _line(level: Level, spacing_mm: tuple[float, float], where: Placement) -> Line:
    tilt = math.radians(level.tilt_deg)
    down = REACH_MM * math.sin(tilt) / spacing_mm[0]
    across = REACH_MM * math.cos(tilt) / spacing_mm[1]
    y = level.y_mm / spacing_mm[0] + 0.5 - where.top
    x = level.x_mm / spacing_mm[1] + 0.5 - where.left
    return Line(x1=x - across, y1=y - down, x2=x + across, y2=y + down)


def heat(spread: npt.NDArray[np.floating]) -> Pixels:
    """Grey levels of spread [H, W] in the colours of HEAT, [H, W, 3]."""
    stops = np.linspace(0, 1, len(HEAT))
    channels = [np.interp(spread / BRIGHTEST, stops, x) for x in zip(*HEAT, strict=True)]
    return np.stack(channels, -1).round().astype(np.uint8)


def colour_labels(labels: Labels) -> Pixels:
    """A label map [H, W] as colours to lay over an image, [SHARP H, SHARP W, 4]."""
    large = labels.repeat(SHARP, 0).repeat(SHARP, 1)
    palette = np.array([tuple(bytes.fromhex(x[1:])) for x in COLOURS], np.uint8)
    out = np.zeros((*large.shape, 4), np.uint8)
    marked = large > 0
    out[marked, :3] = palette[(large[marked].astype(int) - 1) % len(palette)]
    out[..., 3] = np.where(find_edges(large), round(255 * OUTLINE), round(255 * OPACITY)) * marked
    return out


def find_edges(labels: Pixels) -> npt.NDArray[np.bool_]:
    """The px that have a neighbour of another label, [H, W]."""
    around = np.pad(labels, 1, mode="edge")
    near = (around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:])
    differs: npt.NDArray[np.bool_] = np.any([labels != x for x in near], axis=0)
    return differs


def _cut(image: Pixels, where: Placement, frame: Frame) -> Pixels:
    """The part of the frame that the scan covers; an image may have several px for each of it."""
    k = image.shape[0] // frame.height
    rows, columns = (slice(k * x.start, k * x.stop) for x in where.window)
    return image[rows, columns]


def encode_png(image: Pixels) -> bytes:
    """[y, x], or [y, x, 3 or 4] of colours; at most TALLEST px, with clear px SHARP times that."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    tallest = TALLEST * (SHARP if picture.mode == "RGBA" else 1)
    picture.thumbnail((tallest, tallest), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()
