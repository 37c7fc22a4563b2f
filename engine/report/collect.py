"""Collects what a run did into a `Report`, and draws the pictures of a few of its cases.

Reads the output directory, whatever state it is in, and the archive for the images before.
Case ids appear only with `show_ids`, paths never (P10).
"""

import hashlib
import socket
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from mcdiff_batch.engine.archive.archive import Archive, open_archive
from mcdiff_batch.engine.errors import ArchiveError, Exit
from mcdiff_batch.engine.image.columns import KEYS
from mcdiff_batch.engine.image.frame import Frame
from mcdiff_batch.engine.image.gate import explain
from mcdiff_batch.engine.output import durable, locks, runs
from mcdiff_batch.engine.output.ledger import DONE, FAILED, OPEN
from mcdiff_batch.engine.output.places import default_archive
from mcdiff_batch.engine.output.runs import Run
from mcdiff_batch.engine.output.units import parse_selection
from mcdiff_batch.engine.text import clean

from . import timings
from .advice import advise_failure, advise_flag, advise_incident, list_problems
from .cases import Tally, count_cases, read_entries, summarise_quality
from .choice import choose_cases
from .document import (
    SCHEMA,
    Card,
    CaseCounts,
    FailedCase,
    Failures,
    Flagged,
    FlaggedCase,
    Gallery,
    IncidentRow,
    Incidents,
    Outcome,
    Problem,
    Provenance,
    Report,
)
from .gallery import Pictures, PictureSource
from .parts import read_incidents

MOST_NOTES = 40  # lines of a bundle's own words
MOST_INCIDENTS = 100
MOST_CAUSES = 1000
MOST_KINDS = 20
HASHED = (runs.CONFIG, runs.MANIFEST)  # files whose hashes the report gives
Key = tuple[str, int | None]  # "case" or "unit", and its index
Row = TypeVar("Row", FlaggedCase, FailedCase, Card)


def collect(
    out: Path,
    *,
    show_ids: bool = False,
    show_host: bool = False,
    archive: Archive | Path | None = None,
) -> Report:
    """Everything that the page shows except the pictures; memory holds a few numbers per case.

    show_host: whether to name this machine.
    Raises UsageError where `out` holds no run.
    """
    run, tally = runs.load_existing(out), count_cases(out)
    source, state = open_source(out, run, archive)
    ids = source if show_ids else None
    times, counts = timings.collect(out), _count(out, run, tally, source)
    incidents, causes = _incidents(out)
    return Report(
        schema=SCHEMA,
        written_at=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        version=version("mcdiff-batch"),
        outcome=_outcome(out, counts, times.work.last_ended),
        cases=counts,
        work=times.work,
        throughput=times.throughput,
        stages=times.stages,
        timeline=times.timeline,
        latency=times.latency,
        machine=times.machine,
        flagged=Flagged(
            gate=bool(run.contract.get("gate")),
            total=sum(map(bool, tally.flags)),
            kinds=dict(tally.kinds.most_common(MOST_KINDS)),
            rows=_with_ids(tally.flagged, ids),
            problems=list_problems(tally.kinds.most_common(MOST_KINDS), advise_flag),
        ),
        failures=Failures(
            total=tally.reasons.total(),
            reasons=dict(tally.reasons.most_common(MOST_KINDS)),
            rows=_with_ids([_with_cause(x, causes, run) for x in tally.failures], ids),
            problems=_failures(tally, counts.open),
        ),
        incidents=incidents,
        quality=summarise_quality(tally),
        gallery=Gallery(
            draws=run.settings.draws, before=state, cases=_with_ids(_cards(out, run, tally), ids)
        ),
        provenance=_provenance(out, run),
        warnings=[clean(x) for x in source.warnings] if source else [],
        host=clean(socket.gethostname()) if show_host else None,
    )


def draw_pictures(
    out: Path, report: Report, archive: Archive | Path | None = None
) -> dict[int, Pictures]:
    """Pictures of the gallery's cases that are done, by case."""
    run = runs.load_existing(out)
    source = PictureSource(
        out=out,
        frame=Frame(**run.contract["frame"]),
        archive=open_source(out, run, archive)[0],
        cropped=run.settings.grid == "input",
    )
    chosen = {card.case for card in report.gallery.cases}
    return {
        entry.case: source.draw(entry)
        for entry in read_entries(out, chosen, run.settings.unit_size)
        if entry.status == DONE and entry.extent is not None
    }


def open_source(out: Path, run: Run, archive: Archive | Path | None) -> tuple[Archive | None, str]:
    """The archive of the run, or None, and whether it is "read", "gone" or "changed"."""
    archive = archive or default_archive(out)
    try:
        source = archive if isinstance(archive, Archive) else open_archive(archive)
    except ArchiveError:
        return None, "gone"
    same = source.identity == run.settings.archive
    return (source, "read") if same else (None, "changed")


def _with_ids(rows: list[Row], source: Archive | None) -> list[Row]:
    if source is None or source.columns.case_id is None:
        return rows
    return [replace(x, id=clean(source.key(x.case))) if x.case < source.cases else x for x in rows]


