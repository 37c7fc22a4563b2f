"""Synthetic scans of a scoliotic spine: five coronal depths, their clean target, mask and angles.

Bone is dark and muscle bright, as in volume projection imaging.  A case depends on (seed, index)
alone: how many others are drawn, and by which process, changes no byte.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from . import texture
from .anatomy import LUMP, PROCESS, RIB, Anatomy, anatomy, curve_angles
from .shadow import DEPTHS, Shape, Valley, darkness, distances, transmission
from .texture import Field, Mask, stream
from .tissue import Clutter, Tissue

VERSION = 3  # increase it with every change of the pictures
SPACING_MM = 0.45
OPTIMAL = np.array([0.109, 0.205, 0.252, 0.259, 0.174])  # how often each depth is the best one
TONES = 4096  # steps of a tone curve
WHITE = 2.0  # raw intensity at its end

Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Phantom:
    """One case; all pictures have one grid [y, x] of `pixel_spacing_mm`."""

    depths: Image  # [5, y, x] superficial to deep, 0 outside the scan strip
    clean: Image  # [y, x] same tone curve, no artifact, no speckle; 0 only outside the strip
    label: Image  # [y, x] 0 background, 1 transverse process, 2 rib, 3 lumbar lump
    landmarks: NDArray[np.float32]  # [18, 2, 2] T1..T12 L1..L6 x (left, right) x (y, x) px, or NaN
    angles_deg: NDArray[np.float32]  # [2] ultrasound curve angle, thoracic and lumbar
    optimal_depth: int  # 0-based
    artifact_free: bool
    difficult: bool
    pixel_spacing_mm: float = SPACING_MM

    @property
    def extent(self) -> tuple[int, int]:
        return self.clean.shape[0], self.clean.shape[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """How well a patient can be imaged."""

    share: float  # of all cases
    bone: tuple[float, float]  # darkness of bone, low and high
    clutter: tuple[float, float]  # amount of clutter, low and high
    pale: float  # how much a process may pale at a depth; other bone pales less
    looks: tuple[float, float]  # independent speckle patterns that a projection averages
    rows: float  # spread of the row gain
    wander: float  # depths between a bone's best depth and the case's
    hidden: float  # chance that a bone is lost at the optimal depth and visible at another
    combs: tuple[int, int]  # number of belts of combed rows, low and high
    bands: tuple[int, int]  # number of bands of dead rows
    wedges: tuple[int, int]  # number of wedges of lost contact
    drops: tuple[int, int]  # number of dropouts


EASY = Grade(
    share=0.35,
    bone=(0.79, 0.84),
    clutter=(0.07, 0.18),
    pale=0.05,
    looks=(150, 250),
    rows=0.012,
    wander=0.2,
    hidden=0.0,
    combs=(0, 0),
    bands=(0, 0),
    wedges=(0, 0),
    drops=(0, 0),
)
AVERAGE = Grade(
    share=0.35,
    bone=(0.79, 0.85),
    clutter=(0.1, 0.22),
    pale=0.18,
    looks=(80, 160),
    rows=0.02,
    wander=0.35,
    hidden=0.03,
    combs=(0, 2),
    bands=(0, 2),
    wedges=(0, 2),
    drops=(0, 3),
)
DIFFICULT = Grade(
    share=0.30,
    bone=(0.72, 0.83),
    clutter=(0.21, 0.52),
    pale=0.45,
    looks=(85, 170),
    rows=0.017,
    wander=0.45,
    hidden=0.09,
    combs=(0, 2),
    bands=(1, 4),
    wedges=(1, 4),
    drops=(2, 5),
)
GRADES = (EASY, AVERAGE, DIFFICULT)


def phantom(seed: int, index: int) -> Phantom:
    """Draws case `index` of the endless series `seed`."""
    draw = partial(stream, seed, index)
    body = anatomy(draw("anatomy"))
    grade = _grade(draw("grade"))
    optimal = int(draw("optimal").choice(DEPTHS, p=OPTIMAL / OPTIMAL.sum()))
    scan = _scan(seed, index, body, grade, optimal)
    curve = _tone_curve(draw("tone"))
    return Phantom(
        depths=np.stack([_develop(x, curve, body.inside, scan.dead) for x in scan.depths]),
        clean=_develop(scan.clean, curve, body.inside),
        label=_label(body, scan.distances),
        landmarks=body.landmarks,
        angles_deg=curve_angles(body.landmarks),
        optimal_depth=optimal,
        artifact_free=grade is EASY,
        difficult=grade is DIFFICULT,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scan:
    depths: list[Field]  # [y, x] each, 1 is white
    clean: Field
    dead: Field  # gain of the rows that no voxel hit, 0 where black
    distances: list[Shape]


def _grade(rng: np.random.Generator) -> Grade:
    return GRADES[int(rng.choice(3, p=[grade.share for grade in GRADES]))]


def _scan(seed: int, index: int, body: Anatomy, grade: Grade, optimal: int) -> _Scan:
    draw = partial(stream, seed, index)
    bones = distances(draw("wobble"), body)
    grain = 1 + 0.08 * texture.smooth(draw("grain"), body.extent, (7.0, 11.0))
    tissue = Tissue.draw(draw("tissue"), body)
    defects = draw("defects")
    dead = lost_rows(defects, body.extent, grade)
    loss = texture.contact_loss(defects, body.inside, _count(defects, grade.wedges))
    loss *= texture.dropout(defects, body.extent[0], _count(defects, grade.drops))
    dark = darkness(draw("bone"), body.bones, optimal, grade)
    ideal = darkness(draw("bone"), body.bones, optimal, EASY)[:, optimal]
    valley = Valley.draw(draw("valley"), body)
    amount = draw("clutter").uniform(*grade.clutter)
    clutter = Clutter.draw(draw("common"), body, amount)
    depths = []
    for depth in range(DEPTHS):
        rng, off = draw(f"depth {depth}"), float(depth - optimal)
        image = tissue.spoil(rng, amount) * transmission(grain, bones, dark[:, depth], off)
        groove = valley.light(off, min(1.0, 2 * amount))
        image = clutter.veil(rng, image * groove, off, tissue.light**0.8 * groove**0.85)
        depths.append(_expose(rng, image * loss, grade, off))
    clean = tissue.calm * transmission(grain, bones, ideal, 0.0) * valley.light(0.0)
    return _Scan(depths=depths, clean=clean, dead=dead, distances=bones)


def lost_rows(rng: np.random.Generator, extent: tuple[int, int], grade: Grade) -> Field:
    """The gain [y, x] of rows that no voxel hit; drawn before a case's other defects."""
    return texture.dashes(rng, extent, _count(rng, grade.bands))


