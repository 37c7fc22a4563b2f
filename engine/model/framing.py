"""Puts cases on the model's frame, and reads them ahead in the background."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import numpy.typing as npt

from mcdiff_batch.engine.archive.archive import Archive, Case
from mcdiff_batch.engine.archive.attributes import is_faint
from mcdiff_batch.engine.errors import ArchiveError, CaseError
from mcdiff_batch.engine.image.frame import Image, Mask, Placement, place, scan_strip, to_frame

from .contract import Contract


@dataclass(frozen=True, slots=True, kw_only=True)
class FramedCase:
    """A case on the frame, ready for a batch.  D is the same for all cases of an archive."""

    index: int
    key: str = field(repr=False)  # seeds its noise
    depths: Image  # [D, H, W] in [-1, 1]; -1 outside the scan and for absent depths
    weights: npt.NDArray[np.float32]  # [D], sum 1; 0 for absent depths
    strip: Mask  # [H, W], px inside the scan
    optimal: int  # the archive's, else the present depth with the highest weight
    spacing_mm: tuple[float, float]  # of frame px, y, x; NaN where unknown
    placement: Placement
    extent: tuple[int, int]  # y, x px as stored
    faint: bool = False  # it uses so little of the intensity range that the range may be wrong

    @property
    def size_mm(self) -> tuple[float, float]:
        """Of the scan without black margins, y, x; NaN where unknown."""
        y, x = (np.flatnonzero(self.strip.any(axis=axis)) for axis in (1, 0))
        height, width = (float(at[-1] - at[0] + 1) for at in (y, x))
        return height * self.spacing_mm[0], width * self.spacing_mm[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A case whose data are bad."""

    index: int
    reason: str
    detail: str


class LoadError(Exception):
    """Case `index` could not be loaded, but its data may be good; see `__cause__`."""

    def __init__(self, index: int) -> None:
        super().__init__(f"case {index} could not be loaded")
        self.index = index


def check_depths(archive: Archive, contract: Contract) -> None:
    """Raises ArchiveError unless the archive has 1 depth or as many as the model."""
    expected = len(contract.depth_weights)
    if archive.depths not in (1, expected):
        raise ArchiveError(
            f"the archive has {archive.depths} depths, the model {contract.name} expects "
            f"{expected} (or 1); if some are missing, import with --depths {expected}"
        )


def frame_case(case: Case, contract: Contract) -> FramedCase:
    """Scales a case to the frame.  Raises CaseError if it is black there."""
    frame, extent = contract.frame, (case.depths.shape[1], case.depths.shape[2])
    depths = to_frame(standardise(case), frame, black=-1.0)
    strip = scan_strip(depths[case.present])
    if not strip.any():
        raise CaseError("constant", "all depths are black on the frame")
    weights = fusion_weights(
        contract.depth_weights, case.present, case.optimal, contract.optimal_share
    )
    placement = place(extent, frame)
    return FramedCase(
        index=case.index,
        key=case.key,
        depths=depths,
        weights=weights,
        strip=strip,
        optimal=int(np.argmax(weights)) if case.optimal is None else case.optimal,
        spacing_mm=(case.spacing_mm[0] / placement.scale, case.spacing_mm[1] / placement.scale),
        placement=placement,
        extent=extent,
        faint=is_faint(case.used, case.intensity_range),
    )


def standardise(case: Case) -> Image:
    """Scales depths [D, y, x] to [-1, 1] and clips them; absent depths are -1."""
    low, high = case.intensity_range
    out = np.full(case.depths.shape, -1, np.float32)
    for depth in np.flatnonzero(case.present):
        unit = (case.depths[depth].astype(np.float32) - np.float32(low)) / np.float32(high - low)
        out[depth] = np.clip(unit, 0, 1) * 2 - 1
    return out


def fusion_weights(
    weights: tuple[float, ...],
    present: npt.NDArray[np.bool_],
    optimal: int | None,
    optimal_share: float,
) -> npt.NDArray[np.float32]:
    """The weights of eq. 5, [D], sum 1; 0 for absent depths, equal if all weights would be 0.

    optimal: the optimal depth; None: the one with the highest weight.
    optimal_share: the part of the sum that the optimal depth gets before the others.  The paper
        has none; with fixed weights alone, the fused features do not show which depth the result
        should look like.  A share of 1 is the paper's ablation "optimal depth".
    """
    full = np.asarray(weights if len(present) > 1 else (1.0,), np.float64)
    assert full.shape == present.shape, "call check_depths first"
    masked = np.where(present, full, 0.0)
    if not (math.isfinite(masked.sum()) and masked.sum() > 0):
        masked = present.astype(np.float64)
    shares = (1 - optimal_share) * masked / masked.sum()
    shares[int(np.argmax(masked)) if optimal is None else optimal] += optimal_share
    return np.asarray(shares, np.float32)


def prefetch(
    indices: Iterable[int],
    load: Callable[[int], FramedCase],
    lookahead: int = 4,
    threads: int = 1,
) -> Iterator[FramedCase | Failure]:
    """Loads cases in the background, at most `lookahead` ahead, and yields them in order.

    A CaseError becomes a Failure; any other error becomes a LoadError, which ends the iterator.
    Closing the iterator waits for the loads that have started and cancels the others.
    """
    source = iter(indices)
    with ThreadPoolExecutor(threads, thread_name_prefix="reader") as pool:
        submit = lambda index: pool.submit(_load, load, index)
        waiting: deque[Future[FramedCase | Failure]] = deque(
            map(submit, islice(source, max(1, lookahead)))
        )
        try:
            while waiting:
                case = waiting.popleft().result()
                waiting.extend(map(submit, islice(source, 1)))
                yield case
        finally:
            for future in waiting:
                future.cancel()


def _load(load: Callable[[int], FramedCase], index: int) -> FramedCase | Failure:
    try:
        return load(index)
    except CaseError as error:
        return Failure(index=index, reason=error.reason, detail=error.detail)
    except Exception as error:
        raise LoadError(index) from error
