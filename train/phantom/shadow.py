"""The shadows of bone: dark shapes that are sharp at their best depth, and the dark midline."""

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from . import texture
from .anatomy import LUMP, PROCESS, RIB, Anatomy, Bone
from .texture import Field

DEPTHS = 5
SOFT = {PROCESS: 2.5, RIB: 2.4, LUMP: 2.9}  # px
STRENGTH = {PROCESS: 0.97, RIB: 1.0, LUMP: 1.1}
PALE = {PROCESS: 1.0, RIB: 0.5, LUMP: 0.2}  # how strongly a bone pales, against a process

Window = tuple[slice, slice]
Shape = tuple[Bone, Window, Field]  # signed distance in px, positive inside, in a window


class Sight(Protocol):
    """How well the bones of a patient show."""

    @property
    def bone(self) -> tuple[float, float]: ...  # darkness, low and high

    @property
    def pale(self) -> float: ...  # how much a process may pale at a depth

    @property
    def wander(self) -> float: ...  # depths between a bone's best depth and the case's

    @property
    def hidden(self) -> float: ...  # chance that a bone is lost at the optimal depth


def distances(rng: np.random.Generator, body: Anatomy) -> list[Shape]:
    """The signed distance in px, positive inside, of each bone in its own window."""
    wobble = 2.0 * texture.smooth(rng, body.extent, (11.0, 13.0))
    lumpy = 1.3 * texture.smooth(rng, body.extent, (6.0, 13.0))
    wobble += 0.9 * texture.smooth(rng, body.extent, (4.0, 7.0))
    by_label = {PROCESS: _process_distance, RIB: _rib_distance, LUMP: _lump_distance}
    shapes = []
    for bone in body.bones:
        window = _window(bone, body.extent)
        y = np.arange(window[0].start, window[0].stop, dtype=np.float32)[:, None] - bone.y
        x = np.arange(window[1].start, window[1].stop, dtype=np.float32)[None, :] - bone.x
        x = x - body.breath[window[0], None]
        distance = by_label[bone.label](bone, y.astype(np.float32), x.astype(np.float32))
        rough = wobble + lumpy if bone.label == LUMP else wobble
        shapes.append((bone, window, distance + np.clip(rough[window], -6, 6)))
    return shapes


def _window(bone: Bone, extent: tuple[int, int]) -> Window:
    margin = 28 + abs(bone.bend) * (bone.wide if bone.label == RIB else 1)
    tall = bone.high + margin + abs(np.sin(bone.tilt)) * bone.wide
    rows = slice(max(0, int(bone.y - tall)), min(extent[0], int(bone.y + tall) + 1))
    wide = bone.wide + 24
    columns = slice(max(0, int(bone.x - wide)), min(extent[1], int(bone.x + wide) + 1))
    return rows, columns


def _process_distance(bone: Bone, y: Field, x: Field) -> Field:
    sine, cosine = np.float32(np.sin(bone.tilt)), np.float32(np.cos(bone.tilt))
    u, v = (x * cosine + y * sine) / bone.wide, (y * cosine - x * sine) / bone.high
    reach = np.sqrt(u * u + v * v)
    return np.asarray((1 - reach) * min(bone.high, bone.wide), dtype=np.float32)


def _rib_distance(bone: Bone, y: Field, x: Field) -> Field:
    out = x * bone.side
    axis = bone.bend * np.maximum(out, 0)
    high = bone.high * (0.78 + 0.4 * np.clip(out / 50, 0, 1))
    return np.asarray(np.minimum(high - np.abs(y - axis), out - 4), dtype=np.float32)


def _lump_distance(bone: Bone, y: Field, x: Field) -> Field:
    """The distance of a bell: high in the middle, with thinner, drooping wings and round ends."""
    sine, cosine = np.float32(np.sin(bone.tilt)), np.float32(np.cos(bone.tilt))
    u, v = (x * cosine + y * sine) / bone.wide, y * cosine - x * sine
    reach = np.abs(u)
    round_off = np.sqrt(np.maximum(1 - reach**6, 0))
    above = bone.high * (0.6 + 0.7 * np.exp(-((u / 0.45) ** 2))) * round_off
    below = bone.high * (0.85 - 0.1 * np.exp(-((u / 0.4) ** 2))) * round_off
    v = v - bone.bend * (reach**1.5 - 0.45)
    flank = (1 - reach) * bone.wide
    return np.asarray(np.minimum(np.minimum(above + v, below - v), flank), dtype=np.float32)


