"""Reads a spine from a label map: vertebral levels, their tilts, and the ultrasound curve angles.

Bone sizes are bounds in millimetres, wide enough for any patient; nothing is counted in px, and an
angle is measured in millimetres.  A map of noise gives few levels and little confidence, no error.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from .frame import Labels, Mask, Placement
from .metrics import FALLBACK_SPACING_MM

PROCESS, LUMP = 1, 3  # labels
THORACIC = 12  # landmark rows that are pairs of processes; the others are lumps

REACH_MM = 20.0  # from the midline to a process
PROCESS_MM = 8.0  # half the width of one
WING_MM = 25.0  # from the midline to the end of a lump's wing
WING_END = 0.7  # of half a lump's length: where landmarks are set
PITCH_MM = (15.0, 34.0)  # from level to level
USUAL_PITCH_MM = 24.0
SMALLEST_MM2 = {PROCESS: 35.0, LUMP: 220.0}  # about a fifth of a usual one
TALLEST_MM = 27.0  # of what may still be one process
LUMP_HEIGHT_MM = 34.0  # of what may still be one lump, across its tilt
PIECES_HEIGHT_MM = 27.0  # less than that of the two smallest neighbours together
STEEPEST_DEG = 50.0
SMOOTHING_LEVELS = 1.0  # sd of the weights with which neighbours speak for a level's tilt

Vector = npt.NDArray[np.float64]
Spacing = tuple[float, float]  # of a px, y, x, mm


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One vertebra as the picture shows it; positions are those of px centres on the frame."""

    label: int  # 1 a pair of transverse processes, 3 a lumbar lump
    y_mm: float
    x_mm: float
    tilt_deg: float  # of the line through the pair, or along the lump; clockwise positive


@dataclass(frozen=True, slots=True, kw_only=True)
class Spine:
    """Levels from top to bottom, and the angle between the two most tilted of each region."""

    levels: tuple[Level, ...]
    thoracic_deg: float  # NaN where fewer than two levels were found, or the spacing is unknown
    lumbar_deg: float
    confidence: float  # 0..1: (paired processes) x (regular pitch) x (no level missing between)


def read_spine(label: Labels, spacing_mm: Spacing) -> Spine:
    """The spine in a label map [H, W] (0 background, 1 process, 2 rib, 3 lump).

    Where the spacing is unknown (NaN) levels are found at the usual one, and angles are NaN.
    """
    known = bool(np.isfinite(spacing_mm).all())
    spacing = spacing_mm if known else (FALLBACK_SPACING_MM, FALLBACK_SPACING_MM)
    middle = _midline(label, spacing)
    left, right = (_chain(label, middle, side, spacing) for side in (-1, 1))
    pairs = _paired(left, right, _lean(middle, spacing), spacing)
    lumps = [_lump(part) for part in _lumps(label, spacing)]
    levels = sorted(pairs + lumps, key=lambda x: x.y_mm)
    return _spine(_smoothed(levels), _confidence(levels, len(left) + len(right)), known)


def spine_of_landmarks(
    landmarks: npt.NDArray[np.floating], placement: Placement, spacing_mm: Spacing
) -> Spine:
    """The true spine, from landmarks [18, 2, 2]: level x (left, right) x (y, x), image px.

    Rows 0..11 are pairs of processes, the others ends of lumps; a level with a NaN is not there.
    `spacing_mm` is that of frame px, as everywhere here.
    """
    origin = np.array([placement.top, placement.left])
    at = (origin + (landmarks + 0.5) * placement.scale - 0.5) * np.array(spacing_mm)
    levels = [
        _level(PROCESS if row < THORACIC else LUMP, *ends)
        for row, ends in enumerate(at)
        if np.isfinite(ends).all()
    ]
    return _spine(sorted(levels, key=lambda x: x.y_mm), 1.0, True)


def levels_changed(before: Spine, after: Spine) -> tuple[int, int]:
    """(lost, invented): levels of one with no partner in the other.

    Partners have one label and lie within half a pitch along the spine and one reach across it;
    each level has one partner at most, the nearest first.
    """
    within = 0.5 * _pitch(before.levels or after.levels)
    near = sorted(
        (abs(a.y_mm - b.y_mm), i, j)
        for i, a in enumerate(before.levels)
        for j, b in enumerate(after.levels)
        if a.label == b.label
        and abs(a.y_mm - b.y_mm) <= within
        and abs(a.x_mm - b.x_mm) <= REACH_MM
    )
    kept: set[int] = set()
    found: set[int] = set()
    for _, i, j in near:
        if i not in kept and j not in found:
            kept.add(i)
            found.add(j)
    return len(before.levels) - len(kept), len(after.levels) - len(found)


