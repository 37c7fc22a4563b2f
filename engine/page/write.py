"""Writes what a run did: one offline page, its data, and a trace for a viewer."""

import json
from pathlib import Path

from mcdiff_batch.engine.output import durable, runs
from mcdiff_batch.engine.report.collect import collect, pictures
from mcdiff_batch.engine.telemetry import tracefile

from . import comparison, page

DATA, PAGE = f"{runs.REPORT}/report.json", f"{runs.REPORT}/index.html"
TRACE = f"{runs.REPORT}/trace.json"


def write_report(
    out: Path, *, show_ids: bool = False, archive: Path | None = None, other: Path | None = None
) -> Path:
    """Writes page, data and trace; the page's path.  `archive`: by default beside the output;
    `other`: the output of a run to set beside this one.

    Raises UsageError where `out` holds no run, SpaceError.
    """
    data = collect(out, show_ids=show_ids, archive=archive)
    if other is not None:
        data["compared"] = comparison.compared(data, collect(other))
    text = json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n"
    durable.write(out, DATA, text.encode())
    trace = json.dumps(tracefile.exported(out), separators=(",", ":"))
    durable.write(out, TRACE, trace.encode())
    durable.write(out, PAGE, page.page(data, pictures(out, data, archive)).encode())
    return out / PAGE
