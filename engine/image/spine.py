"""Reads a spine from a label map: vertebral levels, their tilts, and the ultrasound curve angles.

All bounds on bone sizes are in millimetres, wide enough for any patient, and angles are measured in
millimetres too, so the result does not depend on the px.  A map of noise is no error: it gives few
levels and little confidence.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from .frame import Labels, Mask, Placement

PROCESS, LUMP = 1, 3  # labels: a transverse process, a lumbar lump
THORACIC = 12  # landmark rows of pairs of processes; the rows after them are lumps

MAP_MM = (10.0, 4000.0)  # least and greatest side of a map that a spine is looked for in
REACH_MM = 20.0  # from the midline to a process
PROCESS_MM = 8.0  # half the width of a process
WING_MM = 25.0  # from the midline to the end of a lump's wing
WING_END = 0.7  # of half a lump's length; landmarks lie beyond
PITCH_MM = (15.0, 34.0)  # least and greatest distance of neighbouring levels
USUAL_PITCH_MM = 24.0
SMALLEST_MM2 = {PROCESS: 35.0, LUMP: 220.0}  # about a fifth of the usual area
TALLEST_MM = 27.0  # a single process is no taller
LUMP_HEIGHT_MM = 34.0  # a single lump is no taller, across its tilt
PIECES_HEIGHT_MM = 27.0  # of joined pieces; two small neighbours are taller than that
STEEPEST_DEG = 50.0  # of a cut
SMOOTHING_LEVELS = 1.0  # standard deviation of the weights of neighbours, in levels

Vector = npt.NDArray[np.float64]
Spacing = tuple[float, float]  # (y, x) mm of a px


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One vertebra in a label map; positions are those of px centres on the frame."""

    label: int  # PROCESS: a pair of transverse processes; LUMP: a lumbar lump
    y_mm: float
    x_mm: float
    tilt_deg: float  # of the line through the pair or along the lump, clockwise positive


@dataclass(frozen=True, slots=True, kw_only=True)
class Spine:
    """Levels from top to bottom, and the angle between the most tilted ones of each region."""

    levels: tuple[Level, ...]
    thoracic_deg: float  # NaN where there are fewer than two levels
    lumbar_deg: float
    confidence: float  # 0..1: (paired processes) x (regular pitch) x (no level missing between)


NO_SPINE = Spine(levels=(), thoracic_deg=np.nan, lumbar_deg=np.nan, confidence=np.nan)


def can_read(label: Labels, spacing_mm: Spacing) -> bool:
    """Whether the size of a px is known, and makes a map [H, W] that can hold a spine."""
    sizes = np.multiply(label.shape, spacing_mm)  # NaN is within no bounds
    return bool(((sizes >= MAP_MM[0]) & (sizes <= MAP_MM[1])).all())


def read_spine(label: Labels, spacing_mm: Spacing) -> Spine:
    """Reads a label map [H, W] of 0 background, 1 process, 2 rib, 3 lump.

    Where the spacing is unknown (NaN), or makes a map that is far too small or large for a spine,
    nothing can be read: NO_SPINE.
    """
    if not can_read(label, spacing_mm):
        return NO_SPINE
    middle = _find_midline(label, spacing_mm)
    left, right = (_find_processes(label, middle, side, spacing_mm) for side in (-1, 1))
    pairs = _pair_processes(left, right, _measure_lean(middle, spacing_mm), spacing_mm)
    lumps = [_lump(part) for part in _find_lumps(label, spacing_mm)]
    levels = sorted(pairs + lumps, key=lambda x: x.y_mm)
    return _spine(_smooth_tilts(levels), _confidence(levels, len(left) + len(right)))


def spine_of_landmarks(
    landmarks: npt.NDArray[np.floating], placement: Placement, spacing_mm: Spacing
) -> Spine:
    """The true spine, from landmarks [18, 2, 2]: level x (left, right) x (y, x), in image px.

    Rows 0..11 are pairs of processes, the rest are ends of lumps; a row with a NaN has no level.
    `spacing_mm` is that of frame px, as everywhere in this module.
    """
    origin = np.array([placement.top, placement.left])
    at = (origin + (landmarks + 0.5) * placement.scale - 0.5) * np.array(spacing_mm)
    levels = [
        _level(PROCESS if row < THORACIC else LUMP, *ends)
        for row, ends in enumerate(at)
        if np.isfinite(ends).all()
    ]
    return _spine(sorted(levels, key=lambda x: x.y_mm), 1.0)


