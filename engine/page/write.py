"""Writes the report of a run: one offline page, its data, and a trace for a viewer."""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from mcdiff_batch.engine.archive.archive import Archive, open_archive
from mcdiff_batch.engine.errors import ArchiveError
from mcdiff_batch.engine.output import durable, runs
from mcdiff_batch.engine.output.places import default_archive
from mcdiff_batch.engine.report.collect import collect, draw_pictures
from mcdiff_batch.engine.report.document import as_json
from mcdiff_batch.engine.telemetry import tracefile

from . import comparison, page

DATA, PAGE = f"{runs.REPORT}/report.json", f"{runs.REPORT}/index.html"
TRACE = f"{runs.REPORT}/trace.json"


def write_report(
    out: Path,
    *,
    show_ids: bool = False,
    archive: Archive | Path | None = None,
    other: Path | None = None,
) -> Path:
    """Writes the report of the run in `out` and returns the path of its page.

    archive: the run's archive or its path; by default beside the output.
    other: the output of another run, to compare with.
    Raises UsageError where `out` holds no run, and SpaceError.
    """
    if not isinstance(archive, Archive):
        with suppress(ArchiveError):  # the report will say that it is gone
            archive = open_archive(archive or default_archive(out))
    report = collect(out, show_ids=show_ids, archive=archive)
    if other is not None:
        report = replace(report, compared=comparison.compare(report, collect(other)))
    text = json.dumps(as_json(report), indent=1, sort_keys=True, allow_nan=False) + "\n"
    durable.write(out, DATA, text.encode())
    trace = json.dumps(tracefile.export_trace(out), separators=(",", ":"))
    durable.write(out, TRACE, trace.encode())
    pictures = draw_pictures(out, report, archive)
    durable.write(out, PAGE, page.render(report, pictures).encode())
    return out / PAGE
