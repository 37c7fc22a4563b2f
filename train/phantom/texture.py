"""The phantom's random fields: tissue, speckle, B-mode rows, and the defects of a scan."""

import hashlib

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Mask = NDArray[np.bool_]


def stream(seed: int, index: int, part: str) -> np.random.Generator:
    """Random numbers that depend on (seed, index, part) alone."""
    digest = hashlib.blake2b(f"phantom/{seed}/{index}/{part}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def smooth(rng: np.random.Generator, shape: tuple[int, int], scale: tuple[float, float]) -> Field:
    """A Gaussian field [y, x] of unit variance: a cubic B-spline with knots `scale` px apart."""
    knots = tuple(int(n / s) + 5 for n, s in zip(shape, scale, strict=True))
    coarse = rng.standard_normal(knots, dtype=np.float32)
    return stretch(stretch(coarse.T, shape[1], scale[1]).T, shape[0], scale[0])


def wander(rng: np.random.Generator, length: int, scale: float) -> Field:
    """A Gaussian curve [length] of unit variance, smooth over `scale` px."""
    return smooth(rng, (length, 1), (scale, 1.0))[:, 0]


def stretch(coarse: Field, length: int, scale: float) -> Field:
    """Upsamples along axis 0 by a B-spline; keeps the variance of white noise."""
    if scale <= 1:
        return np.ascontiguousarray(coarse[:length])
    at = np.arange(length, dtype=np.float32) / np.float32(scale)
    knot = at.astype(np.intp)
    taps = _bspline(at - knot)
    out = taps[0][:, None] * coarse[knot]
    for k in (1, 2, 3):
        out += taps[k][:, None] * coarse[knot + k]
    return np.asarray(out)


def _bspline(t: Field) -> Field:
    """Cubic B-spline weights [4, n] at fractions t, scaled to unit energy."""
    taps = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3])
    return np.asarray(taps / np.sqrt((taps**2).sum(0)), dtype=np.float32)


def speckle(rng: np.random.Generator, shape: tuple[int, int], looks: float) -> Field:
    """Speckle [y, x] of mean 1: Rayleigh envelopes averaged over `looks`, as a projection does.

    A Rayleigh envelope has mean / sd = 1.91.  The speckle is wide along a B-mode row and
    independent between rows.
    """
    count = 3
    grid = (shape[0], int(shape[1] / 1.12) + 5)
    waves = np.sqrt(rng.standard_exponential((count, *grid), dtype=np.float32)).sum(0)
    white = (waves - count * 0.8862269) / np.float32(0.4632514 * np.sqrt(count))
    rows = stretch(np.ascontiguousarray(white.T), shape[1], 1.12).T
    rows = 0.9 * rows + 0.436 * np.roll(rows, 1, axis=0)
    grain = rows * np.float32(0.5227 / np.sqrt(looks))
    return np.asarray(np.maximum(1 + grain, 0.05), dtype=np.float32)


def row_gain(rng: np.random.Generator, shape: tuple[int, int], spread: float) -> Field:
    """The gain [y, x] of the rows, mean 1: each row is a B-mode frame with a gain of its own."""
    return 1 + np.float32(spread) * smooth(rng, shape, (1.0, 40.0))


def comb(rng: np.random.Generator, image: Field, belts: int) -> Field:
    """Combs an image [y, x] in place: in some belts every other row is dimmer and shifted."""
    rows = len(image)
    for _ in range(belts):
        height = int(rng.integers(20, 120))
        top = int(rng.integers(0, rows - height))
        belt = slice(top + int(rng.integers(2)), top + height, 2)
        image[belt] = np.roll(image[belt], int(rng.choice([-2, -1, 1, 2])), axis=1)
        image[belt] *= np.float32(1 - rng.uniform(0.03, 0.16))
    return image


def wide(curve: NDArray[np.generic], scale: int) -> Field:
    """Averages a curve [y] over `scale` rows to either side; a column [y, 1]."""
    padded = np.pad(curve.astype(np.float32), scale, mode="edge")
    window = np.ones(2 * scale + 1, dtype=np.float32) / np.float32(2 * scale + 1)
    return np.convolve(padded, window, "valid").astype(np.float32)[:, None]