def transmission(
    grain: Field,
    bones: list[Shape],
    darkness: NDArray[np.float32],
    off: float,
) -> Field:
    """The transmission [y, x] of the bones, `off` depths from the optimal one, where they blur."""
    out = np.ones(grain.shape, dtype=np.float32)
    blur = 1.0 * max(-off, 0.0) + 1.8 * max(off, 0.0)
    grown = 2.2 + 0.5 * max(off, 0.0)
    for (bone, window, distance), dark in zip(bones, darkness, strict=True):
        soft = SOFT[bone.label] + blur
        edge = np.exp(np.clip(-(distance + grown) / soft, -20, 20))
        shade = grain[window] * (0.88 + 0.12 * np.clip(distance / 10, -1, 1))
        out[window] = _darker(out[window], 1 - dark * shade / (1 + edge))
    return out


def _darker(a: Field, b: Field) -> Field:
    """The darker of two transmissions, and a little darker still where both are dark."""
    return np.asarray(np.minimum(a, b) * (0.75 + 0.25 * np.maximum(a, b)), dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Valley:
    """The dark valley of the spinous processes along the midline, and the darker spot near T12."""

    middle: Field  # [y, 1] px
    width: Field  # [y, 1] px, sd of the profile
    depth: Field  # [y, 1] darkness at the middle
    lumbar: Field  # [y, 1] 0 above, 1 below
    columns: int

    @classmethod
    def draw(cls, rng: np.random.Generator, body: Anatomy) -> Self:
        """Draws a valley: FWHM 16-32 px thoracic, 28-60 lumbar, darker at each spinous process."""
        rows, columns = body.extent
        y = np.arange(rows)
        row, thoracic = body.spine.row, body.spine.thoracic()
        lumbar = 1 / (1 + np.exp((body.lumbar_row - 20 - y) / 18))
        phase = np.interp(y, row, np.arange(len(row)))
        bead = np.cos(2 * np.pi * (phase - 0.35))
        spot = np.exp(-(((y - row[thoracic][-1] - rng.normal(4, 8)) / rng.uniform(11, 16)) ** 2))
        top = np.exp(-y / 70)
        width = 9.2 + 3.5 * lumbar + 4.5 * spot + 4 * top + 0.8 * bead
        width = width * rng.uniform(0.85, 1.15) * (1 + 0.1 * texture.wander(rng, rows, 25.0))
        depth = rng.uniform(0.63, 0.81) * (1 + 0.06 * bead + 0.12 * texture.wander(rng, rows, 40.0))
        depth = np.clip(depth + 0.3 * spot + 0.1 * top, 0.45, 0.94)
        middle = body.spine.midline + body.breath + 1.2 * texture.wander(rng, rows, 30.0)
        return cls(
            middle=middle.astype(np.float32)[:, None],
            width=width.astype(np.float32)[:, None],
            depth=depth.astype(np.float32)[:, None],
            lumbar=lumbar.astype(np.float32)[:, None],
            columns=columns,
        )

    def light(self, off: float, scatter: float = 0.0) -> Field:
        """The transmission [y, x]: narrow and dark above the optimal depth, broad below.

        scatter: 0 to 1; widens and darkens the lumbar part, where bone lies deep.
        """
        x = np.arange(self.columns, dtype=np.float32)[None, :]
        width = self.width * np.float32(1 + 0.12 * off if off > 0 else 1 + 0.06 * off)
        low = np.float32(scatter) * self.lumbar
        width = width * (1 + 0.35 * low)
        dark = self.depth * np.float32(1 - 0.07 * off) + 0.15 * low
        profile = np.exp(-0.5 * np.abs((x - self.middle) / width) ** 2.0)
        return np.asarray(1 - np.minimum(dark, 0.93) * profile, dtype=np.float32)


def darkness(
    rng: np.random.Generator, bones: tuple[Bone, ...], optimal: int, sight: Sight
) -> Field:
    """The darkness [bone, depth] in 0..1: rises quickly to a bone's best depth, falls slowly."""
    count = len(bones)
    strength = np.array([STRENGTH[bone.label] for bone in bones]) * rng.uniform(*sight.bone)
    level = np.array([bone.level for bone in bones]), np.array([bone.side for bone in bones])
    strength = strength * (1 + 0.05 * texture.smooth(rng, (18, 3), (2.5, 1.0))[level])
    strength = np.clip(strength * rng.normal(1, 0.045, count), 0.1, 0.93)[:, None]
    weak = np.array([PALE[bone.label] for bone in bones])[:, None]
    strength = strength * (1 - weak * sight.pale * rng.random((count, DEPTHS)))
    best = optimal + sight.wander * rng.normal(0, 0.6, count)
    off = np.arange(DEPTHS)[None, :] - best[:, None]
    seen = np.exp(-0.5 * (off / np.where(off < 0, 1.8, 2.1)) ** 2)
    lost = rng.random(count) < sight.hidden
    other = optimal + np.where(rng.random(count) < 0.5, -1, 1)
    other = np.where((other < 0) | (other >= DEPTHS), 2 * optimal - other, other)
    seen[lost, optimal] = 0.12
    seen[lost, other[lost]] = 0.95
    return np.asarray(strength * seen, dtype=np.float32)
