"""The tissue around the bones: muscle and its light, and the clutter that veils a depth."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from . import texture
from .anatomy import Anatomy
from .texture import Field

CALM = 0.28  # share of the light's unevenness that remains in the clean target
STREAKED = 80  # rows
LEVEL = 0.79  # mean tone of muscle in good light


@dataclass(frozen=True, slots=True, kw_only=True)
class Tissue:
    """Muscle without bone: calm in the clean target, blotchy and unevenly lit in an original."""

    calm: Field  # [y, x]
    blotches: Field  # [y, x] log of the gain that an original has at every depth
    light: Field  # [y, x]
    lumbar: Field  # [y, 1] 0 above, 1 below

    @classmethod
    def draw(cls, rng: np.random.Generator, body: Anatomy) -> Self:
        shape = body.extent
        lumbar = _lumbar(body)
        log = 0.10 * texture.smooth(rng, shape, (60.0, 40.0))
        log += (0.07 + 0.03 * lumbar) * texture.smooth(rng, shape, (14.0, 16.0))
        log += 0.05 * texture.smooth(rng, shape, (4.0, 6.0))
        log += 0.03 * texture.smooth(rng, shape, (1.5, 2.5))
        light = _light(rng, body)
        blotches = np.float32(1 - CALM) * np.log(light)
        blotches += 0.06 * texture.smooth(rng, shape, (80.0, 50.0))
        blotches += (0.03 + 0.04 * lumbar) * texture.smooth(rng, shape, (16.0, 18.0))
        blotches[:STREAKED] += _streaks(rng, shape[1])
        calm = np.float32(LEVEL) * light ** np.float32(CALM) * np.exp(log)
        return cls(calm=calm, blotches=blotches, light=light, lumbar=lumbar)

    def spoil(self, rng: np.random.Generator, amount: float) -> Field:
        """The muscle [y, x] as one depth shows it; amount: clutter, as in `Grade`."""
        shape = self.calm.shape
        own = np.float32(0.34 * amount) * texture.smooth(rng, shape, (55.0, 30.0))
        wide, narrow = 0.1 + 0.42 * self.lumbar, 0.07 + 0.26 * self.lumbar
        own += np.float32(amount) * wide * texture.smooth(rng, shape, (13.0, 15.0))
        own += np.float32(amount) * narrow * texture.smooth(rng, shape, (5.0, 6.0))
        share = np.float32(min(1.0, 2.2 * amount))
        gain = np.float32(0.22 * amount)  # more clutter is brighter
        log = share * self.blotches + own + gain
        return np.asarray(self.calm * np.exp(log), dtype=np.float32)


def _streaks(rng: np.random.Generator, columns: int) -> Field:
    """The log gain of the bright and dark rows at the top, where the probe was put down."""
    fade = np.exp(-np.arange(STREAKED, dtype=np.float32)[:, None] / 18)
    return np.asarray(0.3 * fade * texture.smooth(rng, (STREAKED, columns), (2.0, 70.0)))


def _lumbar(body: Anatomy) -> Field:
    y = np.arange(body.extent[0], dtype=np.float32)[:, None]
    return np.asarray(1 / (1 + np.exp((body.lumbar_row - y) / 25)), dtype=np.float32)


def _light(rng: np.random.Generator, body: Anatomy) -> Field:
    """Brightness [y, x]: brighter beside the midline, dim at the ends, darker along the edges."""
    rows, columns = body.extent
    x = np.arange(columns, dtype=np.float32)[None, :]
    y = np.arange(rows, dtype=np.float32)[:, None]
    middle = (body.spine.midline + body.breath).astype(np.float32)[:, None]
    beside = np.exp(-(((np.abs(x - middle) - 28) / 20) ** 2))
    where = np.exp(-(((y / rows - rng.uniform(0.3, 0.5)) / 0.24) ** 2))
    bottom = 1 / (1 + np.exp((y - rows + rng.uniform(28, 85)) / rng.uniform(10, 25)))
    top = 1 - rng.uniform(0.3, 0.8) * np.exp(-((y / rng.uniform(40, 110)) ** 2))
    low = np.clip((y / rows - 0.65) / 0.35, 0, 1)
    reach = (4 + 24 * low).astype(np.float32)
    edge = 1 - (0.5 + 0.25 * low) * np.exp(-_to_edge(body) / reach)
    bright = 1 + rng.uniform(0.4, 1.2) * beside * where
    return np.asarray(np.maximum(bottom * top, 0.06) * edge * bright, dtype=np.float32)


def _to_edge(body: Anatomy) -> Field:
    """Distance [y, x] in px to the nearer side of the strip, along the row."""
    x = np.arange(body.extent[1], dtype=np.float32)[None, :]
    left = texture.wide(body.inside.argmax(1), 6)
    right = texture.wide(body.extent[1] - body.inside[:, ::-1].argmax(1), 6)
    return np.asarray(np.maximum(np.minimum(x - left, right - x), 0), dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clutter:
    """Bright mottled veils that fill the shadows; most of them differ between depths."""

    amount: float
    common: Field  # [y, x] the part of a veil that is the same at all depths
    lumbar: Field  # [y, 1]

    @classmethod
    def draw(cls, rng: np.random.Generator, body: Anatomy, amount: float) -> Self:
        common = _veil(rng, body.extent)
        return cls(amount=amount, common=common, lumbar=_lumbar(body))

    def veil(self, rng: np.random.Generator, image: Field, off: float, light: Field) -> Field:
        """Veils the image [y, x] of a depth that lies `off` from the optimal one."""
        shape = self.common.shape
        amount = np.float32(self.amount * (1 + 0.15 * abs(off)) + 0.04 * abs(off))
        cover = 0.35 + np.float32(0.3) * self.common + np.float32(0.95) * _veil(rng, shape)
        veil = np.clip(amount * cover, 0, 0.95)
        log = 0.26 * texture.smooth(rng, shape, (22.0, 24.0))
        log += 0.20 * (1 + 0.5 * self.lumbar) * texture.smooth(rng, shape, (8.0, 11.0))
        log += 0.10 * texture.smooth(rng, shape, (2.0, 4.0))
        bright = np.float32(0.72) * np.exp(log)
        return np.asarray(image + veil * (bright * light - image), dtype=np.float32)


def _veil(rng: np.random.Generator, shape: tuple[int, int]) -> Field:
    wide = np.float32(0.45) * texture.smooth(rng, shape, (45.0, 35.0))
    narrow = np.float32(0.25) * texture.smooth(rng, shape, (14.0, 16.0))
    return np.asarray(wide + narrow, dtype=np.float32)
