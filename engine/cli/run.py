"""`mcdiff-batch run`: its options, what `--dry-run` prints, and what a run prints at its end."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcdiff_batch.engine.errors import DeviceError, Drained
from mcdiff_batch.engine.text import make_printable

if TYPE_CHECKING:
    from mcdiff_batch.engine.backends.backend import Backend
    from mcdiff_batch.engine.model.contract import Bundle
    from mcdiff_batch.engine.model.plan import Device
    from mcdiff_batch.engine.run.enhance import Summary
    from mcdiff_batch.engine.run.job import Job, ResolvedJob

FOLDER = click.Path(path_type=Path)
AT_LEAST_1 = click.IntRange(min=1)
LISTED = 20  # cases that are not done, at the end of a run
SAME_NAME = (  # options that a Job has under the same name
    *("batch_size", "unit_size", "steps", "seed", "draws", "temperature"),
    *("cases", "limit", "grid", "retry_failed"),
)


@click.command()
@click.option("--input", "archive", type=FOLDER, required=True, help="Archive to enhance.")
@click.option(
    "--output",
    type=FOLDER,
    help="Folder for the results (default: archive.enhanced beside archive.zarr).",
)
@click.option("--bundle", type=FOLDER, help="Model to use (default: the one that is installed).")
@click.option(
    "--devices",
    default="auto",
    show_default=True,
    help="auto (all GPUs of one kind, or the CPU), cpu, cpu:2 (two workers), cuda:0,cuda:1.",
)
@click.option(
    "--batch-size",
    type=AT_LEAST_1,
    help="Cases that the model processes together (default: 4 on the CPU, 8 on a GPU).",
)
@click.option(
    "--unit-size",
    type=AT_LEAST_1,
    help="Cases that are saved together, in one file per image array (default: 32).",
)
@click.option("--sampler", help="ddim, dpmpp_2m or fitted (default: the bundle's).")
@click.option(
    "--steps",
    type=click.IntRange(1, 1000),
    help="Network evaluations per case (default: the bundle's).",
)
@click.option("--seed", type=int, help="Seed of the starting noise (default: 0).")
@click.option(
    "--draws",
    type=AT_LEAST_1,
    help="Results per case, each from its own starting noise; their mean and their standard "
    "deviation are saved (default: 1). Two or more take at least 10 steps each, unless --steps "
    "is given.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(0, 1),
    help="Scale of the starting noise (default: the bundle's; 1 if that is 0 and --draws is 2 or "
    "more).",
)
@click.option("--limit", type=AT_LEAST_1, metavar="N", help="Enhance only the first N cases.")
@click.option("--cases", help="Enhance only these cases; write for example 0,3,5-9.")
@click.option(
    "--grid",
    type=click.Choice(["frame", "input"]),
    help="Pixels of the results: the model's frame, or those of the input (default: frame).",
)
@click.option("--dry-run", is_flag=True, help="Print what the run would do; write nothing.")
@click.option(
    "--on-error",
    type=click.Choice(["skip", "stop"]),
    default="skip",
    show_default=True,
    help="Skip a case that fails, or stop the run.",
)
@click.option(
    "--max-failures",
    type=click.IntRange(min=0),
    metavar="N",
    help="Stop the run when more than N cases have failed.",
)
@click.option(
    "--retry-failed", is_flag=True, help="Try failed cases again, after you repaired the archive."
)
@click.option("--show-ids", is_flag=True, help="Name cases by id too, on screen and in the report.")
@click.option(
    "--patience",
    type=click.FloatRange(min=1),
    default=300,
    show_default=True,
    help="Replace a worker that makes no progress for this many seconds.",
)
@click.option(
    "--progress",
    type=click.Choice(["auto", "json"]),
    default="auto",
    show_default=True,
    help="auto: a table on a terminal, otherwise a line every 30 s; json: JSON lines. On stderr.",
)
def run(archive: Path, output: Path | None, **options: Any) -> int:
    """Enhance every case of an archive.

    The same command again finishes a run that was stopped.
    """
    from mcdiff_batch.engine.backends.devices import backend_for, devices
    from mcdiff_batch.engine.backends.plan_cache import cache_root
    from mcdiff_batch.engine.model.contract import SHIPPED, load_bundle
    from mcdiff_batch.engine.output import runs
    from mcdiff_batch.engine.page.write import write_report
    from mcdiff_batch.engine.run.enhance import enhance
    from mcdiff_batch.engine.run.job import resolve
    from mcdiff_batch.engine.run.preflight import prepare

    from .progress import show_progress

    bundle = load_bundle(options["bundle"] or SHIPPED)
    chosen = devices(options["devices"])
    backend = backend_for(chosen[0])
    job = _job(archive, output or default_output(archive), bundle, chosen, backend, options)
    if options["dry_run"]:
        click.echo(describe_plan(resolve(job)))
        return 0
    job, maker = prepare(bundle, job, backend, cache_root())
    try:
        with show_progress(options["progress"]) as show:
            summary = enhance(job, maker, show)
    except (Drained, DeviceError):
        if runs.load(job.output) is not None:
            write_report(job.output, show_ids=options["show_ids"], archive=job.archive)
        raise
    page = write_report(summary.output, show_ids=options["show_ids"], archive=summary.archive)
    lines = describe_failures(summary, show_ids=options["show_ids"])
    click.echo(make_printable("\n".join([*lines, describe_summary(summary, page)])))
    return summary.exit_code


def _job(
    archive: Path,
    output: Path,
    bundle: "Bundle",
    chosen: "tuple[Device, ...]",
    backend: "Backend",
    options: dict[str, Any],
) -> "Job":
    from mcdiff_batch.engine.archive.archive import open_archive
    from mcdiff_batch.engine.run.job import Job
    from mcdiff_batch.engine.run.pool import Limits

    return Job(
        archive=open_archive(archive),
        output=output,
        contract=bundle.contract,
        bundle=bundle.sha256,
        devices=chosen,
        plan=backend.name,
        versions=backend.versions(),
        solver=options["sampler"],
        max_failures=0 if options["on_error"] == "stop" else options["max_failures"],
        limits=Limits(patience=options["patience"]),
        **{name: options[name] for name in SAME_NAME},
    )


def default_output(archive: Path) -> Path:
    """archive.enhanced beside archive.zarr."""
    return archive.parent / f"{archive.name.removesuffix('.zarr')}.enhanced"


def describe_plan(resolved: "ResolvedJob") -> str:
    """What a run would do, a line for each setting; for --dry-run."""
    from mcdiff_batch.engine.run.job import bytes_needed, survey

    settings, pending = resolved.settings, len(survey(resolved).pending)
    rows = {
        "output": resolved.job.output,
        "cases": f"{settings.cases} ({len(resolved.selection)} of {resolved.archive.cases})",
        "units": f"{pending} to do, {settings.unit_size} cases each",
        "devices": ", ".join(map(str, resolved.job.devices)),
        "batch size": settings.batch_size,
        "sampler": settings.solver,
        "steps": len(settings.ladder),
        "seed": f"{settings.seed}, temperature {settings.temperature:g}",
        "draws": settings.draws,
        "grid": f"{settings.grid}, {' x '.join(map(str, resolved.layout.image))} px",
        "disk space": f"up to {bytes_needed(resolved, pending) >> 20} MiB",
    }
    lines = [f"{name:<12}{value}" for name, value in rows.items()]
    return "\n".join([*lines, *(f"warning: {text}" for text in resolved.archive.warnings)])


def describe_failures(summary: "Summary", *, show_ids: bool) -> list[str]:
    """A line for each of the first cases that are not done, named by index."""
    from mcdiff_batch.engine.output.ledger import FAILED, OPEN
    from mcdiff_batch.engine.output.manifest import read_entries

    if not (summary.counts[FAILED] or summary.counts[OPEN]):
        return []
    failed = [x for x in read_entries(summary.output) if x.status in (FAILED, OPEN)]
    lines = []
    for entry in failed[:LISTED]:
        name = f" ({summary.archive.key(entry.case)})" if show_ids else ""
        lines.append(f"case {entry.case}{name}: {entry.status} {entry.reason} {entry.detail}")
    if len(failed) > LISTED:
        lines.append(f"... and {len(failed) - LISTED} more; see the report")
    return [" ".join(line.split()) for line in lines]


def describe_summary(summary: "Summary", page: Path) -> str:
    """How a run ended, in one or two lines."""
    counts = summary.counts
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    left = f", {summary.unfinished} left for the next run" if summary.unfinished else ""
    flagged = f"\n{summary.flagged} flagged: look at them first, see report"
    return (
        f"{counts['done']} of {summary.cases} cases done{failed}{left} in {summary.seconds:.0f} s: "
        f"{summary.output} (report: {page}){flagged if summary.flagged else ''}"
    )