def _count(out: Path, run: Run, tally: Tally, source: Archive | None) -> CaseCounts:
    selected = len(parse_selection(run.settings.cases, 1 << 62))
    done, failed = tally.counts[DONE], tally.counts[FAILED]
    total = source.cases if source else runs.count_archive(out)
    if total is not None and total < selected:
        total = None  # the metadata of the output are damaged
    return CaseCounts(
        selected=selected,
        done=done,
        failed=failed,
        open=selected - done - failed,
        archive=total,
        skipped=None if total is None else total - selected,
        damaged_records=tally.damaged,
        without_spacing=tally.without_spacing,
    )


def _outcome(out: Path, counts: CaseCounts, ended: str | None) -> Outcome:
    if locks.is_running(out):
        return Outcome(state="running", exit_code=None, ended=ended)
    if not counts.open and durable.files(out).exists(runs.MANIFEST):
        code = Exit.FAILED_CASES if counts.failed else Exit.DONE
        state = "failures" if counts.failed else "complete"
        return Outcome(state=state, exit_code=int(code), ended=ended)
    last = Exit.FAILED_CASES if ended == "COMPLETED" else Exit.__members__.get(ended or "")
    exit_code = None if last is None else int(last)
    return Outcome(state="stopped", exit_code=exit_code, ended=ended)


def _failures(tally: Tally, unfinished: int) -> list[Problem]:
    """What to do about failed cases by reason, and about those that are open, begun or not."""
    failed = [x for x in tally.reasons.most_common(MOST_KINDS) if x[0] != OPEN]
    kinds = [*failed, *([(OPEN, unfinished)] if unfinished else [])]
    return list_problems(kinds, advise_failure)


def _incidents(out: Path) -> tuple[Incidents, dict[Key, str]]:
    """The incidents, and in words the last one of each unit or case, for the last MOST_CAUSES."""
    kinds: Counter[str] = Counter()
    rows: deque[IncidentRow] = deque(maxlen=MOST_INCIDENTS)
    causes: dict[Key, str] = {}
    for raw in read_incidents(out):
        words = {key: clean(raw.get(key, "")) for key in ("at", "kind", "detail", "device")}
        unit, case = (x if isinstance(x, int) else None for x in (raw.get("unit"), raw.get("case")))
        kinds[words["kind"]] += 1
        rows.append(IncidentRow(**words, unit=unit, case=case))
        key = ("unit", unit) if case is None else ("case", case)
        causes.pop(key, None)
        causes[key] = f"{words['kind']}: {words['detail']}"
        if len(causes) > MOST_CAUSES:
            causes.pop(next(iter(causes)))
    shown = kinds.most_common(MOST_KINDS)
    problems = list_problems(shown, advise_incident)
    incidents = Incidents(
        total=kinds.total(), kinds=dict(shown), rows=list(rows), problems=problems
    )
    return incidents, causes


def _with_cause(row: FailedCase, causes: Mapping[Key, str], run: Run) -> FailedCase:
    if row.status != OPEN:
        return row
    unit = causes.get(("unit", row.case // run.settings.unit_size), row.detail)
    return replace(row, detail=causes.get(("case", row.case), unit))


def _cards(out: Path, run: Run, tally: Tally) -> list[Card]:
    picks = choose_cases(tally.done, tally.cnr_gain, tally.agreement, tally.flags)
    chosen = {pick.case for pick in picks}
    entries = {x.case: x for x in read_entries(out, chosen, run.settings.unit_size)}
    return [
        Card(
            case=pick.case,
            flag=pick.flag,
            why=explain(entries[pick.case].flags, entries[pick.case].quality),
            reason=clean(entries[pick.case].reason),
            detail=clean(entries[pick.case].detail),
            quality={k: v for k, v in entries[pick.case].quality.items() if k in KEYS},
        )
        for pick in picks
    ]


def _provenance(out: Path, run: Run) -> Provenance:
    contract, files = run.contract, durable.files(out)
    names = {key: contract.get(key, "") for key in ("name", "licence")}
    notes = {key: contract.get(key) or {} for key in ("gate", "training", "parity")}
    return Provenance(
        settings=flatten(dict(sorted(asdict(run.settings).items()))),
        bundle=flatten(names | notes),
        sampler={key: x for key, x in contract["sampler"].items() if key != "ladder"},
        nfe=len(run.settings.ladder),
        frame=contract["frame"],
        classes=[clean(x) for x in contract["classes"]],
        sha256={x: hashlib.sha256(files.read(x)).hexdigest() for x in HASHED if files.exists(x)},
    )


def flatten(raw: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted names and short texts."""
    out: dict[str, str] = {}
    for key, value in raw.items():
        name = clean(f"{prefix}{key}")
        if isinstance(value, Mapping):
            out |= flatten(value, f"{name}.")
        elif value not in ("", None):
            many = isinstance(value, list | tuple)
            out[name] = clean(", ".join(map(str, value)) if many else value)
    return dict(list(out.items())[:MOST_NOTES])
