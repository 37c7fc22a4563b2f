"""Reads every case of an archive and lists the problems; needs no model."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mcdiff_batch.engine.errors import CaseError

from .archive import Archive, Case

DIM = 0.25  # of the intensity range: if no pixel is brighter, the range is probably wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A case that a run could not enhance."""

    index: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The result of an audit.  Sizes are y, x px without padding."""

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
class Findings:
    """What the audit has found so far.  Only `problems` grows."""

    problems: list[Problem]
    brightest: float = 0.0  # share of the intensity range
    repeated: int = 0  # cases with the same image at two depths
    first_repeated: int = -1


def audit(archive: Archive) -> Audit:
    """Reads every case once.  A case that cannot be read has the reason "unreadable"."""
    findings = Findings(problems=[])
    for index in range(archive.cases):
        _look(archive, index, findings)
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
        problems=tuple(findings.problems),
        warnings=(*archive.warnings, *_warnings(findings, archive)),
    )


def _look(archive: Archive, index: int, findings: Findings) -> None:
    try:
        case = archive.read(index)
    except CaseError as error:
        findings.problems.append(Problem(index=index, reason=error.reason, detail=error.detail))
    except OSError as error:
        detail = error.strerror or "input/output error"
        findings.problems.append(Problem(index=index, reason="unreadable", detail=detail))
    else:
        _note(case, findings)


def _note(case: Case, findings: Findings) -> None:
    images = case.depths[case.present]
    low, high = case.intensity_range
    findings.brightest = max(findings.brightest, (float(images.max()) - low) / (high - low))
    if len({x.tobytes() for x in images}) < len(images):
        findings.first_repeated = case.index if findings.repeated == 0 else findings.first_repeated
        findings.repeated += 1


def _warnings(findings: Findings, archive: Archive) -> list[str]:
    out = []
    if findings.repeated:
        first = f"the first is case {findings.first_repeated}"
        out.append(f"{findings.repeated} cases show the same image at two depths; {first}")
    if len(findings.problems) < archive.cases and findings.brightest < DIM:
        out.append(
            f"the brightest px is at {findings.brightest:.0%} of the intensity range; "
            "set the attribute mcdiff.intensity_range"
        )
    return out