def _spine(levels: list[Level], confidence: float, known: bool) -> Spine:
    thoracic, lumbar = (
        _widest([x.tilt_deg for x in levels if x.label == label]) if known else float("nan")
        for label in (PROCESS, LUMP)
    )
    return Spine(
        levels=tuple(levels), thoracic_deg=thoracic, lumbar_deg=lumbar, confidence=confidence
    )


def _widest(tilts: list[float]) -> float:
    return max(tilts) - min(tilts) if len(tilts) > 1 else float("nan")


def _level(label: int, left: Vector, right: Vector) -> Level:
    """From its two ends (y, x), mm."""
    (y, x), run = (left + right) / 2, right - left
    tilt = float(np.degrees(np.arctan2(run[0], run[1])))
    return Level(label=label, y_mm=float(y), x_mm=float(x), tilt_deg=tilt)


def _midline(label: Labels, spacing: Spacing) -> Vector:
    """[H] px: the course, smooth along y, that has processes on both sides and lumps astride.

    The best path through a score by dynamic programming, moving one px a row at most.
    """
    score = _astride(label, spacing)
    rows, columns = score.shape
    cost = 0.1 * score.max() if score.max() > 0 else 1.0  # of a step aside
    total = np.full(columns + 2, -np.inf)  # of the best path to each px, between two walls
    stay, left, right = total[1:-1], total[:-2], total[2:]
    stay[:] = score[0]
    came = np.zeros((rows, columns), np.int8)
    for row in range(1, rows):
        aside = np.maximum(left, right) - cost
        came[row] = np.where(aside > stay, np.where(left > right, -1, 1), 0)
        stay[:] = np.maximum(stay, aside) + score[row]
    path = np.empty(rows)
    at = int(stay.argmax())
    for row in range(rows - 1, -1, -1):
        path[row] = at
        at += int(came[row, at])
    return np.asarray(ndimage.gaussian_filter1d(path, USUAL_PITCH_MM / 2 / spacing[0]))


def _astride(label: Labels, spacing: Spacing) -> Vector:
    """[H, W]: how well each px would do as the midline of its row."""
    across = np.arange(-int(50 / spacing[1]), int(50 / spacing[1]) + 1) * spacing[1]
    beside = np.exp(-0.5 * ((np.abs(across) - REACH_MM) / PROCESS_MM) ** 2)
    pair = beside - 2 * np.exp(-0.5 * (across / PROCESS_MM) ** 2)
    wings = np.exp(-0.5 * (across / (0.5 * WING_MM)) ** 2)
    score = np.zeros(label.shape)
    for kind, kernel in ((PROCESS, pair), (LUMP, wings)):
        there = (label == kind).astype(np.float64)
        there = ndimage.gaussian_filter1d(there, USUAL_PITCH_MM / 2 / spacing[0], axis=0)
        score += ndimage.correlate1d(there, kernel, axis=1, mode="constant")
    return score


def _lean(middle: Vector, spacing: Spacing) -> Vector:
    """[H] radians: tilt of a line square to the midline."""
    slope = np.gradient(middle) * spacing[1] / spacing[0] if len(middle) > 1 else middle * 0
    return np.asarray(-np.arctan(slope))


