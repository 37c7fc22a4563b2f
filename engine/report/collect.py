"""What a run did, as data (`report.json`) and as one offline page (`index.html`).

Reads the output directory, whatever state it is in, and the archive for the pictures of a few
cases.  Case ids appear with `show_ids` only, paths never (P10).
"""

import time
from collections import Counter, deque
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mcdiff_batch.engine.archive.archive import Archive, open_archive
from mcdiff_batch.engine.errors import ArchiveError, Exit, UsageError
from mcdiff_batch.engine.files import file_sha256, json_lines
from mcdiff_batch.engine.image.frame import Frame
from mcdiff_batch.engine.image.gate import explain
from mcdiff_batch.engine.output import ledger, runs
from mcdiff_batch.engine.output.ledger import DONE, FAILED
from mcdiff_batch.engine.output.units import parse_selection
from mcdiff_batch.engine.text import clean

from . import gallery, tally, timings
from .gallery import Pick, Pictures, Wall
from .tally import Tally

SCHEMA = 3
MOST_NOTES = 40  # lines of a bundle's own words
MOST_INCIDENTS = 100
HASHED = (runs.CONFIG, runs.MANIFEST)
Json = dict[str, Any]


def collect(out: Path, *, show_ids: bool = False, archive: Path | None = None) -> Json:
    """Everything the page shows but the pictures; memory holds a few numbers per case."""
    stored = _stored(out)
    found, (source, state) = tally.tally(out), _source(out, stored, archive)
    times, cases = timings.collect(out), _cases(stored, found, source)
    data = {
        "schema": SCHEMA,
        "written_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "version": version("mcdiff-batch"),
        "outcome": _outcome(out, cases, times["work"]["last_ended"]),
        "cases": cases,
        **times,
        "flagged": _flagged(stored, found),
        "failures": _failures(found),
        "incidents": _incidents(out),
        "quality": tally.quality(found),
        "gallery": _gallery(out, stored, found) | {"before": state},
        "provenance": _provenance(out, stored),
    }
    if show_ids and source is not None and source.columns.case_id is not None:
        _name(source, *(data[x]["rows"] for x in ("flagged", "failures")), data["gallery"]["cases"])
    return data


def pictures(out: Path, data: Json, archive: Path | None = None) -> dict[int, Pictures]:
    """Of the gallery's cases that are done."""
    stored = _stored(out)
    settings = stored["settings"]
    wall = Wall(
        out=out,
        frame=Frame(**stored["contract"]["frame"]),
        archive=_source(out, stored, archive)[0],
        cropped=settings["grid"] == "input",
    )
    chosen = {x["case"] for x in data["gallery"]["cases"]}
    return {
        entry.case: wall.pictures(entry.case, entry.extent, entry.optimal or 0)
        for entry in tally.entries(out, chosen, settings["unit_size"])
        if entry.status == DONE and entry.extent is not None
    }


def _stored(out: Path) -> Json:
    stored = runs.load(out)
    if stored is None:
        raise UsageError(f"{out}: no run was begun here; expected the --output of one")
    return stored


def _source(out: Path, stored: Json, archive: Path | None) -> tuple[Archive | None, str]:
    """The run's archive if it can still be read, and a word on it: "read", "gone", "changed"."""
    path = archive or out.parent / f"{out.name.removesuffix('.enhanced')}.zarr"
    try:
        found = open_archive(path)
    except ArchiveError:
        return None, "gone"
    same = found.identity == stored["settings"]["archive"]
    return (found, "read") if same else (None, "changed")


def _cases(stored: Json, found: Tally, source: Archive | None) -> Json:
    """`open`: selected, and neither done nor failed."""
    selected = len(parse_selection(stored["settings"]["cases"], 1 << 62))
    done, failed = found.counts[DONE], found.counts[FAILED]
    return {
        "selected": selected,
        "done": done,
        "failed": failed,
        "open": selected - done - failed,
        "archive": source.cases if source else None,
        "skipped": source.cases - selected if source else None,
        "damaged_records": found.damaged,
    }


