"""Commands that read the output of a run: `status`, `verify` and `report`."""

import json
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcdiff_batch.engine.cli.terminal.outcome import (
    LISTED,
    describe_failures,
    describe_parts,
    describe_scope,
)
from mcdiff_batch.engine.cloud.place import Place, parse_place
from mcdiff_batch.engine.errors import Exit, McdiffError, UsageError, VerificationError, explain
from mcdiff_batch.engine.text import make_printable, pluralise

from . import options

if TYPE_CHECKING:
    from mcdiff_batch.engine.archive.archive import Archive
    from mcdiff_batch.engine.output.verify import Damage


def open_output(text: str) -> Path:
    """The folder of an output, or the one that stands for its address."""
    from mcdiff_batch.engine.cloud.workspace import open_workspace

    return open_workspace(parse_place(text))


def open_input(output: Path, archive: Place) -> "Archive":
    """The archive that a user names as that of a run.  Raises ArchiveError, UsageError."""
    from mcdiff_batch.engine.archive.archive import open_archive
    from mcdiff_batch.engine.output import runs

    opened = open_archive(archive)
    if opened.identity != runs.load_existing(output).settings.archive:
        raise UsageError(
            f"--input {archive}: is not the archive of {output}, or its metadata were changed; "
            "name the archive that was enhanced"
        )
    return opened


@click.command()
@click.argument("output", type=open_output, metavar="OUTPUT")
@options.as_json
@click.option("--watch", is_flag=True, help="Show the progress of the run until it ends.")
def status(output: Path, as_json: bool, watch: bool) -> int:
    """Show how far a run is, and which of its cases are not done.

    Reads only, so it is safe at any time.
    """
    from mcdiff_batch.engine.output.places import find_run

    find_run(output)
    if watch:
        _follow(output, "json" if as_json else "auto")
    counts = read_status(output)
    if as_json:
        click.echo(json.dumps(counts))
        return Exit.DONE
    parts = describe_parts(output) if counts["parts"] else []
    lines = [describe_status(output, counts), *parts, *describe_failures(output)]
    if scope := describe_scope(counts["archive_cases"], counts["not_selected"]):
        lines.insert(1, scope)
    click.echo(make_printable("\n".join(lines)))
    return Exit.DONE


def _follow(output: Path, way: str) -> None:
    """Shows the progress of a run until it ends or the user presses Ctrl-C."""
    from mcdiff_batch.engine.cli.terminal.progress import show_progress
    from mcdiff_batch.engine.output import locks
    from mcdiff_batch.engine.run import tracker

    with suppress(KeyboardInterrupt), show_progress(way, watch=True) as show:
        while locks.is_running(output):
            at = tracker.read_progress(output)
            if at is not None:
                show(at)
            time.sleep(tracker.LIVE_PERIOD)
        at = tracker.read_progress(output)
        if at is not None:
            killed = replace(at, state="stopped", exit_code=Exit.UNEXPECTED)
            show(killed if at.exit_code is None else at)


def read_status(output: Path) -> dict[str, Any]:
    """State, cases selected, counts of the cases in finished units, the parts of a run that is not
    complete, and what to do next."""
    from mcdiff_batch.engine.output import durable, ledger, locks, runs
    from mcdiff_batch.engine.output.units import parse_selection
    from mcdiff_batch.engine.report.parts import read_parts

    cases = len(parse_selection(runs.load_existing(output).settings.cases, 1 << 62))
    complete = durable.files(output).exists(runs.MANIFEST)  # before the records, which a run writes
    counts = dict.fromkeys((*ledger.STATUSES, "flagged"), 0)
    for head in ledger.read_heads(output):
        for name, count in {**head.counts, "flagged": head.flagged}.items():
            counts[name] += count
    state = "running" if locks.is_running(output) else "stopped"
    left = cases - counts[ledger.DONE] - counts[ledger.FAILED]
    if complete and not left:
        state = "complete"
    elif complete and left > counts[ledger.OPEN] and state != "running":
        state = "damaged"
    parts = [] if state == "complete" else read_parts(output)
    archive = runs.count_archive(output)
    return {
        "state": state,
        "cases": cases,
        **counts,
        "parts": [{"part": str(x.part), "state": x.state, "units_left": x.left} for x in parts],
        "archive_cases": archive,
        "not_selected": max(0, archive - cases) if archive is not None else 0,
        "remedy": _advise(output, state, left, bool(parts)),
    }


def _advise(output: Path, state: str, left: int, divided: bool) -> str:
    """What to do about a run that is not complete; empty while it runs."""
    if state == "damaged":
        lost = f"records are lost or damaged (see `mcdiff-batch verify {output}`)"
        return f"{lost}; repair with: {_repair_command(output)}"
    if state != "stopped":
        return ""
    if left:
        return "the same command again does the rest"
    if divided:
        return f"finish with: {shlex.join([*_run_command(output), '--finish'])}"
    return "the same command again completes the output"


def describe_status(output: Path, counts: dict[str, Any]) -> str:
    """For example "night.enhanced: state stopped, 5 of 8 cases done, 1 failed, 2 left"."""
    left = counts["cases"] - counts["done"] - counts["failed"]
    ready = counts["state"] == "stopped" and counts["parts"] and not left
    state = "all parts are done" if ready else f"state {counts['state']}"
    parts = [f"{state}, {counts['done']} of {counts['cases']} cases done"]
    numbers = {"failed": counts["failed"], "left": left, "flagged": counts["flagged"]}
    parts += [f"{number} {name}" for name, number in numbers.items() if number]
    todo = f"; {counts['remedy']}" if counts["remedy"] else ""
    return f"{output}: {', '.join(parts)}{todo}"


