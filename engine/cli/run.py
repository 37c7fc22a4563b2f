"""`mcdiff-batch run`, and the commands that look at what it made: `status`, `verify`, `report`."""

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcdiff_batch.engine.errors import DeviceError, Drained, UsageError, VerificationError
from mcdiff_batch.engine.text import printable

if TYPE_CHECKING:
    from mcdiff_batch.engine.run.enhance import Summary
    from mcdiff_batch.engine.run.job import Job, Resolved

FOLDER = click.Path(path_type=Path)
OUTPUT = click.Path(path_type=Path, exists=True, file_okay=False)
AT_LEAST_1 = click.IntRange(min=1)


@click.command()
@click.option("--input", "archive", type=FOLDER, required=True, help="Archive to enhance.")
@click.option("--output", type=FOLDER, help="Default: archive.zarr -> archive.enhanced beside it.")
@click.option("--bundle", type=FOLDER, help="Model; default: the shipped one.")
@click.option(
    "--devices", default="auto", show_default=True, help="auto, cpu:2, cuda:0,cuda:1, ..."
)
@click.option("--batch-size", type=AT_LEAST_1, help="Cases per step, fixed for the run.")
@click.option("--unit-size", type=AT_LEAST_1, help="Cases per commit; default: 32.")
@click.option("--sampler", help="ddim, dpmpp_2m or fitted; default: the bundle's.")
@click.option(
    "--steps", type=click.IntRange(1, 1000), help="Network evaluations per case, exactly."
)
@click.option("--seed", type=int, help="Of the noise; default: 0.")
@click.option(
    "--draws",
    type=AT_LEAST_1,
    help="Noise seeds per case; the image is their mean, beside it their spread; default: 1. "
    "Several take 10 evaluations each where the bundle's way has fewer, unless --steps is given.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(0, 1),
    help="Scale of the noise; default: the bundle's, of several draws 1 where that is 0.",
)
@click.option("--limit", type=AT_LEAST_1, help="Only the first so many cases.")
@click.option("--cases", help="Only these, such as 0,3,5-9 (0-based).")
@click.option(
    "--grid", type=click.Choice(["frame", "input"]), help="Of the result; default: the frame."
)
@click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing.")
@click.option("--on-error", type=click.Choice(["skip", "stop"]), default="skip", show_default=True)
@click.option("--max-failures", type=click.IntRange(min=0), help="Stop beyond so many.")
@click.option("--retry-failed", is_flag=True, help="Read failed cases again, after a repair.")
@click.option("--show-ids", is_flag=True, help="Name cases by their id too, not only by index.")
@click.option(
    "--patience",
    type=click.FloatRange(min=1),
    default=300,
    show_default=True,
    help="Seconds without a sign of life after which a worker is replaced.",
)
@click.option(
    "--progress",
    type=click.Choice(["auto", "json"]),
    default="auto",
    show_default=True,
    help="On stderr: a table on a terminal, else a line every 30 s; or JSON lines.",
)
def run(archive: Path, output: Path | None, **options: Any) -> int:
    """Enhance every case of an archive; the same command again finishes what was stopped."""
    from mcdiff_batch.engine.backends.devices import devices
    from mcdiff_batch.engine.backends.plan_cache import cache_root
    from mcdiff_batch.engine.model.contract import SHIPPED, load_bundle
    from mcdiff_batch.engine.output import runs
    from mcdiff_batch.engine.page.write import write_report
    from mcdiff_batch.engine.run.enhance import enhance
    from mcdiff_batch.engine.run.job import resolve
    from mcdiff_batch.engine.run.preflight import prepared

    from .progress import shown

    bundle = load_bundle(options["bundle"] or SHIPPED)
    chosen = devices(options["devices"])
    job = _job(archive, output or beside(archive), bundle, chosen, options)
    if options["dry_run"]:
        click.echo(outlook(resolve(job)))
        return 0
    told: dict[str, Any] = {"show_ids": options["show_ids"], "archive": archive}
    job, maker = prepared(bundle, job, cache_root())
    try:
        with shown(options["progress"]) as progress:
            summary = enhance(job, maker, progress)
    except (Drained, DeviceError):
        if runs.load(job.output) is not None:
            write_report(job.output, **told)
        raise
    page = write_report(summary.output, **told)
    said = failures(summary, archive, ids=options["show_ids"])
    click.echo(printable("\n".join([*said, closing(summary, page)])))
    return summary.exit_code


def _job(archive: Path, output: Path, bundle: Any, chosen: Any, options: dict[str, Any]) -> "Job":
    from mcdiff_batch.engine.backends.devices import plan_of
    from mcdiff_batch.engine.run.job import Job
    from mcdiff_batch.engine.run.pool import Limits

    same = (
        *("batch_size", "unit_size", "steps", "seed", "draws", "temperature"),
        *("cases", "limit", "grid"),
    )
    return Job(
        archive=archive,
        output=output,
        contract=bundle.contract,
        bundle=bundle.sha256,
        devices=chosen,
        plan=plan_of(chosen[0]),
        solver=options["sampler"],
        max_failures=0 if options["on_error"] == "stop" else options["max_failures"],
        limits=Limits(patience=options["patience"]),
        retry_failed=options["retry_failed"],
        **{name: options[name] for name in same},
    )


def beside(archive: Path) -> Path:
    return archive.parent / f"{archive.name.removesuffix('.zarr')}.enhanced"


