"""Pictures side by side on black, with words below them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from mcdiff_batch.engine.image.frame import Mask
from mcdiff_batch.engine.report.gallery import HEAT

Pixels = npt.NDArray[np.uint8]  # [y, x] or [y, x, 3]

GAP = 6  # px
SCALE = 2
COLOURS = np.array([[0, 0, 0], [86, 180, 233], [230, 159, 0], [0, 158, 115]], np.float32)

WIDTH = 1200  # px of a sheet
TALLEST = 760  # px of a panel
APART = 26  # px between groups
MARGIN = 8
LINE = 17  # px of a line of words
SIZE = 13
RAMP = 150  # px of a scale
WHITE, DIM = (255, 255, 255), (165, 165, 165)


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One picture, and the lines below it."""

    image: Pixels
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Pictures of one case, and the line below them all."""

    panels: tuple[Panel, ...]
    words: str


def sheet(groups: Sequence[Group], scales: Mapping[str, int] | None = None) -> Image.Image:
    """All panels in one row of equal height, about WIDTH px wide.

    scales: what heat shows -> the grey levels at the end of its scale; drawn below the panels.
    """
    panels = [p for group in groups for p in group.panels]
    free = WIDTH - 2 * MARGIN - APART * (len(groups) - 1) - GAP * (len(panels) - len(groups))
    aspects = sum(p.image.shape[1] / p.image.shape[0] for p in panels)
    height = min(TALLEST, int(free / aspects))
    lines = max(p.words.count("\n") + 1 for p in panels)
    below = MARGIN + height + GAP
    bottom = below + LINE * (lines + 1) + GAP
    image = Image.new("RGB", (WIDTH, bottom + (LINE + GAP if scales else 0)))
    pen = ImageDraw.Draw(image)
    pen.font = ImageFont.load_default(SIZE)
    left = MARGIN
    for group in groups:
        first = left
        for panel in group.panels:
            shown = _tall(panel.image, height)
            image.paste(shown, (left, MARGIN))
            middle = left + shown.width / 2
            for i, line in enumerate(panel.words.split("\n")):
                pen.text((middle, below + LINE * i), line, WHITE, anchor="ma")
            left += shown.width + GAP
        middle = (first + left - GAP) / 2
        pen.text((middle, below + LINE * lines + GAP // 2), group.words, DIM, anchor="ma")
        left += APART - GAP
    image = image.crop((0, 0, left - APART + MARGIN, image.height))
    if not scales:
        return image.convert("L")
    for i, (words, levels) in enumerate(scales.items()):
        _scale(image, words, levels, (MARGIN + i * image.width // len(scales), bottom))
    return image.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


def _scale(image: Image.Image, words: str, levels: int, at: tuple[int, int]) -> None:
    pen = ImageDraw.Draw(image)
    pen.font = ImageFont.load_default(SIZE)
    left = at[0] + int(pen.textlength(f"{words}: 0 "))
    pen.text(at, f"{words}: 0", WHITE)
    ramp = np.tile(np.linspace(0, levels, RAMP, dtype=np.float32), (10, 1))
    image.paste(Image.fromarray(heat(ramp, levels)), (left, at[1] + 3))
    pen.text((left + RAMP + GAP, at[1]), f"{levels} grey levels of 255 and more", WHITE)


def _tall(image: Pixels, height: int) -> Image.Image:
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    return Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)


def around(strip: Mask) -> tuple[slice, slice]:
    """The rows and columns of the scan, with a little black around it."""
    spans = []
    for axis in (1, 0):
        hit = np.flatnonzero(strip.any(axis=axis))
        spans.append(slice(max(0, hit[0] - 2), hit[-1] + 3))
    return spans[0], spans[1]


def heat(levels: npt.NDArray[np.float32], most: float) -> Pixels:
    """Levels as colours [y, x, 3] of the report: black for 0, white from `most` on."""
    stops = np.linspace(0, most, len(HEAT))
    channels = [np.interp(levels, stops, x) for x in zip(*HEAT, strict=True)]
    return np.stack(channels, -1).round().astype(np.uint8)


def beside(panels: Sequence[Pixels]) -> Pixels:
    """Joins panels [y, x, 3] side by side, enlarged, with white between them."""
    white = np.full((panels[0].shape[0] * SCALE, GAP, 3), 255, np.uint8)
    parts = [part for panel in panels for part in (_large(panel), white)]
    return np.concatenate(parts[:-1], axis=1)


def grey(image: Pixels) -> Pixels:
    return np.repeat(image[..., None], 3, axis=-1)


def overlaid(image: Pixels, label: Pixels) -> Pixels:
    mixed = 0.45 * grey(image) + 0.55 * COLOURS[label]
    return np.where(label[..., None] > 0, mixed, grey(image)).astype(np.uint8)


def _large(image: Pixels) -> Pixels:
    return np.asarray(_tall(image, image.shape[0] * SCALE))