def angle_levels(spine: Spine) -> tuple[tuple[Level, Level] | None, ...]:
    """The two levels, (thoracic, lumbar), between which each angle is: the most tilted either way.

    None where a region has fewer than two levels.
    """
    regions = ([x for x in spine.levels if x.label == label] for label in (PROCESS, LUMP))
    tilt = lambda x: x.tilt_deg
    return tuple((min(x, key=tilt), max(x, key=tilt)) if len(x) > 1 else None for x in regions)


def compare_levels(before: Spine, after: Spine) -> tuple[int, int]:
    """Counts levels (lost, invented): those without a partner in the other spine.

    Partners have the same label and lie within half a pitch along the spine and one reach across
    it.  A level has at most one partner; the nearest pairs are matched first.
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
    partners: dict[int, int] = {}  # index before: index after
    for _, i, j in near:
        if i not in partners and j not in partners.values():
            partners[i] = j
    return len(before.levels) - len(partners), len(after.levels) - len(partners)


def _spine(levels: list[Level], confidence: float) -> Spine:
    thoracic, lumbar = (_curve_angle(levels, x) for x in (PROCESS, LUMP))
    return Spine(
        levels=tuple(levels), thoracic_deg=thoracic, lumbar_deg=lumbar, confidence=confidence
    )


def _curve_angle(levels: Sequence[Level], label: int) -> float:
    tilts = [x.tilt_deg for x in levels if x.label == label]
    return max(tilts) - min(tilts) if len(tilts) > 1 else np.nan


def _level(label: int, left: Vector, right: Vector) -> Level:
    """The level between its two ends (y, x), mm."""
    (y, x), run = (left + right) / 2, right - left
    tilt = float(np.degrees(np.arctan2(run[0], run[1])))
    return Level(label=label, y_mm=float(y), x_mm=float(x), tilt_deg=tilt)


def _find_midline(label: Labels, spacing: Spacing) -> Vector:
    """[H] px: the smooth course with processes on both sides and lumps across it.

    It is the path of the greatest score, by dynamic programming, that moves at most one px a row.
    """
    score = _score_midline(label, spacing)
    rows, columns = score.shape
    cost = 0.1 * score.max() if score.max() > 0 else 1.0  # of a step to the side
    total = np.full((rows, columns + 2), -np.inf)  # score of the best path to a px, between walls
    total[0, 1:-1] = score[0]
    for above, here, gain in zip(total, total[1:], score[1:], strict=False):
        best = here[1:-1]
        np.maximum(above[:-2], above[2:], out=best)
        best -= cost
        np.maximum(best, above[1:-1], out=best)
        best += gain
    path = np.empty(rows)
    at = path[-1] = int(total[-1].argmax())
    for row in range(rows - 2, -1, -1):
        left, stay, right = total[row, at - 1 : at + 2].tolist()
        if max(left, right) - cost > stay:
            at += -1 if left > right else 1
        path[row] = at
    return np.asarray(ndimage.gaussian_filter1d(path - 1, USUAL_PITCH_MM / 2 / spacing[0]))


def _score_midline(label: Labels, spacing: Spacing) -> Vector:
    """[H, W]: how well each px fits as the midline of its row."""
    across = np.arange(-int(50 / spacing[1]), int(50 / spacing[1]) + 1) * spacing[1]
    beside = np.exp(-0.5 * ((np.abs(across) - REACH_MM) / PROCESS_MM) ** 2)
    pair = beside - 2 * np.exp(-0.5 * (across / PROCESS_MM) ** 2)
    wings = np.exp(-0.5 * (across / (0.5 * WING_MM)) ** 2)
    score = np.zeros(label.shape)
    for kind, kernel in ((PROCESS, pair), (LUMP, wings)):
        there = (label == kind).astype(np.float64)
        columns = there.any(axis=0)  # the others stay 0, as do rows far from any bone
        there[:, columns] = ndimage.gaussian_filter1d(
            there[:, columns], USUAL_PITCH_MM / 2 / spacing[0], axis=0
        )
        rows = there.any(axis=1)
        score[rows] += ndimage.correlate1d(there[rows], kernel, axis=1, mode="constant")
    return score


def _measure_lean(middle: Vector, spacing: Spacing) -> Vector:
    """[H] radians: the tilt of a line perpendicular to the midline."""
    slope = np.gradient(middle) * spacing[1] / spacing[0] if len(middle) > 1 else middle * 0
    return np.asarray(-np.arctan(slope))


def _find_processes(label: Labels, middle: Vector, side: int, spacing: Spacing) -> Vector:
    """[n, 2] centres (y, x) in mm of the processes on one side, from top to bottom.

    A process is a peak of the bone's width along y, so the pieces of a broken process count once,
    and processes that touch count separately.
    """
    beside = side * (np.arange(label.shape[1]) - middle[:, None]) > 0
    mask = _remove_specks((label == PROCESS) & beside, SMALLEST_MM2[PROCESS] / 2, spacing)
    width = ndimage.gaussian_filter1d(mask.sum(axis=1) * spacing[1], 3.0 / spacing[0])
    apart = 2 * int(0.55 * PITCH_MM[0] / spacing[0]) + 1
    tops = np.flatnonzero((width == ndimage.maximum_filter1d(width, apart)) & (width > 1.0))
    tops = tops[np.diff(tops, prepend=-apart) > apart // 2]  # a flat top counts once
    cuts = [a + int(width[a:b].argmin()) for a, b in pairwise(tops)]
    bounds = np.array([0, *cuts, label.shape[0]])
    centres = []
    for a, b in pairwise(bounds):
        for px in _halve_tall((np.argwhere(mask[a:b]) + np.array([a, 0])) * np.array(spacing)):
            if len(px) * spacing[0] * spacing[1] >= SMALLEST_MM2[PROCESS]:
                centres.append(px.mean(axis=0))
    return np.array(centres).reshape(-1, 2)


def _halve_tall(px: Vector) -> list[Vector]:
    """One process, or two of equal height where the px are too tall for one."""
    if not len(px) or np.ptp(px[:, 0]) <= TALLEST_MM:
        return [px]
    below = px[:, 0] > (px[:, 0].min() + px[:, 0].max()) / 2
    return [px[~below], px[below]]


def _remove_specks(mask: Mask, smallest_mm2: float, spacing: Spacing) -> Mask:
    parts, count = ndimage.label(mask)
    areas = np.bincount(parts.ravel(), minlength=count + 1) * (spacing[0] * spacing[1])
    return mask & (areas >= smallest_mm2)[parts]


def _pair_processes(left: Vector, right: Vector, lean: Vector, spacing: Spacing) -> list[Level]:
    """Pairs left and right processes into levels whose lines do not cross.

    Dynamic programming finds the least total misfit; a process without a partner costs half a
    pitch.
    """
    alone = 0.5 * _usual_step(np.concatenate([np.diff(left[:, 0]), np.diff(right[:, 0])]))
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
    """How far, in mm, a pair is from perpendicular to the midline; infinite where it is none."""
    down, across = right - left
    row = int(np.clip((left[0] + right[0]) / 2 / spacing[0], 0, len(lean) - 1))
    if not REACH_MM < across < 3.2 * REACH_MM or abs(down) > across:
        return float("inf")
    return float(abs(down - across * np.tan(lean[row])))


def _find_lumps(label: Labels, spacing: Spacing) -> list[Vector]:
    """Px (y, x), mm, of each lump, after touching lumps are cut apart and pieces are joined."""
    area = spacing[0] * spacing[1]
    parts, count = ndimage.label(_remove_specks(label == LUMP, SMALLEST_MM2[LUMP] / 8, spacing))
    pieces = [
        piece
        for number in range(1, count + 1)
        for piece in _cut_apart(np.argwhere(parts == number) * np.array(spacing), spacing)
    ]
    return [x for x in _join_pieces(pieces) if len(x) > 2 and len(x) * area >= SMALLEST_MM2[LUMP]]


def _join_pieces(pieces: list[Vector]) -> list[Vector]:
    """Joins pieces whose union is no taller and no longer than one lump."""
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


def _cut_apart(px: Vector, spacing: Spacing) -> list[Vector]:
    """Cuts px that are too tall for one lump along the shortest straight lines."""
    if _extent(px, 0) <= LUMP_HEIGHT_MM:
        return [px]
    tilts = np.radians(np.arange(-STEEPEST_DEG, STEEPEST_DEG + 1, 5))
    cuts = [_find_cut(px, tilt, spacing) for tilt in tilts]
    _, below = min(cuts, key=lambda x: x[0])
    if below.all() or not below.any():
        return [px]
    return [*_cut_apart(px[~below], spacing), *_cut_apart(px[below], spacing)]


def _find_cut(px: Vector, tilt: float, spacing: Spacing) -> tuple[float, Mask]:
    """The shortest cut at a tilt, a fifth of the px or more on each side: (length mm, px below)."""
    down = px[:, 0] * np.cos(tilt) - px[:, 1] * np.sin(tilt)
    step = spacing[0]
    rows = ((down - down.min()) / step).astype(np.intp)
    width = ndimage.uniform_filter1d(np.bincount(rows).astype(float), 3) * spacing[1]
    first, last = np.quantile(rows, [0.2, 0.8]).astype(np.intp)
    at = first + int(width[first : last + 1].argmin())
    return float(width[at]), rows > at


def _extent(px: Vector, axis: int) -> float:
    """Extent along the shorter (0) or the longer (1) axis, mm, without stray px."""
    if len(px) < 3:
        return 0.0
    return float(np.ptp(np.quantile((px - px.mean(axis=0)) @ _axes(px)[:, axis], [0.01, 0.99])))


def _axes(px: Vector) -> Vector:
    """The shorter and the longer principal axis, as unit columns (y, x) of [2, 2]."""
    return np.asarray(np.linalg.eigh(np.cov(px.T))[1])


def _lump(px: Vector) -> Level:
    """The level along a lump: the line through its wing ends, beyond WING_END on either side."""
    centre, along = px.mean(axis=0), _axes(px)[:, 1]
    at = (px - centre) @ (along * (np.sign(along[1]) or 1.0))
    low, high = np.quantile(at, [0.02, 0.98])
    past = (at - (low + high) / 2) / ((high - low) / 2)
    level = _level(LUMP, px[past < -WING_END].mean(axis=0), px[past > WING_END].mean(axis=0))
    return replace(level, y_mm=float(centre[0]), x_mm=float(centre[1]))


def _smooth_tilts(levels: list[Level]) -> list[Level]:
    """Replaces each tilt by that of a parabola through it and its neighbours, weighted by distance.

    A curve angle spans the most tilted levels, so noise widens it; smoothing reduces that.  A
    parabola does not flatten the top of a curve.
    """
    y, tilt = (np.array([getattr(x, name) for x in levels]) for name in ("y_mm", "tilt_deg"))
    off = (y - y[:, None]) / _pitch(levels) if len(levels) else np.zeros((0, 0))
    weights = np.exp(-0.5 * (off / SMOOTHING_LEVELS) ** 2)
    fits = [_fit_at_zero(*row, tilt) for row in zip(off, weights, strict=True)]
    return [replace(x, tilt_deg=fit) for x, fit in zip(levels, fits, strict=True)]


def _fit_at_zero(x: Vector, weights: Vector, values: Vector) -> float:
    """Value at 0 of the weighted least-squares parabola; of a line through fewer points."""
    powers = np.stack([x**k for k in range(min(3, len(x)))], axis=1)
    root = np.sqrt(weights)
    return float(np.linalg.lstsq(powers * root[:, None], values * root, rcond=1e-6)[0][0])


def _pitch(levels: Sequence[Level]) -> float:
    """Median distance from level to level, mm."""
    return _usual_step(np.diff([x.y_mm for x in levels]))


def _usual_step(steps: Vector) -> float:
    return float(np.clip(np.median(steps), *PITCH_MM)) if len(steps) else USUAL_PITCH_MM


def _confidence(levels: Sequence[Level], processes: int) -> float:
    """The product of three shares, and less for fewer than six levels.

    They are: processes that are paired, steps within two fifths of the usual one, and levels that
    are present where the steps suggest one.
    """
    if len(levels) < 2:
        return 0.0
    steps = np.diff([x.y_mm for x in levels]) / _pitch(levels)
    paired = 2 * sum(x.label == PROCESS for x in levels) / processes if processes else 1.0
    regular = np.mean(np.abs(steps - 1) < 0.4)
    present = len(levels) / (len(levels) + np.maximum(np.rint(steps) - 1, 0).sum())
    return float(paired * regular * present * min(1.0, len(levels) / 6))