def outlook(resolved: "Resolved") -> str:
    """What a run would do, for --dry-run."""
    from mcdiff_batch.engine.run.job import bytes_needed, survey

    settings, pending = resolved.settings, len(survey(resolved).pending)
    rows = {
        "output": resolved.job.output,
        "cases": f"{settings.cases} ({len(resolved.selection)} of {resolved.archive.cases})",
        "units": f"{pending} to do, of {settings.unit_size} cases",
        "devices": ", ".join(map(str, resolved.job.devices)),
        "batch size": settings.batch_size,
        "sampler": f"{settings.solver}, {len(settings.ladder)} evaluations",
        "seed": f"{settings.seed}, temperature {settings.temperature:g}",
        "draws": settings.draws,
        "grid": f"{settings.grid}, {' x '.join(map(str, resolved.layout.image))} px",
        "space": f"up to {bytes_needed(resolved, pending) >> 20} MiB",
    }
    lines = [f"{name:<12}{value}" for name, value in rows.items()]
    return "\n".join([*lines, *(f"warning: {text}" for text in resolved.archive.warnings)])


def failures(summary: "Summary", archive: Path, *, ids: bool, most: int = 20) -> list[str]:
    """Cases that are not done, by index; the first few."""
    from mcdiff_batch.engine.archive.archive import open_archive
    from mcdiff_batch.engine.output.ledger import FAILED, OPEN
    from mcdiff_batch.engine.output.manifest import entries

    if not (summary.counts[FAILED] or summary.counts[OPEN]):
        return []
    opened = open_archive(archive) if ids else None
    bad = [x for x in entries(summary.output) if x.status in (FAILED, OPEN)]
    lines = []
    for entry in bad[:most]:
        name = f" ({opened.key(entry.case)})" if opened else ""
        lines.append(f"case {entry.case}{name}: {entry.status} {entry.reason} {entry.detail}")
    more = [f"... and {len(bad) - most} more; see the report"] if len(bad) > most else []
    return [" ".join(line.split()) for line in lines + more]


def closing(summary: "Summary", page: Path) -> str:
    counts = summary.counts
    bad = f", {counts['failed']} failed" if counts["failed"] else ""
    left = f", {summary.unfinished} left for the next run" if summary.unfinished else ""
    odd = f"\n{summary.flagged} flagged: look at them first, see report" if summary.flagged else ""
    return (
        f"{counts['done']} of {summary.cases} cases done{bad}{left} in {summary.seconds:.0f} s: "
        f"{summary.output} (report: {page}){odd}"
    )


@click.command()
@click.argument("output", type=OUTPUT)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for machines.")
@click.option("--watch", is_flag=True, help="Go on until the run ends, as `run` itself shows it.")
def status(output: Path, as_json: bool, watch: bool) -> int:
    """Say how far a run is.  Reads only; may be asked at any time."""
    if watch:
        follow(output, "json" if as_json else "auto")
    found = standing(output)
    if as_json:
        click.echo(json.dumps(found))
    else:
        click.echo(" · ".join(f"{name} {value}" for name, value in found.items()))
    return 0


def follow(output: Path, way: str) -> None:
    """Shows what the run says of itself, until it ends or the user has seen enough."""
    from mcdiff_batch.engine.output import runs
    from mcdiff_batch.engine.run import tracker

    from .progress import shown

    _stored(output)
    with suppress(KeyboardInterrupt), shown(way) as show:
        while runs.is_running(output):
            at = tracker.shared(output)
            if at is not None:
                show(at)
            time.sleep(tracker.SHARED_EVERY)


def standing(output: Path) -> dict[str, Any]:
    from mcdiff_batch.engine.output import ledger, runs
    from mcdiff_batch.engine.output.units import parse_selection

    stored = _stored(output)
    cases = len(parse_selection(stored["settings"]["cases"], 1 << 62))
    counts = dict.fromkeys((*ledger.STATUSES, "flagged"), 0)
    for head in ledger.heads(output):
        for name, count in {**head.counts, "flagged": head.flagged}.items():
            counts[name] += count
    state = "running" if runs.is_running(output) else "stopped"
    complete = (output / runs.MANIFEST).is_file()
    return {"state": "complete" if complete else state, "cases": cases, **counts}


def _stored(output: Path) -> dict[str, Any]:
    from mcdiff_batch.engine.output import runs

    stored = runs.load(output)
    if stored is None:
        raise UsageError(f"{output}: no run was begun here; expected the --output of one")
    return stored


@click.command()
@click.argument("output", type=OUTPUT)
@click.option("--subset", default="1/1", show_default=True, help="Part k of n of the units, k/n.")
def verify(output: Path, subset: str) -> int:
    """Read everything again and compare it to the recorded hashes; exit 8 where it differs."""
    from mcdiff_batch.engine.output.verify import damages

    _stored(output)
    part, parts = _subset(subset)
    found = [str(damage) for damage in damages(output, part, parts)]
    for line in found:
        click.echo(line)
    if found:
        raise VerificationError(
            f"{output}: {len(found)} files are not as they were committed; delete the ledger "
            "records of their units and run the same command again"
        )
    click.echo(f"{output}: all as it was committed")
    return 0


def _subset(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise UsageError(f"--subset {text}: expected k/n with k from 1 to n, such as 1/7")
    return int(part), int(parts)


@click.command()
@click.argument("output", type=OUTPUT)
@click.option("--input", "archive", type=FOLDER, help="Archive; default: the one beside OUTPUT.")
@click.option("--show-ids", is_flag=True, help="Name cases by their id too, not only by index.")
@click.option("--compare", "other", type=OUTPUT, help="Output of another run, to set beside it.")
def report(output: Path, archive: Path | None, show_ids: bool, other: Path | None) -> int:
    """Write the report of a run again."""
    from mcdiff_batch.engine.page.write import write_report

    for folder in (output, other):
        if folder is not None:
            _stored(folder)
    click.echo(write_report(output, show_ids=show_ids, archive=archive, other=other))
    return 0
