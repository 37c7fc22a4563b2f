"""From a case as stored to a case on the model's frame, read ahead in the background."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import numpy.typing as npt

from mcdiff_batch.engine.archive.archive import Archive, Case
from mcdiff_batch.engine.errors import ArchiveError, CaseError
from mcdiff_batch.engine.image.frame import Image, Mask, Placement, place, scan_strip, to_frame

from .contract import Contract


@dataclass(frozen=True, slots=True, kw_only=True)
class FramedCase:
    """One scan on the frame, ready for a batch; every case of an archive has the same D."""

    index: int
    key: str = field(repr=False)  # names its noise
    depths: Image  # [D, H, W] in [-1, 1]; -1 outside the scan and where a depth is absent
    weights: npt.NDArray[np.float32]  # [D], sum 1, 0 where a depth is absent
    strip: Mask  # [H, W], px the scan covers
    optimal: int  # the archive's, else the highest-weighted depth present
    spacing_mm: tuple[float, float]  # of frame px, y, x; NaN where unknown
    placement: Placement
    extent: tuple[int, int]  # y, x px as stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A case whose data are bad; for the ledger."""

    index: int
    reason: str
    detail: str


class LoadError(Exception):
    """Case `index` could not be loaded, for a reason that is not its data: `__cause__` says why."""

    def __init__(self, index: int) -> None:
        super().__init__(f"case {index} could not be loaded")
        self.index = index


def check_depths(archive: Archive, contract: Contract) -> None:
    """One depth always works; else there must be as many as the model has weights for."""
    expected = len(contract.depth_weights)
    if archive.depths not in (1, expected):
        raise ArchiveError(
            f"the archive has {archive.depths} depths, the model {contract.name} expects "
            f"{expected} (or 1); mark missing ones absent with `import --depths {expected}`"
        )


def frame_case(case: Case, contract: Contract) -> FramedCase:
    """Standardises a case.  Raises CaseError where nothing of it is left on the frame."""
    frame, extent = contract.frame, (case.depths.shape[1], case.depths.shape[2])
    depths = to_frame(standardise(case), frame, black=-1.0)
    strip = scan_strip(depths[case.present])
    if not strip.any():
        raise CaseError("constant", "every depth present is black on the frame")
    weights = fusion_weights(
        contract.depth_weights, case.present, case.optimal, contract.optimal_share
    )
    where = place(extent, frame)
    return FramedCase(
        index=case.index,
        key=case.key,
        depths=depths,
        weights=weights,
        strip=strip,
        optimal=int(np.argmax(weights)) if case.optimal is None else case.optimal,
        spacing_mm=(case.spacing_mm[0] / where.scale, case.spacing_mm[1] / where.scale),
        placement=where,
        extent=extent,
    )


def standardise(case: Case) -> Image:
    """Depths [D, y, x] in [-1, 1], clipped; -1 where a depth is absent."""
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
    """Eq. 5's weights of the depths present, [D], sum 1; equal where they would all be 0.

    `optimal_share` of the sum goes to the optimal depth (None: the highest-weighted one) first.
    The paper has no such share: fused by fixed weights alone, the features do not say which depth
    the result is to look like.  1 gives its optimal-depth ablation.
    """
    known = np.asarray(weights if len(present) > 1 else (1.0,), np.float64)
    assert known.shape == present.shape, "check_depths was not asked"
    kept = np.where(present, known, 0.0)
    if not (math.isfinite(kept.sum()) and kept.sum() > 0):
        kept = present.astype(np.float64)
    shares = (1 - optimal_share) * kept / kept.sum()
    shares[int(np.argmax(kept)) if optimal is None else optimal] += optimal_share
    return np.asarray(shares, np.float32)


def prefetch(
    indices: Iterable[int],
    load: Callable[[int], FramedCase],
    lookahead: int = 4,
    threads: int = 1,
) -> Iterator[FramedCase | Failure]:
    """Loads cases in the background and yields them in order, at most `lookahead` ahead.

    A CaseError comes out as a Failure in its place; anything else raises LoadError and ends it.
    Closing the iterator waits for the loads under way and drops the rest.
    """
    source = iter(indices)
    with ThreadPoolExecutor(threads, thread_name_prefix="reader") as pool:
        submit = lambda index: pool.submit(_loaded, load, index)
        waiting: deque[Future[FramedCase | Failure]] = deque(
            map(submit, islice(source, max(1, lookahead)))
        )
        try:
            while waiting:
                loaded = waiting.popleft().result()
                waiting.extend(map(submit, islice(source, 1)))
                yield loaded
        finally:
            for future in waiting:
                future.cancel()


def _loaded(load: Callable[[int], FramedCase], index: int) -> FramedCase | Failure:
    try:
        return load(index)
    except CaseError as error:
        return Failure(index=index, reason=error.reason, detail=error.detail)
    except Exception as error:
        raise LoadError(index) from error
