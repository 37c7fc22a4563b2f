"""What the page of a review asks for: the list of cases, one case, and a place for a verdict."""

import math
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import msgspec
from markupsafe import Markup

from mcdiff_batch.engine.archive.archive import Archive
from mcdiff_batch.engine.image.frame import Frame, Pixels
from mcdiff_batch.engine.image.gate import explain
from mcdiff_batch.engine.output import locks, runs, verdicts
from mcdiff_batch.engine.output.ledger import FAILED, OPEN, Entry
from mcdiff_batch.engine.output.verdicts import ACCEPT, LEFT, NONE, REJECT, RIGHT, Verdict, Verdicts
from mcdiff_batch.engine.page.cards import SIDES, WITHOUT_BEFORE, list_numbers
from mcdiff_batch.engine.page.parts import CAUTION
from mcdiff_batch.engine.report.advice import advise_flag
from mcdiff_batch.engine.report.collect import open_source
from mcdiff_batch.engine.report.gallery import BRIGHTEST, COLOURS, HEAT
from mcdiff_batch.engine.text import clean, make_printable

from .blind import draw, enhanced_side
from .catalogue import Catalogue, Row
from .pictures import DAMAGED, DamagedPixels, Planes, PlaneSource

REASONS = (  # of a rejection
    *("structure added", "structure lost", "shape or angle changed", "labels wrong"),
    *("artifact left", "blurred", "scan unusable", "other"),
)
LONGEST = 1000  # characters of a text that a reviewer writes
OPEN_STATE, ACCEPTED, REJECTED, VOID, RATED = range(5)  # of a case, in the list
BY_VERDICT = {ACCEPT: ACCEPTED, REJECT: REJECTED, NONE: OPEN_STATE}
Json = dict[str, Any]


