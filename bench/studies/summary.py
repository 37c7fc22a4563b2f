"""The document of the experiments, from the scores of each arm, and its text for a person."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import scoring
from .arms import ALL, ARMS, FRAMES, PAPERS_TABLE_V, TABLE_V, Arm
from .scoring import Columns

EQUAL_DB = 120  # a PSNR beyond this is an image against itself
CONTRAST = ("cnr_ln", "snr_ln")
PAIRED = ("psnr", *CONTRAST)  # measures that are printed with intervals
Scores = Mapping[str, Columns]  # by number of evaluations


def summarise(stored: Mapping[str, Scores], original: Columns, target: Columns) -> dict[str, Any]:
    """Means and intervals of the scores of arms by name, and of the two references."""
    references = {"original": original, "clean target": target}
    base = stored.get(ARMS[0].name, {})
    return {
        "cases": len(original["psnr"]),
        "references": {
            name: {m: scoring.interval(x) for m, x in columns.items() if max(x) < EQUAL_DB}
            for name, columns in references.items()
        },
        "table_v": _table_v(stored, original, TABLE_V),
        "table_v_papers_way": _table_v(stored, original, [x.name for x in PAPERS_TABLE_V]),
        "runs": [
            _row(arm, stored[arm.name], base, original, target) for arm in ALL if arm.name in stored
        ],
    }


def _table_v(
    stored: Mapping[str, Scores], original: Columns, conditions: Sequence[str]
) -> dict[str, Any]:
    """Gains over the original of Table V's conditions, 20 ln: each case's mean over the seeds."""
    table: dict[str, Any] = {}
    for name in conditions:
        names = [name, *(x.name for x in ALL if x.name.startswith(f"{name}, seed "))]
        stored_arms = [stored[x] for x in names if x in stored]
        table[name] = {"seeds": len(stored_arms)}
        for mode in stored_arms[0] if stored_arms else ():
            table[name][mode] = {
                m: scoring.interval(
                    np.subtract(
                        np.mean([x[mode][m] for x in stored_arms], axis=0), original[m]
                    ).tolist()
                )
                for m in CONTRAST
            }
    return table


def _row(
    arm: Arm, found: Scores, base: Scores, original: Columns, target: Columns
) -> dict[str, Any]:
    """A row: means and intervals of an arm, and its paired difference from the base arm, if any."""
    row: dict[str, Any] = {"arm": arm.name, "question": arm.question}
    for mode, columns in found.items():
        row[mode] = {m: scoring.interval(x) for m, x in columns.items()}
        if arm in FRAMES:
            continue  # on another grid than the references and the base
        if base:
            over = {m: np.subtract(x, base[mode][m]).tolist() for m, x in columns.items()}
            row[f"{mode}, over base"] = {m: scoring.interval(x) for m, x in over.items()}
        row[f"{mode}, share of the ceiling's gain"] = {
            m: scoring.gain_share(columns, original, target, m) for m in CONTRAST
        }
    return row


def as_text(document: dict[str, Any]) -> str:
    """The table, for a person: one row per arm and number of evaluations."""
    names = {
        "psnr": "PSNR",
        "cnr_ln": "CNR, ln",
        "snr_ln": "SNR, ln",
        "dice": "Dice",
        "levels": "levels",
    }
    head = "".join(f"{x:>8}" for x in names.values())
    lines = [f"{'':<36}evaluations{head}"]
    for name, means in document["references"].items():
        lines.append(f"{name:<36}{'':11}{_cells(means, names)}")
    for row in document["runs"]:
        for evaluations in map(str, document["evaluations"]):
            cells = _cells(row[evaluations], names)
            lines.append(f"{row['arm']:<36}{evaluations:>11}{cells}")
    lines.append("OVER THE BASE ARM: paired differences, mean and 95 % interval over cases")
    head = "".join(f"{names[x]:>24}" for x in PAIRED)
    lines.append(f"{'':<36}evaluations{head}")
    for row in document["runs"]:
        for evaluations in map(str, document["evaluations"]):
            over = row.get(f"{evaluations}, over base")
            if over is not None and row["arm"] != ARMS[0].name:
                lines.append(f"{row['arm']:<36}{evaluations:>11}{_intervals(over, PAIRED)}")
    for title, key in (("TABLE V", "table_v"), ("TABLE V, the paper's way", "table_v_papers_way")):
        lines.append(f"{title}: gains over the original, 20 ln, mean and 95 % interval over cases")
        for name, found in document[key].items():
            for evaluations in (str(x) for x in document["evaluations"] if str(x) in found):
                cells = _intervals(found[evaluations], CONTRAST)
                lines.append(f"{name:<36}{evaluations:>11}{cells}  {found['seeds']} seeds")
    return "\n".join(lines)


def _intervals(measures: Mapping[str, list[float]], names: Sequence[str]) -> str:
    cells = (measures[x] for x in names)
    return "".join(f"{f'{a:+.2f} ({b:+.2f}..{c:+.2f})':>24}" for a, b, c in cells)


def _cells(means: dict[str, list[float]], names: dict[str, str]) -> str:
    return "".join(f"{means[x][0]:8.2f}" if x in means else f"{'':8}" for x in names)
