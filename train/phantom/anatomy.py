"""The patient of a phantom: a scoliotic spine, its bones, and the strip that the probe scanned.

Everything is in px of a 0.45 mm grid, (y, x) with y down; angles are degrees, clockwise positive.
Sizes are those measured on one real image at about 0.18 mm/px, times 0.4.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from .texture import Field, Mask, wander

THORACIC = 12  # landmark rows 0..11 are T1..T12
LEVELS = 18  # landmark rows 12..17 are L1..L6
PROCESS, RIB, LUMP = 1, 2, 3  # labels

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spine:
    """The vertebral levels in view, from top to bottom, and the midline."""

    levels: NDArray[np.intp]  # [n] landmark row of each level
    row: Vector  # [n] px
    tilt: Vector  # [n] degrees of the line through the pair
    midline: Vector  # [y] px, x of the spinous processes
    pitch: float  # px between levels, mean

    def thoracic(self) -> NDArray[np.bool_]:
        return self.levels < THORACIC


@dataclass(frozen=True, slots=True, kw_only=True)
class Bone:
    """One dark shape; `side` is -1 left, +1 right, 0 both."""

    label: int
    level: int  # landmark row
    side: int
    y: float
    x: float
    high: float  # half height, px
    wide: float  # half width, px
    tilt: float  # radians
    bend: float  # px: rise of a rib towards the edge, droop of a lump's wings


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """One patient, and one scan of the back."""

    extent: tuple[int, int]
    spine: Spine
    bones: tuple[Bone, ...]
    landmarks: NDArray[np.float32]  # [18, 2, 2]
    inside: Mask  # [y, x] the scan strip
    breath: Vector  # [y] px by which breathing moved each row sideways

    @property
    def lumbar_row(self) -> float:
        """The row of L1, where the lumbar part begins."""
        return float(self.spine.row[~self.spine.thoracic()][0])


def anatomy(rng: np.random.Generator) -> Anatomy:
    """Draws one patient and one scan of the back."""
    rows = int(rng.integers(880, 1041))
    spine = _spine(rng, rows)
    columns, middle = _columns(rng, spine.midline)
    spine = _shifted(spine, columns / 2 - middle)
    breath = _breath(rng, rows)
    inside = _strip(rng, (rows, columns), spine.midline + breath)
    bones = tuple(_bones(rng, spine))
    return Anatomy(
        extent=(rows, columns),
        spine=spine,
        bones=bones,
        landmarks=_landmarks(bones, inside, breath),
        inside=inside,
        breath=breath,
    )


def curve_angles(landmarks: NDArray[np.float32]) -> NDArray[np.float32]:
    """Ultrasound curve angles [thoracic, lumbar] in degrees, for square pixels.

    Each is the angle between the two most tilted lines: through paired processes, or along lumps.
    """
    run = landmarks[:, 1] - landmarks[:, 0]
    tilt = np.degrees(np.arctan2(run[:, 0], run[:, 1]))
    spans = [np.ptp(part[~np.isnan(part)]) for part in (tilt[:THORACIC], tilt[THORACIC:])]
    return np.array(spans, dtype=np.float32)


def _spine(rng: np.random.Generator, rows: int) -> Spine:
    levels = _levels(rng)
    row = _level_rows(rng, levels, rows)
    tilt = _tilts(rng, levels)
    knots = np.concatenate([[-60.0], row, [row[-1] + 140.0]])
    slope = PchipInterpolator(knots, np.concatenate([[0.4 * tilt[0]], tilt, [0.2 * tilt[-1]]]))
    lean = np.tan(np.radians(slope(np.arange(rows, dtype=np.float64))))
    return Spine(
        levels=levels,
        row=row,
        tilt=tilt,
        midline=_midline(rng, lean),
        pitch=float(np.diff(row).mean()),
    )


def _midline(rng: np.random.Generator, lean: Vector) -> Vector:
    """The course of the spinous processes, px: the sum of the tilts, upright and within 88 px.

    The probe follows its patient, and the grid is 260 px wide.
    """
    y = np.linspace(-0.5, 0.5, len(lean))
    course = -np.cumsum(lean)
    course -= course.mean()
    course -= y * (0.7 * (course @ y) / (y @ y) + rng.normal(0, 8))
    return np.asarray(course * min(1.0, 88 / np.ptp(course)))


def _levels(rng: np.random.Generator) -> NDArray[np.intp]:
    """11 or 12 thoracic and 5 or 6 lumbar levels, 17 at most; T1 is the one that may be absent."""
    first, last = [(1, 17), (1, 18), (0, 17)][int(rng.choice(3, p=[0.45, 0.4, 0.15]))]
    return np.arange(first, last)


def _level_rows(rng: np.random.Generator, levels: NDArray[np.intp], rows: int) -> Vector:
    """The rows of the levels; their pitch grows downwards, 42-65 px with a median near 54."""
    pitch = np.linspace(0.86, 1.1, len(levels) - 1) * rng.normal(1, 0.045, len(levels) - 1)
    top, bottom = rng.uniform(52, 68), rows - rng.uniform(80, 105)
    down = np.concatenate([[0.0], np.cumsum(pitch)]) / pitch.sum()
    return np.asarray(top + down * (bottom - top))


def _tilts(rng: np.random.Generator, levels: NDArray[np.intp]) -> Vector:
    """The tilt of each level: right thoracic, left lumbar or double curve; largest span = Cobb.

    Cobb 24.8 +- 9.7 degrees, 10 to 68, as in the published Scolioscan cohorts.
    """
    cobb = min(10 + rng.gamma(2.33, 6.36), 68.0)
    thoracic, lumbar = _shares(rng)
    lower = min(0.55, 0.85 * min(thoracic, lumbar)) * rng.uniform(0.9, 1.1)
    end = rng.normal([-0.5, 4.2, 11.3, 15.3, 17.8], [0.1, 0.7, 0.5, 0.5, 0.1])
    tilt = np.array([0.1, -(thoracic - lower), lower, -(lumbar - lower), 0.02])
    tilt[0] = rng.uniform(-0.3, 0.3) * thoracic
    at = PchipInterpolator(end, tilt * rng.choice([1, -1], p=[0.85, 0.15]))(levels)
    at = at + rng.normal(0, 0.025, len(levels))
    spans = np.ptp(at[levels < THORACIC]), np.ptp(at[levels >= THORACIC])
    return np.asarray(at * cobb / max(spans))


def _shares(rng: np.random.Generator) -> tuple[float, float]:
    """The relative sizes of the thoracic and the lumbar curve; the major one is 1."""
    kind = rng.choice(3, p=[0.4, 0.25, 0.35])
    minor = rng.uniform(0.35, 0.6) if kind < 2 else rng.uniform(0.65, 1.0)
    major_is_thoracic = kind == 0 or (kind == 2 and rng.random() < 0.6)
    return (1.0, minor) if major_is_thoracic else (minor, 1.0)


def _columns(rng: np.random.Generator, midline: Vector) -> tuple[int, float]:
    """The width of the scan, 220..260 px, and the x of its middle."""
    low, high = midline.min(), midline.max()
    columns = int(np.clip(high - low + 175 + rng.uniform(0, 50), 220, 260))
    return columns, float((low + high) / 2)


def _shifted(spine: Spine, by: float) -> Spine:
    return Spine(
        levels=spine.levels,
        row=spine.row,
        tilt=spine.tilt,
        midline=spine.midline + by,
        pitch=spine.pitch,
    )


def _breath(rng: np.random.Generator, rows: int) -> Vector:
    """Sideways movement by breathing: one breath every 60 to 130 px, a px or two to either side."""
    phase = 2 * np.pi * np.arange(rows) / rng.uniform(60, 130) + 1.5 * wander(rng, rows, 90.0)
    return np.asarray(rng.uniform(0.2, 1.4) * np.sin(phase + rng.uniform(0, 2 * np.pi)))


def _strip(rng: np.random.Generator, shape: tuple[int, int], midline: Vector) -> Mask:
    """The scan strip: about 160 px wide, wavy, with a slanted top; it follows the spine loosely."""
    rows, columns = shape
    half = rng.uniform(75, 84) + 3 * wander(rng, rows, 300.0)
    off = np.clip(0.12 * (columns / 2 - midline) + 5 * wander(rng, rows, 220.0), -11, 11)
    middle = np.clip(midline + off, half + 4, columns - 5 - half)
    left = middle - half + _edge(rng, rows)
    right = middle + half + _edge(rng, rows)
    x = np.arange(columns)[None, :]
    y = np.arange(rows)[:, None]
    top = rng.uniform(22, 34) + rng.normal(0, 0.045) * (x - columns / 2)
    within = (x >= left[:, None]) & (x <= right[:, None]) & (y >= top) & (y < rows - 6)
    return np.asarray(within & (x > 1) & (x < columns - 2))


def _edge(rng: np.random.Generator, rows: int) -> Field:
    """The waves of one edge in px, sd about 3.6: steps of the hand, lost contact, jitter."""
    slow = 4.6 * wander(rng, rows, 45.0) + 1.8 * wander(rng, rows, 14.0)
    jitter = 0.15 * rng.standard_normal(rows, dtype=np.float32)
    return np.asarray(np.clip(slow, -12, 12) + jitter)


def _bones(rng: np.random.Generator, spine: Spine) -> list[Bone]:
    bones: list[Bone] = []
    apart = rng.uniform(41.5, 48)
    for level, row, tilt in zip(spine.levels, spine.row, np.radians(spine.tilt), strict=True):
        middle = float(spine.midline[int(row)])
        if level >= THORACIC:
            bones.append(_lump(rng, int(level), row, middle, tilt, spine.pitch))
            continue
        for side in (-1, 1):
            process = _process(rng, int(level), side, row, middle, tilt, apart)
            bones += [process, _rib(rng, process)]
    return bones


def _process(
    rng: np.random.Generator,
    level: int,
    side: int,
    row: float,
    middle: float,
    tilt: float,
    apart: float,
) -> Bone:
    """A transverse process: a blob about 35 px high and 31 wide, 75 to 99 px from its twin."""
    reach = apart * (1.0 - 0.05 * np.sin(level / 11 * np.pi)) + rng.normal(0, 1.2)
    return Bone(
        label=PROCESS,
        level=level,
        side=side,
        y=row + side * reach * np.sin(tilt) + rng.normal(0, 0.7),
        x=middle + side * reach * np.cos(tilt),
        high=rng.uniform(13.5, 19),
        wide=rng.uniform(13, 18.5),
        tilt=tilt + rng.normal(0, 0.35),
        bend=0.0,
    )


def _rib(rng: np.random.Generator, process: Bone) -> Bone:
    """A rib: it joins the process outside and rises towards the strip's edge; the lowest falls."""
    rise = rng.uniform(0.4, 0.9) if process.level == THORACIC - 1 else rng.normal(-0.26, 0.2)
    return Bone(
        label=RIB,
        level=process.level,
        side=process.side,
        y=process.y + rng.normal(-3, 2),
        x=process.x,
        high=rng.uniform(10.5, 15),
        wide=70.0,
        tilt=0.0,
        bend=rise,
    )