def _outcome(out: Path, cases: Json, ended: str | None) -> Json:
    """`state`: complete, failures, running, or stopped; `exit_code` where it is known."""
    if runs.is_running(out):
        return {"state": "running", "exit_code": None, "ended": ended}
    if not cases["open"] and (out / runs.MANIFEST).is_file():
        code = Exit.FAILED_CASES if cases["failed"] else Exit.DONE
        return {"state": "failures" if code else "complete", "exit_code": int(code), "ended": ended}
    ending = Exit.__members__.get(ended or "")
    known = Exit.FAILED_CASES if ended == "COMPLETED" else ending
    return {"state": "stopped", "exit_code": None if known is None else int(known), "ended": ended}


def _flagged(stored: Json, found: Tally) -> Json:
    """`gate`: whether the bundle has one."""
    return {
        "gate": bool(stored["contract"].get("gate")),
        "total": sum(map(bool, found.flags)),
        "kinds": dict(found.kinds.most_common(20)),
        "rows": found.flagged,
    }


def _failures(found: Tally) -> Json:
    total = sum(found.reasons.values())
    return {"total": total, "reasons": dict(found.reasons.most_common(20)), "rows": found.bad}


def _incidents(out: Path) -> Json:
    """The last ones; the kinds of all."""
    kinds: Counter[str] = Counter()
    rows: deque[Json] = deque(maxlen=MOST_INCIDENTS)
    for raw in json_lines(out / ledger.INCIDENTS):
        kinds[clean(raw.get("kind", ""))] += 1
        rows.append({k: clean(raw[k]) for k in ("at", "kind", "detail", "device") if k in raw})
        rows[-1] |= {k: raw[k] for k in ("unit", "case") if isinstance(raw.get(k), int)}
    return {"total": kinds.total(), "kinds": dict(kinds.most_common(20)), "rows": list(rows)}


def _gallery(out: Path, stored: Json, found: Tally) -> Json:
    bad = [Pick(case=x["case"], flag=x["status"]) for x in found.bad]
    agreement = found.column("label_agreement")
    chosen = gallery.picks(bad, found.done, found.cnr_gain, agreement, found.flags)
    size = stored["settings"]["unit_size"]
    known = {x.case: x for x in tally.entries(out, {x.case for x in chosen}, size)}
    rows = [
        {
            "case": pick.case,
            "flag": pick.flag,
            "why": explain(known[pick.case].flags, known[pick.case].quality),
            "reason": clean(known[pick.case].reason),
            "detail": clean(known[pick.case].detail),
            "quality": {k: v for k, v in known[pick.case].quality.items() if k in tally.COLUMNS},
        }
        for pick in chosen
    ]
    return {"draws": stored["settings"].get("draws", 1), "cases": rows}


def _name(source: Archive, *tables: list[Json]) -> None:
    for row in (row for rows in tables for row in rows if row["case"] < source.cases):
        row["id"] = clean(source.key(row["case"]))


def _provenance(out: Path, stored: Json) -> Json:
    contract = stored["contract"]
    notes = {key: contract.get(key) or {} for key in ("gate", "training", "parity")}
    known = ("name", "licence")
    return {
        "settings": flat(stored["settings"]),
        "bundle": flat({key: contract.get(key, "") for key in known} | notes),
        "sampler": {k: v for k, v in contract["sampler"].items() if k != "ladder"},
        "nfe": len(stored["settings"]["ladder"]),
        "frame": contract["frame"],
        "classes": [clean(x) for x in contract["classes"]],
        "sha256": {x: file_sha256(out / x) for x in HASHED if (out / x).is_file()},
    }


def flat(raw: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted names and short texts."""
    out: dict[str, str] = {}
    for key, value in raw.items():
        name = clean(f"{prefix}{key}")
        if isinstance(value, Mapping):
            out |= flat(value, f"{name}.")
        elif value not in ("", None):
            out[name] = clean(_listed(value))
    return dict(list(out.items())[:MOST_NOTES])


def _listed(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
