"""The verdicts of a review as CSV: a row for each case, and one for each blind comparison."""

import csv
import io
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

from mcdiff_batch.engine.archive.archive import Archive
from mcdiff_batch.engine.output import ledger, verdicts
from mcdiff_batch.engine.output.ledger import DONE, DamagedRecord, Entry
from mcdiff_batch.engine.output.verdicts import ACCEPT, NONE, REJECT, Verdict
from mcdiff_batch.engine.text import make_printable

from .blind import find_better

FIELDS = (
    *("case", "kind", "status", "flags", "state", "verdict", "reason", "note", "reviewer", "time"),
    *("preferred", "enhanced_side", "better", "blind", "pixels_judged", "pixels_now"),
)
STATES = {ACCEPT: "accepted", REJECT: "rejected", NONE: "not reviewed"}
VOID = "void: the image changed since"
FORMULA = "=+-@\t\r"  # a spreadsheet takes what begins so for a formula
Row = dict[str, str]


def write_table(
    out: Path, ids: Archive | None = None, tell: Callable[[str], None] = lambda _: None
) -> str:
    """The table as text.  ids: the archive whose case ids are shown.  Raises UsageError.

    tell: gets a line for each damaged record, whose cases are missing in the table.
    """
    file = io.StringIO()
    fields = (*FIELDS[:1], *(("case_id",) if ids else ()), *FIELDS[1:])
    table = csv.DictWriter(file, fields, restval="", quoting=csv.QUOTE_ALL, lineterminator="\n")
    table.writeheader()
    for row in _rows(out, tell):
        if ids is not None and int(row["case"]) < ids.cases:
            row["case_id"] = ids.key(int(row["case"]))
        table.writerow({name: _neutralise(value) for name, value in row.items()})
    return file.getvalue()


def _rows(out: Path, tell: Callable[[str], None]) -> Iterator[Row]:
    found = verdicts.read(out)
    blind: dict[int, list[Verdict]] = {}
    for (case, _), verdict in sorted(found.preferences.items()):
        blind.setdefault(case, []).append(verdict)
    known = set()
    for entry in _entries(out, tell):
        known.add(entry.case)
        yield _verdict_row(entry.case, entry, found.latest.get(entry.case))
        yield from (_blind_row(x, entry) for x in blind.get(entry.case, ()))
    for case in sorted((found.latest.keys() | blind.keys()) - known):
        if case in found.latest:
            yield _verdict_row(case, None, found.latest[case])
        yield from (_blind_row(x, None) for x in blind.get(case, ()))


def _entries(out: Path, tell: Callable[[str], None]) -> Iterator[Entry]:
    for unit in ledger.list_units(out):
        try:
            yield from ledger.read(out, unit).cases
        except DamagedRecord:
            file = out / ledger.file_name(unit)
            tell(f"{file}: is damaged, so its cases are missing; see `mcdiff-batch verify {out}`")


def _about(case: int, entry: Entry | None) -> Row:
    if entry is None:
        return {"case": str(case), "status": "no record"}
    return {
        "case": str(case),
        "status": entry.status,
        "flags": " ".join(entry.flags),
        "pixels_now": entry.pixels,
    }


def _judged(verdict: Verdict) -> Row:
    return {
        "note": verdict.note,
        "reviewer": verdict.reviewer,
        "time": verdict.time,
        "pixels_judged": verdict.pixels,
    }


def _verdict_row(case: int, entry: Entry | None, verdict: Verdict | None) -> Row:
    row = _about(case, entry) | {"kind": "verdict"}
    if verdict is None:
        return row | {"state": STATES[NONE] if entry and entry.status == DONE else ""}
    state = STATES[verdict.verdict or NONE] if _fits(entry, verdict) else VOID
    judged = _judged(verdict) | {"verdict": verdict.verdict or NONE, "reason": verdict.reason}
    return row | judged | {"state": STATES[NONE] if verdict.verdict == NONE else state}


def _blind_row(verdict: Verdict, entry: Entry | None) -> Row:
    state = "judged" if _fits(entry, verdict) else VOID
    return (
        _about(verdict.case, entry)
        | _judged(verdict)
        | {
            "kind": "blind",
            "state": STATES[NONE] if verdict.preferred == NONE else state,
            "preferred": verdict.preferred or "",
            "enhanced_side": verdict.enhanced,
            "better": find_better(verdict),
            "blind": verdict.blind,
        }
    )


def _fits(entry: Entry | None, verdict: Verdict) -> bool:
    return entry is not None and entry.status == DONE and entry.pixels == verdict.pixels


def _neutralise(text: str) -> str:
    """A field that a spreadsheet shows as text, and a terminal too (P10)."""
    first = unicodedata.normalize("NFKC", text.lstrip()[:1])
    risky = (first and first in FORMULA) or text[:1] in ("\t", "\r")
    return make_printable(f"'{text}" if risky else text)
