"""Chooses the cases that a person should look at first, and draws their pictures."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from mcdiff_batch.engine.archive.archive import Archive
from mcdiff_batch.engine.archive.chunks import ChunkedArray
from mcdiff_batch.engine.archive.metadata import read_array_spec
from mcdiff_batch.engine.archive.store import Store
from mcdiff_batch.engine.errors import CaseError
from mcdiff_batch.engine.image.frame import (
    Frame,
    Pixels,
    grey,
    nearest_to_frame,
    place,
    scan_strip,
    to_frame,
)
from mcdiff_batch.engine.model.framing import standardise
from mcdiff_batch.engine.output import shards

MOST = 24  # cases
MOST_PER_REASON = 6
MOST_FLAGGED = 12
TALLEST = 384  # px of a picture
OPACITY, OUTLINE = 0.3, 0.9  # of a label's colour, inside and at its edge
BRIGHTEST = 32  # grey levels of spread that are drawn white
HEAT = ((0, 0, 0), (213, 94, 0), (255, 255, 255))  # no spread, half of BRIGHTEST, BRIGHTEST
COLOURS = ("#e69f00", "#56b4e9", "#cc79a7", "#f0e442", "#009e73", "#d55e00")  # Okabe and Ito
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """A case of the gallery."""

    case: int
    flag: str = ""  # why it is shown: "gate", "failed", "open", "agreement", "cnr", or no reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """PNG files of one case; None where there is no picture."""

    before: bytes | None = None
    after: bytes | None = None
    labels: bytes | None = None  # over the image after
    spread: bytes | None = None  # over draws


def choose_cases(
    failures: Sequence[Pick],
    cases: Sequence[int],
    gain: Floats,
    agreement: Floats,
    flags: Sequence[int],
) -> list[Pick]:
    """At most MOST: flagged cases, failures, least agreement, loss of CNR, then some of the rest.

    gain (of CNR), agreement and flags (how many) are [len(cases)], NaN where undefined.
    """
    rows = rows_with_most_flags(flags, agreement)
    chosen = {cases[row]: Pick(case=cases[row], flag="gate") for row in rows}
    chosen |= {pick.case: pick for pick in failures[:MOST_PER_REASON]}
    most = min(MOST_PER_REASON, -(-len(cases) // 6))
    for row in lowest_rows(agreement, most):
        chosen.setdefault(cases[row], Pick(case=cases[row], flag="agreement"))
    for row in lowest_rows(np.where(gain < 0, gain, np.nan), MOST_PER_REASON):
        chosen.setdefault(cases[row], Pick(case=cases[row], flag="cnr"))
    rest = [case for case in cases if case not in chosen]
    return [*chosen.values(), *(Pick(case=x) for x in take_evenly(rest, MOST - len(chosen)))]


def rows_with_most_flags(flags: Sequence[int], agreement: Floats) -> list[int]:
    """Flagged rows, most flags first; of equal ones, the lowest agreement first."""
    counts = np.asarray(flags, int)
    order = np.lexsort((agreement, -counts))
    return [int(row) for row in order[:MOST_FLAGGED] if counts[row]]


def lowest_rows(values: Floats, count: int) -> list[int]:
    """Rows of the `count` lowest values, lowest first, without NaN."""
    order = np.argsort(values, kind="stable")[:count]
    return [int(row) for row in order if not np.isnan(values[row])]


def take_evenly(values: Sequence[int], count: int) -> list[int]:
    """At most `count` of `values`, evenly spaced, both ends included."""
    if len(values) <= count:
        return list(values)
    return [values[int(k)] for k in np.linspace(0, len(values) - 1, count).round()]


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureSource:
    """Draws cases from the output of a run and from its archive."""

    out: Path
    frame: Frame
    archive: Archive | None  # None: there are no images before
    cropped: bool = False  # results are on the input's grid, padded

    def draw(self, case: int, extent: tuple[int, int], optimal: int) -> Pictures:
        """Pictures of a case that is done, without those that cannot be read."""
        before = self._before(case, optimal)
        after, labels, spread = (self._stored(name, case, extent) for name in shards.IMAGES)
        if after is None or labels is None:
            return Pictures(before=_framed(before, extent, self.frame))
        after = to_frame(after, self.frame, black=0).round().astype(np.uint8)
        labels = nearest_to_frame(labels, self.frame)
        return Pictures(
            before=_framed(before, extent, self.frame),
            after=_framed(after, extent, self.frame),
            labels=_framed(colour_labels(after, labels), extent, self.frame),
            spread=None if spread is None else self._heat(spread, extent),
        )

    def _heat(self, spread: Pixels, extent: tuple[int, int]) -> bytes | None:
        level = to_frame(spread, self.frame, black=0) / BRIGHTEST
        stops = np.linspace(0, 1, len(HEAT))
        channels = [np.interp(level, stops, x) for x in zip(*HEAT, strict=True)]
        return _framed(np.stack(channels, -1).round().astype(np.uint8), extent, self.frame)

    def _before(self, case: int, optimal: int) -> Pixels | None:
        """The optimal depth on the frame, [H, W], as the model gets it."""
        if self.archive is None:
            return None
        try:
            stack = self.archive.read(case)
        except (CaseError, OSError):
            return None
        depths = to_frame(standardise(stack), self.frame, black=-1.0)
        return grey(depths[optimal], scan_strip(depths[stack.present]))

    def _stored(self, name: str, case: int, extent: tuple[int, int]) -> Pixels | None:
        """[y, x], as committed, without padding."""
        try:
            image = _row(self.out / shards.FOLDER, name, case)
        except (ValueError, OSError):  # `verify` says what is damaged
            return None
        return image[: extent[0], : extent[1]] if self.cropped else image


def _row(root: Path, name: str, case: int) -> Pixels:
    store = Store(root.resolve())
    spec = read_array_spec(store, name)
    if spec is None or not 0 <= case < spec[1].shape[0]:
        raise ValueError(f"no {name} of case {case}")
    array = ChunkedArray(store=store, name=name, spec=spec[1])
    height, width = spec[1].shape[1:]
    box = (slice(case, case + 1), slice(0, height), slice(0, width))
    return np.asarray(array.read(box)[0], np.uint8)


def colour_labels(image: Pixels, labels: Pixels) -> Pixels:
    """The label map laid over the image, [H, W, 3]."""
    palette = np.array([_rgb(x) for x in COLOURS], np.float32)
    out = np.repeat(image[..., None], 3, axis=-1).astype(np.float32)
    marked = labels > 0
    tint = palette[(labels[marked].astype(int) - 1) % len(palette)]
    share = np.where(find_edges(labels), OUTLINE, OPACITY)[marked, None]
    out[marked] = (1 - share) * out[marked] + share * tint
    return out.round().astype(np.uint8)


def find_edges(labels: Pixels) -> npt.NDArray[np.bool_]:
    """The px that have a neighbour of another label, [H, W]."""
    around = np.pad(labels, 1, mode="edge")
    near = (around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:])
    differs: npt.NDArray[np.bool_] = np.any([labels != x for x in near], axis=0)
    return differs


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


def _framed(image: Pixels | None, extent: tuple[int, int], frame: Frame) -> bytes | None:
    """The part of the frame that the scan covers, as PNG."""
    if image is None:
        return None
    where = place(extent, frame)
    rows = slice(where.top, where.top + where.height)
    inner = image[rows, where.left : where.left + where.width]
    return encode_png(inner)


def encode_png(image: Pixels) -> bytes:
    picture = Image.fromarray(np.ascontiguousarray(image))
    picture.thumbnail((TALLEST, TALLEST), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()