@click.command()
@click.argument("output", type=open_output, metavar="OUTPUT")
@click.option(
    "--subset",
    default="1/1",
    show_default=True,
    help="Check only part k/n of the images, such as 1/4; each part checks all other files too.",
)
@options.as_json
def verify(output: Path, subset: str, as_json: bool) -> int:
    """Check the files of a run against their hashes.

    Reads all files again and compares them with the ledger and the manifest.  Names each damaged
    file, the cases whose images are lost, and the command that repairs them.  Exit code 8 if a file
    is damaged.
    """
    from mcdiff_batch.engine.output.places import find_run
    from mcdiff_batch.engine.output.verify import find_damage

    find_run(output)
    part, parts = _parse_subset(subset)
    if not as_json:
        click.echo("reading all files ...", err=True)
    found = list(find_damage(output, part, parts))
    remedy = _remedy(output, found)
    if as_json:
        document = {"damaged": [_as_row(x) for x in found], "remedy": remedy}
        click.echo(json.dumps(document))
    else:
        click.echo(make_printable("\n".join(_damage_lines(output, found))))
    if found:
        files = pluralise(len(found), "damaged file")
        raise VerificationError(f"{output}: {files} found; {remedy}")
    return Exit.DONE


def _damage_lines(output: Path, found: Sequence["Damage"]) -> Iterator[str]:
    from mcdiff_batch.engine.output import durable
    from mcdiff_batch.engine.output.ledger import file_name
    from mcdiff_batch.engine.output.runs import MANIFEST

    if not found:
        whole = durable.files(output).exists(MANIFEST)
        rest = "" if whole else f"; the run is not complete, see `mcdiff-batch status {output}`"
        yield f"{output}: all files are as they were committed{rest}"
    for damage in found[:LISTED]:
        record = "" if damage.unit is None else f" (record {file_name(damage.unit)})"
        yield f"{damage}{record if damage.name not in record else ''}"
    if len(found) > LISTED:
        yield f"... and {len(found) - LISTED} more; --json lists them all"


def _as_row(damage: "Damage") -> dict[str, Any]:
    from mcdiff_batch.engine.output.ledger import file_name

    record = None if damage.unit is None else file_name(damage.unit)
    return asdict(damage) | {"record": record}


def _remedy(output: Path, found: Sequence["Damage"]) -> str:
    """What to do about damage; empty if there is none."""
    from mcdiff_batch.engine.output.runs import CONFIG

    if any(x.name == CONFIG for x in found):
        return (
            f"{CONFIG} holds the settings, and nothing can write it again: copy it from a backup, "
            "or run again with a new --output"
        )
    return f"repair with: {_repair_command(output)}" if found else ""


def _repair_command(output: Path) -> str:
    """The command that repairs an output."""
    from mcdiff_batch.engine.backends.devices import devices
    from mcdiff_batch.engine.output import runs

    words = _run_command(output)
    if runs.load_existing(output).settings.device_kind == "cpu" != devices("auto")[0].kind:
        words += ["--devices", "cpu"]
    return shlex.join([*words, "--repair"])


def _run_command(output: Path) -> list[str]:
    """The command that goes on with an output; ARCHIVE and BUNDLE where these are not found."""
    from mcdiff_batch.engine.files import file_sha256
    from mcdiff_batch.engine.model.contract import SHIPPED
    from mcdiff_batch.engine.output import places, runs

    archive = places.default_archive(output)
    words = ["mcdiff-batch", "run", str(archive) if archive.exists() else "ARCHIVE"]
    if not archive.exists() or places.default_output(archive) != output:
        words += ["--output", str(output)]
    if runs.load_existing(output).settings.bundle != file_sha256(SHIPPED / "contract.json"):
        words += ["--bundle", "BUNDLE"]
    return words


def _parse_subset(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise UsageError(f"--subset {text}: expected k/n with k from 1 to n, for example 1/7")
    return int(part), int(parts)


@click.command()
@click.argument("output", type=open_output, metavar="OUTPUT")
@click.option(
    "--input",
    "archive",
    type=parse_place,
    metavar="ARCHIVE",
    help="Archive of the run (default: archive.zarr beside archive.enhanced).",
)
@options.show_ids
@click.option("--show-host", is_flag=True, help="Name the machine that writes the report.")
@click.option(
    "--compare",
    "other",
    type=open_output,
    metavar="OUTPUT",
    help="Output of another run; also write report/comparison.html, which compares the two.",
)
def report(output: Path, archive: Place | None, other: Path | None, **shown: bool) -> int:
    """Write the report of a run again."""
    from mcdiff_batch.engine.cloud import workspace
    from mcdiff_batch.engine.output import locks
    from mcdiff_batch.engine.output.places import find_run
    from mcdiff_batch.engine.page.write import write_report

    for folder in (output, other):
        if folder is not None:
            find_run(folder)
    opened = open_input(output, archive) if archive is not None else None
    try:
        page = write_report(output, archive=opened, other=other, **shown)
    except McdiffError as error:
        if isinstance(error.__cause__, OSError):  # of the place that the user has named
            raise explain(error.__cause__, output) from error
        raise
    if not locks.is_running(output):
        workspace.mark(output)
        workspace.send(output)
    click.echo(make_printable(str(page)))
    return Exit.DONE
