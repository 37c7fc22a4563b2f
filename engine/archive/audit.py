"""Reads every case of an archive and lists the problems; needs no model."""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from mcdiff_batch.engine.cloud.objects import call_ahead
from mcdiff_batch.engine.cloud.place import Url
from mcdiff_batch.engine.errors import CaseError

from .archive import Archive, Case
from .attributes import is_faint, suggest_range

ABSENT = (  # what may be done about chunks that are not there
    "restore the chunks from a copy; or, if zarr left them out because they equal the fill value, "
    "write the archive again with write_empty_chunks, with the command in "
    "`mcdiff-batch check --help`"
)


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
    """What the audit has found so far.  Only `problems` grows with the archive."""

    problems: list[Problem]
    faint: int = 0  # cases that use little of the intensity range
    first_faint: int = -1
    used: tuple[float, float] = (math.inf, -math.inf)  # values of those cases
    repeated: int = 0  # cases with the same image at two depths
    first_repeated: int = -1


def audit(archive: Archive) -> Audit:
    """Reads every case once.  A case that cannot be read has the reason "unreadable"."""
    findings = Findings(problems=[])
    for index, read in enumerate(_read_ahead(archive)):
        _look(index, read, findings)
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


def _read_ahead(archive: Archive) -> Iterator[Callable[[], Case]]:
    """A function for each case, in order, that returns it or raises; an object store is read by
    several threads, ahead of the calls."""
    cases = range(archive.cases)
    if isinstance(archive.path, Url):
        return (case.result for _, case in call_ahead(archive.read, cases))
    return (partial(archive.read, index) for index in cases)


def _look(index: int, read: Callable[[], Case], findings: Findings) -> None:
    try:
        case = read()
    except CaseError as error:
        findings.problems.append(Problem(index=index, reason=error.reason, detail=error.detail))
    except OSError as error:
        detail = error.strerror or "input/output error"
        findings.problems.append(Problem(index=index, reason="unreadable", detail=detail))
    else:
        _note(case, findings)


def _note(case: Case, findings: Findings) -> None:
    images = case.depths[case.present]
    if is_faint(case.used, case.intensity_range):
        findings.first_faint = case.index if findings.faint == 0 else findings.first_faint
        findings.faint += 1
        low, high = findings.used
        findings.used = min(low, case.used[0]), max(high, case.used[1])
    if len({x.tobytes() for x in images}) < len(images):
        findings.first_repeated = case.index if findings.repeated == 0 else findings.first_repeated
        findings.repeated += 1


def _warnings(findings: Findings, archive: Archive) -> list[str]:
    out = []
    if findings.repeated:
        first = f"the first is case {findings.first_repeated}"
        out.append(f"{findings.repeated} cases show the same image at two depths; {first}")
    if findings.faint:
        count = f"{findings.faint} of {archive.cases} cases"
        first = f"the first is case {findings.first_faint}"
        hint = suggest_range(findings.used, archive.intensity_range, archive.dtype)
        out.append(f"{count} {hint}, as the attribute mcdiff.intensity_range; {first}")
    absent = sum(x.reason == "missing" and "chunk" in x.detail for x in findings.problems)
    if absent:
        out.append(f"{absent} of {archive.cases} cases lack chunks: {ABSENT}")
    return out
