"""Multi-scale structural similarity, Wang, Simoncelli & Bovik 2003."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from mcdiff_batch.engine.image.frame import Frame, Image, Mask, linear_weights, to_frame

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, fine to coarse
TAPS = 11  # of the Gaussian window
SIGMA = 1.5
C1, C2 = 0.01**2, 0.03**2  # for intensities in [0, 1]
SMALLEST = TAPS * 2 ** (len(WEIGHTS) - 1)  # px, 176: one window at the coarsest scale
PAPER_FRAME = Frame(height=256, width=256)


@dataclass(frozen=True, slots=True)
class Scale:
    """An image at one scale, and the moments of its windows; all windows lie inside the image."""

    image: Image
    mean: Image
    variance: Image


Pyramid = tuple[Scale, ...]


def pyramid(image: Image) -> Pyramid:
    """The scales of an image [y, x] in [0, 1], at least 176 px a side; each halves the last."""
    assert min(image.shape) >= SMALLEST
    scales = []
    for _ in WEIGHTS:
        mean = _window_mean(image)
        scales.append(Scale(image, mean, _window_mean(image * image) - mean * mean))
        image = _halve(image)
    return tuple(scales)


def ms_ssim(a: Pyramid, b: Pyramid) -> float:
    """Eq. 7 of Wang et al.: the product over scales of contrast-structure ^ weight.

    Luminance counts at the coarsest scale only.  Negative means over windows count as 0.
    """
    terms = [_contrast_structure(x, y) for x, y in zip(a[:-1], b[:-1], strict=True)]
    terms.append(_similarity(a[-1], b[-1]))
    return float(np.prod(np.maximum(terms, 0) ** np.array(WEIGHTS)))


def strip_view(image: Image, strip: Mask) -> Image:
    """The strip's bounding box of a frame image, enlarged to sides of 176 px or more.

    Five scales of an 11-px window need 176 px.  Linear interpolation keeps the aspect.
    """
    rows, columns = np.flatnonzero(strip.any(axis=1)), np.flatnonzero(strip.any(axis=0))
    box = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = max(1.0, SMALLEST / min(box.shape))
    y, x = (max(SMALLEST, round(n * scale)) for n in box.shape)
    down, across = linear_weights(box.shape[0], y), linear_weights(box.shape[1], x)
    return np.asarray(across.dot(down.dot(box).T).T, np.float32)


def square_view(image: Image) -> Image:
    """A frame image letterboxed to the paper's 256 x 256; the black around it counts."""
    return to_frame(image, PAPER_FRAME, black=0.0)


def _window_mean(image: Image) -> Image:
    half = TAPS // 2
    taps = np.exp(-((np.arange(TAPS) - half) ** 2) / (2 * SIGMA**2))
    taps /= taps.sum()
    across = ndimage.correlate1d(image, taps, axis=1)[:, half:-half]
    return np.asarray(ndimage.correlate1d(across, taps, axis=0)[half:-half], np.float32)


def _halve(image: Image) -> Image:
    y, x = (n // 2 * 2 for n in image.shape)
    even = image[:y, :x]
    mean = (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4
    return np.asarray(mean, np.float32)


def _structure(a: Scale, b: Scale) -> Image:
    together = _window_mean(a.image * b.image) - a.mean * b.mean
    return np.asarray((2 * together + C2) / (a.variance + b.variance + C2), np.float32)


def _contrast_structure(a: Scale, b: Scale) -> float:
    return float(_structure(a, b).mean(dtype=np.float64))


def _similarity(a: Scale, b: Scale) -> float:
    light = (2 * a.mean * b.mean + C1) / (a.mean**2 + b.mean**2 + C1)
    return float((light * _structure(a, b)).mean(dtype=np.float64))
