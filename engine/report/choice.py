"""Chooses the cases that a person should look at first, among those that are done."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MOST = 24  # cases
MOST_PER_REASON = 6
MOST_FLAGGED = 12
SAME = 0.9995  # agreement from here on is shown as 1: nothing has changed
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """A case of the gallery."""

    case: int
    flag: str = ""  # why it is shown: "gate", "agreement", "cnr", or no reason


def choose_cases(
    cases: Sequence[int], gain: Floats, agreement: Floats, flags: Sequence[int]
) -> list[Pick]:
    """At most MOST: flagged cases, least agreement, loss of CNR, then some of the rest.

    gain (of CNR), agreement and flags (how many) are [len(cases)], NaN where undefined.
    """
    rows = rows_with_most_flags(flags, agreement)
    chosen = {cases[row]: Pick(case=cases[row], flag="gate") for row in rows}
    most = min(MOST_PER_REASON, -(-len(cases) // 6))
    changed = np.where(agreement < SAME, agreement, np.nan)
    for row in lowest_rows(changed, most):
        chosen.setdefault(cases[row], Pick(case=cases[row], flag="agreement"))
    for row in lowest_rows(np.where(gain < 0, gain, np.nan), MOST_PER_REASON):
        chosen.setdefault(cases[row], Pick(case=cases[row], flag="cnr"))
    rest = [case for case in cases if case not in chosen]
    return [*chosen.values(), *(Pick(case=x) for x in take_evenly(rest, MOST - len(chosen)))]


def rows_with_most_flags(flags: Sequence[int], agreement: Floats) -> list[int]:
    """Flagged rows, most flags first; of equal ones, the lowest agreement first."""
    counts = np.asarray(flags, int)
    order = np.lexsort((agreement, -counts))
    return [int(row) for row in order[:MOST_FLAGGED] if counts[row]]


def lowest_rows(values: Floats, count: int) -> list[int]:
    """Rows of the `count` lowest values, lowest first, without NaN."""
    order = np.argsort(values, kind="stable")[:count]
    return [int(row) for row in order if not np.isnan(values[row])]


def take_evenly(values: Sequence[int], count: int) -> list[int]:
    """At most `count` of `values`, evenly spaced, both ends included."""
    if len(values) <= count:
        return list(values)
    return [values[int(k)] for k in np.linspace(0, len(values) - 1, count).round()]