def _chain(label: Labels, middle: Vector, side: int, spacing: Spacing) -> Vector:
    """[n, 2] centres (y, x) in mm of the processes on one side, from top to bottom.

    One process is one peak of the bone's width along y, so that pieces of a process are one and
    processes that touch are two.
    """
    beside = side * (np.arange(label.shape[1]) - middle[:, None]) > 0
    mask = _without_specks((label == PROCESS) & beside, SMALLEST_MM2[PROCESS] / 2, spacing)
    width = ndimage.gaussian_filter1d(mask.sum(axis=1) * spacing[1], 3.0 / spacing[0])
    apart = 2 * int(0.55 * PITCH_MM[0] / spacing[0]) + 1
    tops = np.flatnonzero((width == ndimage.maximum_filter1d(width, apart)) & (width > 1.0))
    tops = tops[np.diff(tops, prepend=-apart) > apart // 2]  # a flat top is one
    cuts = [a + int(width[a:b].argmin()) for a, b in pairwise(tops)]
    bounds = np.array([0, *cuts, label.shape[0]])
    found = []
    for a, b in pairwise(bounds):
        for px in _halved((np.argwhere(mask[a:b]) + np.array([a, 0])) * np.array(spacing)):
            if len(px) * spacing[0] * spacing[1] >= SMALLEST_MM2[PROCESS]:
                found.append(px.mean(axis=0))
    return np.array(found).reshape(-1, 2)


def _halved(px: Vector) -> list[Vector]:
    """One process, or two of equal height where there is too much for one and no waist."""
    if not len(px) or np.ptp(px[:, 0]) <= TALLEST_MM:
        return [px]
    below = px[:, 0] > (px[:, 0].min() + px[:, 0].max()) / 2
    return [px[~below], px[below]]


def _without_specks(mask: Mask, smallest_mm2: float, spacing: Spacing) -> Mask:
    parts, count = ndimage.label(mask)
    areas = np.bincount(parts.ravel(), minlength=count + 1) * (spacing[0] * spacing[1])
    return mask & (areas >= smallest_mm2)[parts]


def _paired(left: Vector, right: Vector, lean: Vector, spacing: Spacing) -> list[Level]:
    """Levels of left and right processes, in order, no line crossing another.

    The least total height of right ends above or below where their level should have them, by
    dynamic programming; one left alone costs half a pitch.
    """
    alone = 0.5 * _usual(np.concatenate([np.diff(left[:, 0]), np.diff(right[:, 0])]))
    total = np.add.outer(np.arange(len(left) + 1), np.arange(len(right) + 1)) * alone
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            together = total[i, j] + _misfit(a, b, lean, spacing)
            total[i + 1, j + 1] = min(together, total[i, j + 1] + alone, total[i + 1, j] + alone)
    pairs, i, j = [], len(left), len(right)
    while i and j:
        if total[i, j] == total[i - 1, j] + alone:
            i -= 1
        elif total[i, j] == total[i, j - 1] + alone:
            j -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append(_level(PROCESS, left[i], right[j]))
    return pairs


def _misfit(left: Vector, right: Vector, lean: Vector, spacing: Spacing) -> float:
    """How far, in mm, a pair is from square to the midline; infinite for what is no pair."""
    down, across = right - left
    row = int(np.clip((left[0] + right[0]) / 2 / spacing[0], 0, len(lean) - 1))
    if not REACH_MM < across < 3.2 * REACH_MM or abs(down) > across:
        return float("inf")
    return float(abs(down - across * np.tan(lean[row])))


def _lumps(label: Labels, spacing: Spacing) -> list[Vector]:
    """Px (y, x), mm, of each lump; those that touch are taken apart, pieces of one put together."""
    area = spacing[0] * spacing[1]
    parts, count = ndimage.label(_without_specks(label == LUMP, SMALLEST_MM2[LUMP] / 8, spacing))
    pieces = [
        piece
        for number in range(1, count + 1)
        for piece in _apart(np.argwhere(parts == number) * np.array(spacing), spacing)
    ]
    return [x for x in _together(pieces) if len(x) * area >= SMALLEST_MM2[LUMP]]


def _together(pieces: list[Vector]) -> list[Vector]:
    """Joins any two whose union is no higher and longer than one lump."""
    joined: list[Vector] = []
    for piece in sorted(pieces, key=len, reverse=True):
        for i, other in enumerate(joined):
            if np.linalg.norm(piece.mean(axis=0) - other.mean(axis=0)) < 2 * WING_MM:
                union = np.concatenate([other, piece])
                if _extent(union, 0) <= PIECES_HEIGHT_MM and _extent(union, 1) <= 2.5 * WING_MM:
                    joined[i] = union
                    break
        else:
            joined.append(piece)
    return joined


def _apart(px: Vector, spacing: Spacing) -> list[Vector]:
    """One part, or where it is too tall for a lump, its pieces, by shortest straight cuts."""
    if _extent(px, 0) <= LUMP_HEIGHT_MM:
        return [px]
    tilts = np.radians(np.arange(-STEEPEST_DEG, STEEPEST_DEG + 1, 5))
    cuts = [_cut(px, tilt, spacing) for tilt in tilts]
    _, below = min(cuts, key=lambda x: x[0])
    if below.all() or not below.any():
        return [px]
    return [*_apart(px[~below], spacing), *_apart(px[below], spacing)]


def _cut(px: Vector, tilt: float, spacing: Spacing) -> tuple[float, Mask]:
    """(length in mm, px below) of the shortest cut at a tilt that leaves a fifth on each side."""
    down = px[:, 0] * np.cos(tilt) - px[:, 1] * np.sin(tilt)
    step = spacing[0]
    rows = ((down - down.min()) / step).astype(np.intp)
    width = ndimage.uniform_filter1d(np.bincount(rows).astype(float), 3) * spacing[1]
    first, last = np.quantile(rows, [0.2, 0.8]).astype(np.intp)
    at = first + int(width[first : last + 1].argmin())
    return float(width[at]), rows > at


def _extent(px: Vector, axis: int) -> float:
    """Along the shorter (0) or the longer (1) axis, mm, stray px aside."""
    if len(px) < 3:
        return 0.0
    return float(np.ptp(np.quantile((px - px.mean(axis=0)) @ _axes(px)[:, axis], [0.01, 0.99])))


def _axes(px: Vector) -> Vector:
    """[2, 2] unit columns (y, x): the shorter and the longer principal axis."""
    return np.asarray(np.linalg.eigh(np.cov(px.T))[1])


def _lump(px: Vector) -> Level:
    """The line through its wing ends: what lies past 0.7 of its half length on either side."""
    centre, along = px.mean(axis=0), _axes(px)[:, 1]
    at = (px - centre) @ (along * (np.sign(along[1]) or 1.0))
    low, high = np.quantile(at, [0.02, 0.98])
    past = (at - (low + high) / 2) / ((high - low) / 2)
    level = _level(LUMP, px[past < -WING_END].mean(axis=0), px[past > WING_END].mean(axis=0))
    return replace(level, y_mm=float(centre[0]), x_mm=float(centre[1]))


def _smoothed(levels: list[Level]) -> list[Level]:
    """Each tilt from a parabola through it and its neighbours, weighted by their distance.

    The angle between the most tilted levels takes the largest error on each side, so noise widens
    it: by 1.2 degrees as measured, against 0.4 after this.  A parabola leaves a curve's top alone.
    """
    y, tilt = (np.array([getattr(x, name) for x in levels]) for name in ("y_mm", "tilt_deg"))
    off = (y - y[:, None]) / _pitch(levels) if len(levels) else np.zeros((0, 0))
    weights = np.exp(-0.5 * (off / SMOOTHING_LEVELS) ** 2)
    fits = [_at_zero(*row, tilt) for row in zip(off, weights, strict=True)]
    return [replace(x, tilt_deg=fit) for x, fit in zip(levels, fits, strict=True)]


def _at_zero(x: Vector, weights: Vector, values: Vector) -> float:
    """Of the parabola of least weighted squares through (x, values); of a line, where so few."""
    powers = np.stack([x**k for k in range(min(3, len(x)))], axis=1)
    root = np.sqrt(weights)
    return float(np.linalg.lstsq(powers * root[:, None], values * root, rcond=1e-6)[0][0])


def _pitch(levels: Sequence[Level]) -> float:
    """Median from level to level, mm."""
    return _usual(np.diff([x.y_mm for x in levels]))


def _usual(steps: Vector) -> float:
    return float(np.clip(np.median(steps), *PITCH_MM)) if len(steps) else USUAL_PITCH_MM


def _confidence(levels: Sequence[Level], processes: int) -> float:
    """Processes that have a twin, steps within two fifths of the usual, levels not passed over.

    Each a share of all; fewer than six levels make so much less of a spine.
    """
    if len(levels) < 2:
        return 0.0
    steps = np.diff([x.y_mm for x in levels]) / _pitch(levels)
    paired = 2 * sum(x.label == PROCESS for x in levels) / processes if processes else 1.0
    regular = np.mean(np.abs(steps - 1) < 0.4)
    present = len(levels) / (len(levels) + np.maximum(np.rint(steps) - 1, 0).sum())
    return float(paired * regular * present * min(1.0, len(levels) / 6))
