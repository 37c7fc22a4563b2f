"""Table IV: how well ultrasound curve angles agree with the truth, and rater with rater."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .agreement import Agreement, Values, agreement
from .rivals import ENHANCED

CURVES = ("thoracic", "lumbar")
TRUTH, INTRA, INTER = "A against the truth", "A, two noise seeds", "A against B"


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block of the table."""

    title: str
    rows: dict[str, tuple[Agreement, Agreement]]  # thoracic, lumbar


def table_iv(records: list[dict[str, Any]]) -> list[Block]:
    """Rater A against the truth; A on two noise seeds, if there are two; A against rater B."""
    blocks = [_block(TRUTH, records, _with_truth)]
    again = [x for x in records if "second" in x]
    if again:
        thoracic, lumbar = (agreement(*_with_second(again, k)) for k in range(2))
        rows = {ENHANCED: (thoracic, lumbar)}
        blocks.append(Block(title=INTRA, rows=rows))
    blocks.append(_block(INTER, records, _between_raters))
    return blocks


def _block(title: str, records: list[dict[str, Any]], columns: Any) -> Block:
    rows = {}
    for method in records[0]["methods"]:
        thoracic, lumbar = (agreement(*columns(records, method, k)) for k in range(2))
        rows[method] = (thoracic, lumbar)
    return Block(title=title, rows=rows)


def _with_truth(records: list[dict[str, Any]], method: str, curve: int) -> tuple[Values, Values]:
    truth = np.array([x["angles_deg"][curve] for x in records], np.float64)
    return truth, _column(records, method, curve)


def _column(records: list[dict[str, Any]], method: str, curve: int) -> Values:
    return np.array([x["methods"][method][f"{CURVES[curve]}_deg"] for x in records], np.float64)


def _between_raters(
    records: list[dict[str, Any]], method: str, curve: int
) -> tuple[Values, Values]:
    name = f"{CURVES[curve]}_deg"
    second = np.array([x["methods"][method]["rater_b"][name] for x in records], np.float64)
    return _column(records, method, curve), second


def _with_second(records: list[dict[str, Any]], curve: int) -> tuple[Values, Values]:
    name = f"{CURVES[curve]}_deg"
    return _column(records, ENHANCED, curve), np.array([x["second"][name] for x in records])
