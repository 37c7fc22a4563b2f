"""Commands that read the output of a run: `status`, `verify` and `report`."""

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from mcdiff_batch.engine.errors import UsageError, VerificationError

OUTPUT = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command()
@click.argument("output", type=OUTPUT)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--watch", is_flag=True, help="Show the progress of the run until it ends.")
def status(output: Path, as_json: bool, watch: bool) -> int:
    """Show how far a run is.

    Reads only, so it is safe at any time.
    """
    if watch:
        _follow(output, "json" if as_json else "auto")
    counts = read_status(output)
    if as_json:
        click.echo(json.dumps(counts))
    else:
        click.echo(" · ".join(f"{name} {value}" for name, value in counts.items()))
    return 0


def _follow(output: Path, way: str) -> None:
    """Shows the progress of a run until it ends or the user presses Ctrl-C."""
    from mcdiff_batch.engine.output import runs
    from mcdiff_batch.engine.run import tracker

    from .progress import show_progress

    runs.load_existing(output)
    with suppress(KeyboardInterrupt), show_progress(way) as show:
        while runs.is_running(output):
            at = tracker.read_progress(output)
            if at is not None:
                show(at)
            time.sleep(tracker.LIVE_PERIOD)


def read_status(output: Path) -> dict[str, Any]:
    """State, cases selected, and counts of the cases in finished units."""
    from mcdiff_batch.engine.output import ledger, runs
    from mcdiff_batch.engine.output.units import parse_selection

    cases = len(parse_selection(runs.load_existing(output).settings.cases, 1 << 62))
    counts = dict.fromkeys((*ledger.STATUSES, "flagged"), 0)
    for head in ledger.read_heads(output):
        for name, count in {**head.counts, "flagged": head.flagged}.items():
            counts[name] += count
    state = "running" if runs.is_running(output) else "stopped"
    complete = (output / runs.MANIFEST).is_file()
    return {"state": "complete" if complete else state, "cases": cases, **counts}


@click.command()
@click.argument("output", type=OUTPUT)
@click.option(
    "--subset",
    default="1/1",
    show_default=True,
    help="Part k of n, written k/n, of the images; all other files are read in every part.",
)
def verify(output: Path, subset: str) -> int:
    """Check the files of a run against their hashes.

    Reads all files again and compares them with the ledger and the manifest.  Exit code 8 if a
    file differs.
    """
    from mcdiff_batch.engine.output import runs
    from mcdiff_batch.engine.output.verify import find_damage

    runs.load_existing(output)
    part, parts = _parse_subset(subset)
    lines = [str(damage) for damage in find_damage(output, part, parts)]
    for line in lines:
        click.echo(line)
    if lines:
        raise VerificationError(
            f"{output}: {len(lines)} files are not as they were committed; delete the ledger "
            "records of their units and run the same command again"
        )
    click.echo(f"{output}: all files are as they were committed")
    return 0


def _parse_subset(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise UsageError(f"--subset {text}: expected k/n with k from 1 to n, for example 1/7")
    return int(part), int(parts)


@click.command()
@click.argument("output", type=OUTPUT)
@click.option(
    "--input",
    "archive",
    type=click.Path(path_type=Path),
    help="Archive of the run (default: archive.zarr beside archive.enhanced).",
)
@click.option("--show-ids", is_flag=True, help="Name cases by id too.")
@click.option("--compare", "other", type=OUTPUT, help="Output of another run to compare with.")
def report(output: Path, archive: Path | None, show_ids: bool, other: Path | None) -> int:
    """Write the report of a run again."""
    from mcdiff_batch.engine.output import runs
    from mcdiff_batch.engine.page.write import write_report

    for folder in (output, other):
        if folder is not None:
            runs.load_existing(folder)
    click.echo(write_report(output, show_ids=show_ids, archive=archive, other=other))
    return 0