def _lump(
    rng: np.random.Generator, level: int, row: float, middle: float, tilt: float, pitch: float
) -> Bone:
    """A lumbar lump: a wing about 54 px high and 110 wide."""
    return Bone(
        label=LUMP,
        level=level,
        side=0,
        y=row,
        x=middle + rng.normal(0, 2),
        high=rng.uniform(0.37, 0.46) * pitch,
        wide=rng.uniform(49, 59),
        tilt=tilt,
        bend=rng.uniform(4, 12),
    )


def _landmarks(bones: tuple[Bone, ...], inside: Mask, breath: Vector) -> NDArray[np.float32]:
    """Landmarks [18, 2, 2]: level x (left, right) x (y, x) px; NaN if absent or off the strip."""
    marks = np.full((LEVELS, 2, 2), np.nan, dtype=np.float32)
    for bone in bones:
        if bone.label == PROCESS:
            marks[bone.level, (bone.side + 1) // 2] = bone.y, bone.x
        elif bone.label == LUMP:
            marks[bone.level] = [_wing(bone, -1), _wing(bone, 1)]
    marks[..., 1] += breath[np.clip(np.nan_to_num(marks[..., 0]), 0, len(breath) - 1).astype(int)]
    marks[~_within(marks, inside)] = np.nan
    return marks


def _within(marks: NDArray[np.float32], inside: Mask) -> NDArray[np.bool_]:
    at = np.nan_to_num(marks).astype(np.intp)
    y, x = (np.clip(at[..., k], 0, inside.shape[k] - 1) for k in (0, 1))
    return np.asarray(inside[y, x])


def _wing(bone: Bone, side: int) -> tuple[float, float]:
    """The end of a lump's wing: 0.7 of its half width along its tilt, on its drooping axis."""
    along, down = side * 0.7 * bone.wide, 0.5 * bone.bend
    sine, cosine = np.sin(bone.tilt), np.cos(bone.tilt)
    return bone.y + along * sine + down * cosine, bone.x + along * cosine - down * sine