class Refused(Exception):
    """The page asked for something that it cannot have.  code: an HTTP status."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Ballot:
    """What the page sends to be stored."""

    case: int
    pixels: str  # SHA-256 of what was looked at
    verdict: Literal["accept", "reject", "none"] | None = None
    preferred: Literal["left", "equal", "right", "none"] | None = None
    reason: str = ""
    note: str = ""
    instead_of: int | None = None  # to undo: where the line begins that is taken back


@dataclass(kw_only=True)
class Session:
    """A review of one output.  Safe in threads."""

    out: Path
    archive: Archive | Path | None = None
    reviewer: str = ""
    blind: bool = False  # the page may never show which image is which
    seed: int = 0
    show_ids: bool = False
    stored: int = 0  # verdicts of this session
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        run = runs.load_existing(self.out)
        self._run = run
        source, self._before = open_source(self.out, run, self.archive)
        self._ids = source if self.show_ids and source and source.columns.case_id else None
        self._planes = PlaneSource(
            out=self.out,
            frame=Frame(**run.contract["frame"]),
            archive=source,
            cropped=run.settings.grid == "input",
        )
        self._catalogue = Catalogue(self.out)
        self._verdicts = Verdicts(self.out)
        self._refresh()

    def _refresh(self) -> None:
        self._catalogue.refresh()
        with self._lock:
            self._verdicts.refresh()

    def describe(self) -> Json:
        """What stays the same during a session."""
        classes = [clean(x) for x in self._run.contract.get("classes", ())][1:]
        return {
            "version": version("mcdiff-batch"),
            "reviewer": clean(self.reviewer),
            "locked": self.blind,
            "ids": self._ids is not None,
            "classes": [
                {"name": x, "colour": COLOURS[k % len(COLOURS)]} for k, x in enumerate(classes)
            ],
            "draws": self._run.settings.draws,
            "heat": HEAT,
            "brightest": BRIGHTEST,
            "reasons": REASONS,
            "sides": SIDES,
            "caution": CAUTION,
            "missing": self._missing(),
        }

    def _missing(self) -> str:
        """Why there are no images before."""
        words = WITHOUT_BEFORE.get(self._before, "")
        hint = " Start the review again with --input ARCHIVE." if self._before == "gone" else ""
        return words + hint

    def list_cases(self, blind: bool, known: str) -> Json | None:
        """The list; None if it is still as in version `known`.

        Flagged cases come first, then all others by number; in a blind comparison the order is
        drawn, and the list has no flags.
        """
        self._check_open(blind)
        self._refresh()
        at = f"{self._catalogue.version}.{self._verdicts.size}"
        if at == known:
            return None
        rows = list(self._catalogue.rows.values())
        if blind:
            rows.sort(key=lambda x: draw("order", self.seed, self.reviewer, x.case))
        else:
            rows.sort(key=lambda x: (not x.flagged, x.case))
        counts = self._catalogue.counts
        return {
            "version": at,
            "cases": [x.case for x in rows],
            "flagged": "" if blind else "".join("01"[x.flagged] for x in rows),
            "states": "".join(str(self._state(x, blind)) for x in rows),
            "ids": [clean(self._ids.key(x.case)) for x in rows] if self._ids else None,
            "failed": counts[FAILED],
            "open": counts[OPEN],
            "damaged": len(self._catalogue.damaged),
            "running": locks.is_running(self.out),
        }

    def _check_open(self, blind: bool) -> None:
        if self.blind and not blind:
            raise Refused(403, "this review is blind; start it without --blind to see which is new")

    def _state(self, row: Row, blind: bool) -> int:
        if blind:
            mine = self._verdicts.preferences.get((row.case, self.reviewer))
            fits = mine is not None and mine.pixels == row.pixels and mine.preferred != NONE
            return RATED if fits else OPEN_STATE
        latest = self._verdicts.latest.get(row.case)
        if latest is None or latest.verdict == NONE:
            return OPEN_STATE
        return BY_VERDICT[latest.verdict or NONE] if latest.pixels == row.pixels else VOID

    def show(self, case: int, blind: bool) -> tuple[Json, list[Pixels]]:
        """What is said of a case, and its planes in the order that `planes` names.

        Raises Refused where the case cannot be shown.
        """
        self._check_open(blind)
        entry, planes = self._read(case)
        with self._lock:
            self._verdicts.refresh()
        height, width = planes.results["label"].shape
        about: Json = {
            "case": case,
            "id": clean(self._ids.key(case)) if self._ids else None,
            "pixels": entry.pixels,
            "height": height,
            "width": width,
            "mm": planes.spacing_mm if all(map(math.isfinite, planes.spacing_mm)) else None,
        }
        if blind:
            return self._show_blind(about, entry, planes)
        named = {f"depth {k}": x for k, x in enumerate(planes.depths) if x is not None}
        named |= planes.results
        latest = self._verdicts.latest.get(case)
        about |= {
            "planes": list(named),
            "optimal": entry.optimal if planes.depths else None,
            "depths": len(planes.depths),
            "flags": list(_list_flags(entry)),
            "numbers": _list_figures(entry),
            "verdict": self._tell(latest, entry) if latest else None,
        }
        return about, list(named.values())

    def _show_blind(self, about: Json, entry: Entry, planes: Planes) -> tuple[Json, list[Pixels]]:
        before = planes.depths[entry.optimal or 0] if planes.depths else None
        if before is None:
            raise Refused(
                404, "the image before enhancement is not here, so nothing can be compared"
            )
        pair = [before, planes.results["enhanced"]]
        if enhanced_side(self.seed, self.reviewer, entry.case) == LEFT:
            pair.reverse()
        mine = self._verdicts.preferences.get((entry.case, self.reviewer))
        about |= {"planes": [LEFT, RIGHT], "verdict": self._tell(mine, entry) if mine else None}
        return about, pair

    def _read(self, case: int) -> tuple[Entry, Planes]:
        """A run or a repair may write the unit anew at this moment, so there is a second try."""
        for last in (False, True):
            entry = self._catalogue.entry(case, self._run.settings.unit_size)
            if entry is None:
                raise Refused(404, "this case is not done, or not any more")
            try:
                return entry, self._planes.read(entry)
            except DamagedPixels as error:
                if last:
                    raise Refused(410, DAMAGED) from error
        raise AssertionError

    def mark(self, case: int) -> Json:
        """The lines of a case's curve angles.  Raises Refused."""
        self._check_open(blind=False)
        return {"angles": [asdict(x) for x in self._planes.find_angles(self._read(case)[0])]}

    def _tell(self, stored: Verdict, entry: Entry) -> Json:
        """A stored line for the page; nothing says which image was the enhanced one."""
        return {
            "verdict": stored.verdict,
            "preferred": stored.preferred,
            **{x: clean(getattr(stored, x)) for x in ("reason", "reviewer", "time")},
            "note": make_printable(stored.note[:LONGEST]),
            "void": stored.pixels != entry.pixels,
            "at": stored.at,
        }

    def vote(self, data: bytes) -> Json:
        """Stores what the page sends, durably, and returns it as it is stored.

        Raises Refused, and McdiffError where it could not be stored.
        """
        try:
            ballot = msgspec.json.decode(data, type=Ballot)
        except ValueError as error:
            raise Refused(400, "this is no verdict") from error
        if (ballot.verdict is None) == (ballot.preferred is None):
            raise Refused(400, "expected a verdict or a preference")
        self._check_open(blind=ballot.preferred is not None)
        entry = self._catalogue.entry(ballot.case, self._run.settings.unit_size)
        if entry is None or entry.pixels != ballot.pixels:
            raise Refused(409, "the image has changed meanwhile; look at it again")
        with self._lock:
            self._verdicts.refresh()
            key = (ballot.case, self.reviewer)
            before = self._verdicts.preferences if ballot.verdict is None else self._verdicts.latest
            index: Any = key if ballot.verdict is None else ballot.case
            found = before.get(index)
            if ballot.instead_of is not None and (not found or found.at != ballot.instead_of):
                raise Refused(409, "somebody else has judged this case meanwhile; look at it again")
            verdicts.append(self.out, self._line(ballot))
            self._verdicts.refresh()
            self.stored += 1
            return self._tell(before[index], entry)

    def _line(self, ballot: Ballot) -> Verdict:
        blind = ballot.preferred is not None
        return Verdict(
            case=ballot.case,
            pixels=ballot.pixels,
            verdict=ballot.verdict,
            reason=_write(ballot.reason) if ballot.verdict == REJECT else "",
            note=_write(ballot.note),
            reviewer=self.reviewer,
            preferred=ballot.preferred,
            enhanced=enhanced_side(self.seed, self.reviewer, ballot.case) if blind else "",
            blind=("locked" if self.blind else "open") if blind else "",
        )


def _list_flags(entry: Entry) -> Iterator[dict[str, str]]:
    """Each flag: what was found, what it means, and what to do."""
    for check, why in zip(entry.flags, explain(entry.flags, entry.quality), strict=True):
        advice = advise_flag(check)
        yield {"why": why, "means": advice.means, "todo": advice.todo}


def _list_figures(entry: Entry) -> list[list[str]]:
    """Rows of title, before and after, as the report has them."""
    return [[Markup(x).striptags() for x in row] for row in list_numbers(entry.quality)]


def _write(text: str) -> str:
    """What a reviewer wrote, as it is stored: printable, and not endless."""
    return make_printable(text.strip()[:LONGEST])
