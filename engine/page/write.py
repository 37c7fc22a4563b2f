"""Writes the report of a run: one offline page, its data, and a trace for a viewer."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from mcdiff_batch.engine.archive.archive import Archive, open_archive
from mcdiff_batch.engine.cloud.workspace import find_address
from mcdiff_batch.engine.errors import ArchiveError
from mcdiff_batch.engine.output import durable, runs
from mcdiff_batch.engine.output.places import default_archive
from mcdiff_batch.engine.report.collect import collect, draw_pictures
from mcdiff_batch.engine.report.document import Report, as_json
from mcdiff_batch.engine.report.gallery import Pictures
from mcdiff_batch.engine.report.parts import MOST_SHOWN, find_journals
from mcdiff_batch.engine.telemetry import tracefile

from . import comparison, page

DATA, PAGE = f"{runs.REPORT}/report.json", f"{runs.REPORT}/index.html"
COMPARED_DATA, COMPARED_PAGE = (f"{runs.REPORT}/comparison.{x}" for x in ("json", "html"))
TRACE = f"{runs.REPORT}/trace.json"


def write_report(
    out: Path,
    *,
    show_ids: bool = False,
    show_host: bool = False,
    archive: Archive | Path | None = None,
    other: Path | None = None,
) -> Path:
    """Writes the report of the run in `out` and returns the path of its page.

    show_host: whether to name this machine.
    archive: the run's archive or its path; by default beside the output.
    other: the output of another run.  The page that is returned is then one beside the report, the
        whole report and how the two runs differ.
    Raises UsageError where `out` holds no run, and SpaceError.
    """
    if not isinstance(archive, Archive):
        with suppress(ArchiveError):  # the report will say that it is gone
            archive = open_archive(archive or default_archive(out))
    report = collect(out, show_ids=show_ids, show_host=show_host, archive=archive)
    pictures = draw_pictures(out, report, archive)
    _write(out, report, pictures, DATA, PAGE)
    folders = [(x.prefix, x.folder) for x in find_journals(out)[: 1 + MOST_SHOWN]]
    trace = json.dumps(tracefile.export_trace(*folders), separators=(",", ":"))
    durable.write(out, TRACE, trace.encode())
    if other is None:
        return out / PAGE
    names = [(find_address(x) or x.resolve()).name for x in (out, other)]
    both = replace(report, compared=comparison.compare(report, collect(other), names))
    _write(out, both, pictures, COMPARED_DATA, COMPARED_PAGE)
    return out / COMPARED_PAGE


def _write(
    out: Path, report: Report, pictures: Mapping[int, Pictures], data_name: str, page_name: str
) -> None:
    text = json.dumps(as_json(report), indent=1, sort_keys=True, allow_nan=False) + "\n"
    durable.write(out, data_name, text.encode())
    durable.write(out, page_name, page.render(report, pictures).encode())