def _count(rng: np.random.Generator, span: tuple[int, int]) -> int:
    return int(rng.integers(span[0], span[1] + 1))


def _expose(rng: np.random.Generator, image: Field, grade: Grade, off: float) -> Field:
    """Adds speckle, row gain and loss of signal; off: depths from the optimal one."""
    looks = rng.uniform(*grade.looks) / (1 + 0.15 * off * off)
    image = image * texture.speckle(rng, image.shape, looks)
    image *= texture.row_gain(rng, image.shape, grade.rows)
    image = texture.comb(rng, image, _count(rng, grade.combs))
    gain = np.exp(-0.12 * max(off, 0.0)) * (1 - 0.04 * max(-off, 0.0))
    return image * np.float32(gain)


def _tone_curve(rng: np.random.Generator) -> Image:
    """Draws the monotone tone curve [TONES] of a stack, near the tone of all scans."""
    gamma = 1.1 * 1.25 ** rng.uniform(-1, 1)
    x = np.linspace(0, WHITE, TONES) * rng.uniform(1.02, 1.12)
    shoulder = x / (1 + x**5) ** 0.2
    return np.asarray(np.rint(255 * np.clip(shoulder**gamma, 0, 1)), dtype=np.uint8)


def _develop(raw: Field, curve: Image, inside: Mask, dead: Field | None = None) -> Image:
    """Applies the tone curve: grey levels, at least 1 inside the strip, 0 elsewhere."""
    tones = np.asarray(np.clip(raw / WHITE, 0, 1) * (TONES - 1), dtype=np.uint16)
    image = np.maximum(curve[tones], 1) * inside
    return image if dead is None else np.asarray(np.rint(image * dead), dtype=np.uint8)


def _label(body: Anatomy, distances: list[Shape]) -> Image:
    """The mask [y, x]; a process lies over its rib."""
    out = np.zeros(body.extent, dtype=np.uint8)
    for kind in (RIB, LUMP, PROCESS):
        for bone, window, distance in distances:
            if bone.label == kind:
                out[window][distance > 0] = kind
    return out * body.inside
