"""Synthetic scans of a scoliotic spine: five coronal depths, their clean target, mask and angles.

Bone is dark and muscle bright, as in volume projection imaging. A case is drawn from
(seed, index) alone: how many cases surround it, and who draws it, changes no byte.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from . import texture
from .anatomy import LUMP, PROCESS, RIB, Anatomy, anatomy, curve_angles
from .shadow import DEPTHS, Shape, Valley, darkness, distances, transmission
from .texture import Field, Mask, stream

VERSION = 2  # raise with any change of the pictures
SPACING_MM = 0.45
OPTIMAL = np.array([0.109, 0.205, 0.252, 0.259, 0.174])  # how often each depth is the best one
TONES = 4096  # steps of a tone curve

Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Phantom:
    """One case; the pictures share one grid [y, x] of `pixel_spacing_mm`."""

    depths: Image  # [5, y, x] superficial to deep, 0 outside the scan strip
    clean: Image  # [y, x] same tone curve, no artifact, no speckle; 0 exactly outside the strip
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
    looks: tuple[float, float]  # independent speckle patterns that a projection averages
    rows: float  # spread of the row gain
    own: float  # part of the tissue texture that a depth does not share
    wander: float  # depths by which a bone's best depth strays from the case's
    hidden: float  # chance that a bone is lost at the optimal depth and seen at another
    haze: float  # patches that veil the bones
    bands: tuple[int, int]  # of dead rows, low and high
    wedges: tuple[int, int]  # of contact loss
    drops: tuple[int, int]  # of signal


EASY = Grade(
    share=0.35,
    bone=(0.94, 0.97),
    looks=(280, 450),
    rows=0.005,
    own=0.05,
    wander=0.2,
    hidden=0.0,
    haze=0.02,
    bands=(0, 0),
    wedges=(0, 0),
    drops=(0, 0),
)
AVERAGE = Grade(
    share=0.35,
    bone=(0.90, 0.95),
    looks=(150, 250),
    rows=0.008,
    own=0.15,
    wander=0.35,
    hidden=0.02,
    haze=0.04,
    bands=(0, 2),
    wedges=(0, 2),
    drops=(0, 3),
)
DIFFICULT = Grade(
    share=0.30,
    bone=(0.70, 0.86),
    looks=(55, 100),
    rows=0.014,
    own=0.25,
    wander=0.45,
    hidden=0.09,
    haze=0.08,
    bands=(1, 3),
    wedges=(1, 4),
    drops=(2, 5),
)
GRADES = (EASY, AVERAGE, DIFFICULT)


def phantom(seed: int, index: int, *, raw_tone: bool = False) -> Phantom:
    """Case `index` of the endless series `seed`; `raw_tone` leaves the scanner's tone curve out."""
    draw = partial(stream, seed, index)
    body = anatomy(draw("anatomy"))
    grade = _grade(draw("grade"))
    optimal = int(draw("optimal").choice(DEPTHS, p=OPTIMAL / OPTIMAL.sum()))
    scan = _scan(seed, index, body, grade, optimal)
    curve = _raw_curve() if raw_tone else _tone_curve(draw("tone"), scan.depths[optimal], body)
    stack = [_developed(image, curve, body.inside, scan.dead) for image in scan.depths]
    return Phantom(
        depths=np.stack(stack),
        clean=_developed(scan.clean, curve, body.inside),
        label=_label(body, scan.distances),
        landmarks=body.landmarks,
        angles_deg=curve_angles(body.landmarks),
        optimal_depth=optimal,
        artifact_free=grade is EASY,
        difficult=grade is DIFFICULT,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scan:
    depths: list[Field]  # [y, x] each, raw tone in [0, 1]
    clean: Field
    dead: Mask
    distances: list[Shape]


def _grade(rng: np.random.Generator) -> Grade:
    return GRADES[int(rng.choice(3, p=[grade.share for grade in GRADES]))]


def _scan(seed: int, index: int, body: Anatomy, grade: Grade, optimal: int) -> _Scan:
    draw = partial(stream, seed, index)
    shape = body.extent
    bones = distances(draw("wobble"), body)
    grain = 1 + 0.04 * texture.smooth(draw("grain"), shape, (5.0, 12.0))
    muscle, light = _muscle(draw("muscle"), body), _light(draw("light"), body)
    defects = draw("defects")
    dead = texture.dashes(defects, shape, int(defects.integers(grade.bands[0], grade.bands[1] + 1)))
    loss = texture.contact_loss(defects, body.inside, _count(defects, grade.wedges))
    loss *= texture.dropout(defects, shape[0], _count(defects, grade.drops))
    dark = darkness(draw("bone"), body.bones, optimal, grade)
    ideal = darkness(draw("bone"), body.bones, optimal, EASY)[:, optimal]
    valley = Valley.drawn(draw("valley"), body)
    depths = []
    for depth in range(DEPTHS):
        rng, off = draw(f"depth {depth}"), float(depth - optimal)
        own = np.float32(0.12 * grade.own**0.5) * texture.smooth(rng, shape, (16.0, 14.0))
        image = light * muscle * np.exp(own) * transmission(grain, bones, dark[:, depth], off)
        image *= valley.light(off)
        image = _veiled(rng, image, light, grade.haze * (1 + 0.8 * abs(off)))
        depths.append(_exposed(rng, image * loss, grade, off))
    clean = light * muscle * transmission(grain, bones, ideal, 0.0) * valley.light(0.0)
    return _Scan(depths=depths, clean=clean, dead=dead, distances=bones)


def _count(rng: np.random.Generator, span: tuple[int, int]) -> int:
    return int(rng.integers(span[0], span[1] + 1))


def _exposed(rng: np.random.Generator, image: Field, grade: Grade, off: float) -> Field:
    """Speckle, row gain and loss of signal with depth; `off` is in depths from the optimal one."""
    looks = rng.uniform(*grade.looks) / (1 + 0.15 * off * off)
    image = image * texture.speckle(rng, image.shape, looks)
    image *= texture.row_gain(rng, image.shape, grade.rows)
    gain = np.exp(-0.17 * max(off, 0.0)) * (1 - 0.04 * max(-off, 0.0))
    return image * np.float32(gain)


def _veiled(rng: np.random.Generator, image: Field, light: Field, haze: float) -> Field:
    """Patches in which scatter fills the shadows: the picture fades towards plain tissue."""
    patch = texture.smooth(rng, (image.shape[0], image.shape[1]), (55.0, 40.0))
    veil = np.clip(haze * (0.5 + 0.6 * patch), 0, 0.75)
    return np.asarray(image + veil * (0.92 * light - image), dtype=np.float32)


def _light(rng: np.random.Generator, body: Anatomy) -> Field:
    """Mean brightness [y, x] of muscle: dim raw tone, brighter beside the midline, fading below."""
    rows, columns = body.extent
    x = np.arange(columns, dtype=np.float32)[None, :]
    y = np.arange(rows, dtype=np.float32)[:, None]
    middle = (body.spine.midline + body.breath).astype(np.float32)[:, None]
    beside = np.exp(-(((np.abs(x - middle) - 30) / 16) ** 2))
    where = np.exp(-(((y / rows - rng.uniform(0.3, 0.5)) / 0.22) ** 2))
    fade = 1 / (1 + np.exp((y - rows + rng.uniform(9, 18)) / rng.uniform(3, 6)))
    fade = fade * (1 - rng.uniform(0.08, 0.2) / (1 + np.exp((rows - 55 - y) / 14)))
    level = rng.uniform(0.18, 0.28)
    bright = 1 + rng.uniform(0.06, 0.16) * beside * where
    return np.asarray(level * fade * bright, dtype=np.float32)


def _muscle(rng: np.random.Generator, body: Anatomy) -> Field:
    """Brightness variation [y, x] about 1, the same at all depths; blotchier in the lumbar part."""
    shape = body.extent
    y = np.arange(shape[0], dtype=np.float32)[:, None]
    lumbar = 1 / (1 + np.exp((body.spine.row[~body.spine.thoracic()][0] - y) / 25))
    log = 0.05 * texture.smooth(rng, shape, (110.0, 60.0))
    log += (0.025 + 0.045 * lumbar) * texture.smooth(rng, shape, (22.0, 24.0))
    log += (0.01 + 0.01 * lumbar) * texture.smooth(rng, shape, (7.0, 10.0))
    log += 0.012 * texture.smooth(rng, shape, (2.0, 4.0))
    log += 0.010 * texture.smooth(rng, shape, (1.0, 40.0))
    return np.asarray(np.exp(rng.uniform(0.5, 1.5) * log), dtype=np.float32)


def _raw_curve() -> Image:
    return np.asarray(np.rint(np.linspace(0, 255, TONES)), dtype=np.uint8)


def _tone_curve(rng: np.random.Generator, optimal: Field, body: Anatomy) -> Image:
    """One monotone curve [TONES] for a whole stack: gamma 0.5-2, or one in four equalised."""
    gamma = 2.0 ** rng.uniform(-1, 1)
    brightest = rng.uniform(0.55, 1.0)
    if rng.random() < 0.25:
        tones = np.bincount(_tones(optimal)[body.inside], minlength=TONES)
        curve = np.cumsum(tones) / tones.sum()
    else:
        peak = np.quantile(optimal[body.inside][::7], 0.998)
        curve = brightest * np.clip(np.linspace(0, 1, TONES) / peak, 0, 1.1) ** gamma
    return np.asarray(np.rint(255 * np.clip(curve, 0, 1)), dtype=np.uint8)


def _tones(raw: Field) -> NDArray[np.uint16]:
    return np.asarray(np.clip(raw, 0, 1) * (TONES - 1), dtype=np.uint16)


def _developed(raw: Field, curve: Image, inside: Mask, dead: Mask | None = None) -> Image:
    """Through the tone curve to grey levels: at least 1 inside the strip, 0 elsewhere."""
    image = np.maximum(curve[_tones(raw)], 1) * inside
    return image if dead is None else image * ~dead


def _label(body: Anatomy, distances: list[Shape]) -> Image:
    """Mask [y, x]; a process lies over its rib."""
    out = np.zeros(body.extent, dtype=np.uint8)
    for kind in (RIB, LUMP, PROCESS):
        for bone, window, distance in distances:
            if bone.label == kind:
                out[window][distance > 0] = kind
    return out * body.inside
