"""Looks at every case of an archive without a model, and says what `run` would make of it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mcdiff_batch.engine.errors import CaseError

from .archive import Archive, Case

DIM = 0.25  # of the intensity range: an archive that never gets brighter has a wrong range


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A case that `run` would not enhance."""

    index: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What an archive holds; sizes are y, x px, before padding."""

    cases: int
    depths: int
    dtype: str
    grid: tuple[int, int]
    smallest: tuple[int, int]
    largest: tuple[int, int]
    codec: str
    intensity_range: tuple[float, float]
    identity: str
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True, kw_only=True)
class Seen:
    """What the cases have shown so far; does not grow with them, but for problems."""

    problems: list[Problem]
    brightest: float = 0.0  # share of the intensity range
    repeated: int = 0  # cases with the same image at two depths
    first_repeated: int = -1


def audit(archive: Archive, progress: Callable[[int], None] | None = None) -> Audit:
    """Reads every case once.  A case that cannot be read now is a problem, reason "unreadable"."""
    seen = Seen(problems=[])
    for index in range(archive.cases):
        _look(archive, index, seen)
        if progress is not None:
            progress(index + 1)
    extents = [archive.grid] if archive.columns.extent is None else archive.columns.extent
    low, high = np.min(extents, axis=0).tolist(), np.max(extents, axis=0).tolist()
    return Audit(
        cases=archive.cases,
        depths=archive.depths,
        dtype=archive.dtype,
        grid=archive.grid,
        smallest=(low[0], low[1]),
        largest=(high[0], high[1]),
        codec=archive.codec,
        intensity_range=archive.intensity_range,
        identity=archive.identity,
        problems=tuple(seen.problems),
        warnings=(*archive.warnings, *_warnings(seen, archive)),
    )


def _look(archive: Archive, index: int, seen: Seen) -> None:
    try:
        case = archive.read(index)
    except CaseError as error:
        seen.problems.append(Problem(index=index, reason=error.reason, detail=error.detail))
    except OSError as error:
        detail = error.strerror or "input/output error"
        seen.problems.append(Problem(index=index, reason="unreadable", detail=detail))
    else:
        _note(case, seen)


def _note(case: Case, seen: Seen) -> None:
    images = case.depths[case.present]
    low, high = case.intensity_range
    seen.brightest = max(seen.brightest, (float(images.max()) - low) / (high - low))
    if len({x.tobytes() for x in images}) < len(images):
        seen.first_repeated = case.index if seen.repeated == 0 else seen.first_repeated
        seen.repeated += 1


def _warnings(seen: Seen, archive: Archive) -> list[str]:
    out = []
    if seen.repeated:
        first = f"the first is case {seen.first_repeated}"
        out.append(f"{seen.repeated} cases show the same image at two depths; {first}")
    if len(seen.problems) < archive.cases and seen.brightest < DIM:
        out.append(
            f"the brightest px is at {seen.brightest:.0%} of the intensity range; "
            "set the attribute mcdiff.intensity_range"
        )
    return out
