"""Cases that a person should look at first, and their pictures: before, after, labels, spread."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from mcdiff_batch.engine.archive.archive import Archive
from mcdiff_batch.engine.archive.chunks import ChunkedArray
from mcdiff_batch.engine.archive.metadata import array_spec
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
from mcdiff_batch.engine.model.framing import standardised
from mcdiff_batch.engine.output import shards

MOST = 24  # cards
MOST_PER_FLAG = 6
MOST_FLAGGED = 12
TALLEST = 384  # px of a picture
OPACITY, OUTLINE = 0.3, 0.9
BRIGHTEST = 32  # grey levels of spread
HEAT = ((0, 0, 0), (213, 94, 0), (255, 255, 255))  # none, half of that, all of it
COLOURS = ("#e69f00", "#56b4e9", "#cc79a7", "#f0e442", "#009e73", "#d55e00")  # Okabe and Ito
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """`flag`: why it is shown: "gate", "failed", "open", "agreement", "cnr", or nothing."""

    case: int
    flag: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """PNG files; None where there is no picture."""

    before: bytes | None = None
    after: bytes | None = None
    labels: bytes | None = None
    spread: bytes | None = None


def picks(
    bad: Sequence[Pick],
    cases: Sequence[int],
    gain: Floats,
    agreement: Floats,
    flags: Sequence[int],
) -> list[Pick]:
    """Those the gate flagged first, then `bad`, lowest agreement, worst loss of CNR, and an even
    choice of the rest.

    gain, agreement, flags (how many): [len(cases)], NaN where undefined.
    """
    chosen = {cases[row]: Pick(case=cases[row], flag="gate") for row in worst(flags, agreement)} | {
        pick.case: pick for pick in bad[:MOST_PER_FLAG]
    }
    most = min(MOST_PER_FLAG, -(-len(cases) // 6))
    for row in lowest(agreement, most):
        chosen.setdefault(cases[row], Pick(case=cases[row], flag="agreement"))
    for row in lowest(np.where(gain < 0, gain, np.nan), MOST_PER_FLAG):
        chosen.setdefault(cases[row], Pick(case=cases[row], flag="cnr"))
    rest = [case for case in cases if case not in chosen]
    return [*chosen.values(), *(Pick(case=x) for x in spread(rest, MOST - len(chosen)))]


def worst(flags: Sequence[int], agreement: Floats) -> list[int]:
    """Rows that are flagged, those with most flags first, of equal ones the lowest agreement."""
    counts = np.asarray(flags, int)
    order = np.lexsort((agreement, -counts))
    return [int(row) for row in order[:MOST_FLAGGED] if counts[row]]


def lowest(values: Floats, count: int) -> list[int]:
    """Rows of the lowest values, lowest first; no NaN."""
    order = np.argsort(values, kind="stable")[:count]
    return [int(row) for row in order if not np.isnan(values[row])]


def spread(values: Sequence[int], count: int) -> list[int]:
    """At most `count` of `values`, evenly."""
    if len(values) <= count:
        return list(values)
    return [values[int(k)] for k in np.linspace(0, len(values) - 1, count).round()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wall:
    """Where pictures come from."""

    out: Path
    frame: Frame
    archive: Archive | None  # None: nothing to show as before
    cropped: bool = False  # results are on the input's grid, padded

    def pictures(self, case: int, extent: tuple[int, int], optimal: int) -> Pictures:
        """Of a case that is done; what cannot be read is left out."""
        before = self._before(case, optimal)
        after, labels, spread = (self._stored(name, case, extent) for name in shards.IMAGES)
        if after is None or labels is None:
            return Pictures(before=_framed(before, extent, self.frame))
        after = to_frame(after, self.frame, black=0).round().astype(np.uint8)
        labels = nearest_to_frame(labels, self.frame)
        return Pictures(
            before=_framed(before, extent, self.frame),
            after=_framed(after, extent, self.frame),
            labels=_framed(coloured(after, labels), extent, self.frame),
            spread=None if spread is None else self._heat(spread, extent),
        )

    def _heat(self, spread: Pixels, extent: tuple[int, int]) -> bytes | None:
        level = to_frame(spread, self.frame, black=0) / BRIGHTEST
        stops = np.linspace(0, 1, len(HEAT))
        channels = [np.interp(level, stops, x) for x in zip(*HEAT, strict=True)]
        return _framed(np.stack(channels, -1).round().astype(np.uint8), extent, self.frame)

    def _before(self, case: int, optimal: int) -> Pixels | None:
        """[H, W], as the model's frame has the optimal depth."""
        if self.archive is None:
            return None
        try:
            found = self.archive.read(case)
        except (CaseError, OSError):
            return None
        depths = to_frame(standardised(found), self.frame, black=-1.0)
        return grey(depths[optimal], scan_strip(depths[found.present]))

    def _stored(self, name: str, case: int, extent: tuple[int, int]) -> Pixels | None:
        """As it was committed, without padding; [y, x]."""
        try:
            image = _row(self.out / shards.FOLDER, name, case)
        except (ValueError, OSError):  # damaged or gone: `verify` has more to say
            return None
        return image[: extent[0], : extent[1]] if self.cropped else image


def _row(root: Path, name: str, case: int) -> Pixels:
    store = Store(root.resolve())
    found = array_spec(store, name)
    if found is None or not 0 <= case < found[1].shape[0]:
        raise ValueError(f"no {name} of case {case}")
    array = ChunkedArray(store=store, name=name, spec=found[1])
    height, width = found[1].shape[1:]
    box = (slice(case, case + 1), slice(0, height), slice(0, width))
    return np.asarray(array.read(box)[0], np.uint8)


def coloured(image: Pixels, labels: Pixels) -> Pixels:
    """The label map laid over the image, [H, W, 3]."""
    palette = np.array([_rgb(x) for x in COLOURS], np.float32)
    out = np.repeat(image[..., None], 3, axis=-1).astype(np.float32)
    marked = labels > 0
    tint = palette[(labels[marked].astype(int) - 1) % len(palette)]
    share = np.where(edges(labels), OUTLINE, OPACITY)[marked, None]
    out[marked] = (1 - share) * out[marked] + share * tint
    return out.round().astype(np.uint8)


def edges(labels: Pixels) -> npt.NDArray[np.bool_]:
    """Px with a neighbour of another label, [H, W]."""
    around = np.pad(labels, 1, mode="edge")
    near = (around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:])
    found: npt.NDArray[np.bool_] = np.any([labels != x for x in near], axis=0)
    return found


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


def _framed(image: Pixels | None, extent: tuple[int, int], frame: Frame) -> bytes | None:
    """The part of a frame that the scan covers, as PNG."""
    if image is None:
        return None
    where = place(extent, frame)
    rows = slice(where.top, where.top + where.height)
    inner = image[rows, where.left : where.left + where.width]
    return png(inner)


def png(image: Pixels) -> bytes:
    picture = Image.fromarray(np.ascontiguousarray(image))
    picture.thumbnail((TALLEST, TALLEST), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()
