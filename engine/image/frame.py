"""Puts images on the frame, which is the grid that a bundle works on, and brings them back."""

from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import ndimage, sparse

Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.uint8]  # classes
Pixels = npt.NDArray[np.uint8]  # grey levels
NEARLY_BLACK = -1 + 1e-3  # of intensities on a frame; what is no brighter shows nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A grid of px; intensities on it run from -1 (black) to 1."""

    height: int  # px
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where an image lies on the frame, aspect unchanged: frame px = offset + scale * image px."""

    scale: float
    top: int  # px of the frame
    left: int
    height: int  # px of the frame that the image covers
    width: int

    def as_dict(self) -> dict[str, float]:
        return asdict(self)

    @property
    def window(self) -> tuple[slice, slice]:
        """The rows and columns of the frame that the image covers."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def place(extent: tuple[int, int], frame: Frame) -> Placement:
    """Places an image of `extent` (y, x) px on the frame, centred and as large as it fits."""
    scale = min(frame.height / extent[0], frame.width / extent[1])
    height = min(frame.height, max(1, round(extent[0] * scale)))
    width = min(frame.width, max(1, round(extent[1] * scale)))
    top, left = (frame.height - height) // 2, (frame.width - width) // 2
    return Placement(scale=scale, top=top, left=left, height=height, width=width)


@lru_cache(maxsize=64)
def area_weights(source: int, target: int) -> sparse.csr_array[np.float32]:
    """[target, source] weights of area averaging: a target px is the mean of the px it covers."""
    edges = np.linspace(0, source, target + 1)
    first = np.floor(edges[:-1]).astype(int)
    last = np.minimum(np.ceil(edges[1:]).astype(int), source)
    rows = np.repeat(np.arange(target), last - first)
    cols = np.concatenate([np.arange(lo, hi) for lo, hi in zip(first, last, strict=True)])
    overlap = np.minimum(cols + 1, edges[rows + 1]) - np.maximum(cols, edges[rows])
    weights = (overlap / (source / target)).astype(np.float32)
    return sparse.csr_array((weights, (rows, cols)), shape=(target, source))


@lru_cache(maxsize=64)
def linear_weights(source: int, target: int) -> sparse.csr_array[np.float32]:
    """[target, source] weights of linear interpolation between px centres, constant at the ends."""
    centre = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    low = np.minimum(np.floor(centre).astype(int), max(source - 2, 0))
    high = np.minimum(low + 1, source - 1)
    part = (centre - low).astype(np.float32)
    rows = np.tile(np.arange(target), 2)
    weights = np.concatenate([1 - part, part])
    return sparse.csr_array((weights, (rows, np.concatenate([low, high]))), shape=(target, source))


def to_frame(image: npt.NDArray[np.generic], frame: Frame, black: float) -> Image:
    """Averages an image [..., y, x] by area onto the frame [..., H, W]; `black` fills the rest."""
    where = place((image.shape[-2], image.shape[-1]), frame)
    rows = area_weights(image.shape[-2], where.height)
    cols = area_weights(image.shape[-1], where.width)
    out = np.full((*image.shape[:-2], frame.height, frame.width), black, np.float32)
    inner = out[..., *where.window]
    for index in np.ndindex(image.shape[:-2]):
        inner[index] = cols.dot(rows.dot(image[index].astype(np.float32)).T).T
    return out


def from_frame(image: npt.NDArray[np.generic], extent: tuple[int, int]) -> Image:
    """Brings a frame image [H, W] back to the `extent` (y, x) px of the image it was made of."""
    where = place(extent, Frame(height=image.shape[0], width=image.shape[1]))
    inner = image[where.window].astype(np.float32)
    rows = linear_weights(where.height, extent[0])
    cols = linear_weights(where.width, extent[1])
    return np.asarray(cols.dot(rows.dot(inner).T).T, np.float32)


def nearest_to_frame(labels: Labels, frame: Frame) -> Labels:
    """Puts a label map [y, x] on the frame [H, W]: a px gets the label at its centre, else 0."""
    where = place((labels.shape[0], labels.shape[1]), frame)
    out = np.zeros((frame.height, frame.width), np.uint8)
    rows = ((np.arange(where.height) + 0.5) * labels.shape[0] / where.height).astype(int)
    cols = ((np.arange(where.width) + 0.5) * labels.shape[1] / where.width).astype(int)
    out[where.window] = labels[np.ix_(rows, cols)]
    return out


def nearest_from_frame(labels: Labels, extent: tuple[int, int]) -> Labels:
    """Brings a label map on the frame [H, W] back to `extent` (y, x) px."""
    where = place(extent, Frame(height=labels.shape[0], width=labels.shape[1]))
    rows = where.top + ((np.arange(extent[0]) + 0.5) * where.height / extent[0]).astype(int)
    cols = where.left + ((np.arange(extent[1]) + 0.5) * where.width / extent[1]).astype(int)
    back: Labels = labels[np.ix_(rows, cols)]
    return back


def scan_strip(depths: Image) -> Mask:
    """The px that the scan covers, [H, W], from standardised depths [D, H, W].

    A row is covered from the first to the last px that any depth shows.  Rows that were lost, up to
    5 % of the height, are closed from their neighbours.
    """
    hit: Mask = np.asarray((depths > NEARLY_BLACK).any(axis=0))
    behind, ahead = (np.maximum.accumulate(x, axis=1) for x in (hit, hit[:, ::-1]))
    filled = behind & ahead[:, ::-1]
    gap = max(1, depths.shape[-2] // 40)
    tall = np.ones((2 * gap + 1, 1), bool)
    padded = np.pad(filled, ((2 * gap, 2 * gap), (0, 0)), mode="edge")
    closed: Mask = np.array(ndimage.binary_closing(padded, tall), dtype=bool, ndmin=2)
    return closed[2 * gap : -2 * gap] | filled


def grey(image: Image, strip: Mask) -> Pixels:
    """Grey levels 0-255 of an image in [-1, 1]; 0 outside the strip."""
    levels = np.rint((np.clip(image, -1, 1) + 1) * np.float32(127.5))
    return np.where(strip, levels, 0).astype(np.uint8)


def spread_grey(spread: Image, strip: Mask) -> Pixels:
    """Grey levels of a standard deviation of [-1, 1], at most 255; 0 outside the strip."""
    levels = np.minimum(np.rint(spread * np.float32(127.5)), 255)
    return np.where(strip, levels, 0).astype(np.uint8)