def dashes(rng: np.random.Generator, shape: tuple[int, int], bands: int) -> Field:
    """The gain [y, x] of rows that no voxel hit: dashes of 0 to 0.8 that slope 1 row per 30 px."""
    gain = np.ones(shape, dtype=np.float32)
    for _ in range(bands):
        _dash_band(rng, gain)
    return gain


def _dash_band(rng: np.random.Generator, gain: Field) -> None:
    rows, columns = gain.shape
    height = int(rng.integers(6, 40))
    top = int(rng.integers(40, rows - height - 60))
    slope = rng.choice([-1, 1]) / rng.uniform(25, 35)
    peak = rng.uniform(0.3, 0.65)
    x = np.arange(columns)
    shift = np.rint(slope * (x - columns / 2)).astype(int)
    for row in range(0, height, int(rng.integers(1, 4))):
        fill = peak * np.sin(np.pi * (row + 0.5) / height) * rng.uniform(0.3, 1.0)
        dim = 0.0 if rng.random() < 0.15 else rng.uniform(0.25, 0.8)  # a line is 0.4 px high
        dashed = np.where(_dash_row(rng, columns, fill), np.float32(dim), np.float32(1))
        gain[np.clip(top + row + shift, 0, rows - 1), x] *= dashed


def _dash_row(rng: np.random.Generator, columns: int, fill: float) -> Mask:
    """One dashed line: runs of median 2 px, p90 8 px (5 and 21 px at 0.18 mm) fill `fill` of it."""
    runs = np.maximum(np.rint(rng.lognormal(0.75, 1.1, columns)), 1).astype(int)
    gaps = np.maximum(np.rint(rng.exponential(3.5 * (1 - fill) / fill, columns)), 1).astype(int)
    edges = np.stack([gaps, runs], axis=1).ravel()
    return np.repeat(np.tile([False, True], columns), edges)[:columns]


def contact_loss(rng: np.random.Generator, inside: Mask, wedges: int) -> Field:
    """The transmission [y, x] with dark wedges from an edge, where the probe lost the skin."""
    rows = len(inside)
    out = np.ones(inside.shape, dtype=np.float32)
    for _ in range(wedges):
        middle, half = rng.uniform(0.03, 0.95) * rows, rng.uniform(8, 40)
        reach = rng.uniform(15, 60)
        y0, y1 = max(0, int(middle - 2 * half)), min(rows, int(middle + 2 * half))
        y = np.arange(y0, y1, dtype=np.float32)[:, None]
        edge = _edge_distance(inside[y0:y1], bool(rng.integers(2)))
        depth = reach * np.exp(-(((y - middle) / half) ** 2) * 2)
        loss = rng.uniform(0.35, 0.8) / (1 + np.exp((edge - depth) / rng.uniform(4, 9)))
        out[y0:y1] *= (1 - loss * np.minimum(depth / 12, 1)).astype(np.float32)
    return out


def _edge_distance(inside: Mask, right: bool) -> Field:
    """The distance [y, x] in px from the strip's left or right edge."""
    columns = inside.shape[1]
    x = np.arange(columns, dtype=np.float32)[None, :]
    if right:
        return np.asarray(columns - inside[:, ::-1].argmax(1)[:, None] - x, dtype=np.float32)
    return np.asarray(x - inside.argmax(1)[:, None], dtype=np.float32)


def dropout(rng: np.random.Generator, rows: int, count: int) -> Field:
    """The gain [y, 1] of a probe that moved too fast or lifted: a few rows of low signal."""
    gain = np.ones(rows, dtype=np.float32)
    y = np.arange(rows, dtype=np.float32)
    for _ in range(count):
        middle, half = rng.uniform(0.05, 0.92) * rows, rng.uniform(3, 18)
        lost = np.exp(-(np.abs((y - middle) / half) ** 3))
        gain *= (1 - rng.uniform(0.1, 0.35) * lost).astype(np.float32)
    return gain[:, None]
