"""The command `run`."""

import json
import os
import shlex
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcdiff_batch.engine.cloud.place import Place, parse_place
from mcdiff_batch.engine.errors import (
    DeviceError,
    Drained,
    Exit,
    FingerprintError,
    McdiffError,
    UsageError,
    VerificationError,
)
from mcdiff_batch.engine.text import make_printable, pluralise

from .config import is_typed

if TYPE_CHECKING:
    from mcdiff_batch.engine.archive.archive import Archive
    from mcdiff_batch.engine.model.contract import Bundle
    from mcdiff_batch.engine.run.enhance import Summary
    from mcdiff_batch.engine.run.job import Job
    from mcdiff_batch.engine.run.tracker import Progress

FOLDER = click.Path(path_type=Path)
AT_LEAST_1 = click.IntRange(min=1)
SAME_NAME = (  # options that a Job has under the same name
    *("batch_size", "unit_size", "steps", "seed", "draws", "temperature"),
    *("cases", "limit", "grid", "retry_failed", "finish"),
)


@click.command()
@click.argument("archives", type=parse_place, nargs=-1, metavar="ARCHIVE")
@click.option(
    "--input",
    "named",
    type=parse_place,
    metavar="ARCHIVE",
    help="The archive; the same as ARCHIVE.",
)
@click.option(
    "--output",
    type=parse_place,
    metavar="OUTPUT",
    help="Folder or address (s3://, az://, gs://) for the results (default: archive.enhanced "
    "beside archive.zarr; in the working directory for an archive at an address).",
)
@click.option("--bundle", type=FOLDER, help="Model to use (default: the one that is installed).")
@click.option(
    "--devices",
    metavar="LIST",
    default="auto",
    show_default=True,
    help="auto (all GPUs of one kind, or the CPU), cpu, cpu:2 (two workers), cuda:0,cuda:1.",
)
@click.option(
    "--on",
    metavar="WHERE",
    default="processes",
    show_default=True,
    help="processes: on this machine. ray=ADDRESS: on all hosts of the Ray cluster at that "
    "address; start the command on one of them. ray: Ray on this machine alone. Each host uses "
    "the devices that --devices names, on the CPU with one worker (cpu:2: two). All hosts need "
    "the same kind of device, and see archive and output at the same paths.",
)
@click.option(
    "--batch-size",
    metavar="N",
    type=AT_LEAST_1,
    help="Cases that the model processes together (default: 4 on the CPU, 8 on a GPU).",
)
@click.option(
    "--unit-size",
    metavar="N",
    type=AT_LEAST_1,
    help="Cases that are saved together, in one file per image array (default: 32).",
)
@click.option("--sampler", metavar="NAME", help="ddim, dpmpp_2m or fitted (default: the bundle's).")
@click.option(
    "--steps",
    metavar="N",
    type=click.IntRange(1, 1000),
    help="Network evaluations per case (default: the bundle's).",
)
@click.option("--seed", type=int, metavar="N", help="Seed of the starting noise (default: 0).")
@click.option(
    "--draws",
    metavar="N",
    type=AT_LEAST_1,
    help="Results per case, each from its own starting noise; their mean and their standard "
    "deviation are saved (default: 1). Two or more take at least 10 steps each, unless --steps "
    "is given.",
)
@click.option(
    "--temperature",
    metavar="X",
    type=click.FloatRange(0, 1),
    help="Scale of the starting noise (default: the bundle's; 1 if that is 0 and --draws is 2 or "
    "more).",
)
@click.option("--limit", type=AT_LEAST_1, metavar="N", help="Enhance only the first N cases.")
@click.option(
    "--cases", metavar="LIST", help="Enhance only these cases; write for example 0,3,5-9."
)
@click.option(
    "--grid",
    type=click.Choice(["frame", "input"]),
    help="Pixels of the results: the model's frame, or those of the input (default: frame).",
)
@click.option(
    "--dry-run", is_flag=True, help="Print what the run would do, or has left to do; write nothing."
)
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
@click.option(
    "--repair",
    is_flag=True,
    help="First check all files of the output, as `verify` does, and do damaged ones again.",
)
@click.option(
    "--part",
    metavar="k/n",
    help="Do part k of n, beside other parts on this machine or others; auto: the part that a "
    "Slurm array or a Kubernetes Indexed Job names.",
)
@click.option("--finish", is_flag=True, help="Complete an output whose parts have all been done.")
@click.option("--show-ids", is_flag=True, help="Name cases by id too, on screen and in the report.")
@click.option(
    "--patience",
    metavar="SECONDS",
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
@click.option(
    "--metrics",
    metavar="FILE.prom",
    type=FOLDER,
    help="Write metrics for Prometheus there, every few seconds and at the end, as the node "
    "exporter's textfile collector reads them.",
)
def run(
    archives: tuple[Place, ...], named: Place | None, output: Place | None, **options: Any
) -> int:
    """Enhance every case of ARCHIVE, a folder or an address (s3://, gs://, az://, https://).

    The same command again finishes a run that was stopped.  `mcdiff-batch check --help` describes
    the format of an archive.
    """
    from .outcome import describe_failures, describe_summary
    from .progress import keep_metrics, show_progress

    say = _Say(as_json=options["progress"] == "json")
    warn = lambda text: say.note("warning", text)
    metrics = None if options["dry_run"] else options["metrics"]
    with (
        show_progress(options["progress"]) as show,
        keep_metrics(metrics, show, warn) as keep,
        ExitStack() as at_end,
    ):
        path = _choose_archive(archives, named if is_typed("named") or not archives else None)
        from mcdiff_batch.engine.cluster.place import check_workplace

        check_workplace(options["on"])
        say.step("loading the model ...")
        from mcdiff_batch.engine.cloud.workspace import open_workspace
        from mcdiff_batch.engine.model.contract import SHIPPED, load_bundle
        from mcdiff_batch.engine.output import places, runs

        bundle = load_bundle(options["bundle"] or SHIPPED)
        place = output or places.default_output(path)
        job = _job(path, open_workspace(place), bundle, options)
        places.check_apart(job.output, job.archive.path, bundle.root)
        _check_hosts(options["on"], output)
        keep.output = job.output
        for text in job.archive.warnings:
            warn(text)
        if options["dry_run"]:
            _preview(job, say, repair=options["repair"])
            return Exit.DONE
        if not isinstance(place, Path):
            at_end.callback(_send_journal, job, warn)
        mend = lambda: _repair(job, say) if options["repair"] else 0
        try:
            summary, damaged = _process(job, bundle, options["on"], mend, keep, warn)
        except (Drained, DeviceError):
            if job.part is None and runs.load(job.output) is not None:
                _write_report(job.output, job.archive, say, options)
            raise
        page = _write_report(summary.output, summary.archive, say, options) if not job.part else ""
        ids = summary.archive if options["show_ids"] else None
        lines = describe_failures(summary.output, ids, job.part)
        most = job.max_failures
        if summary.unfinished and most is not None and summary.counts["failed"] > most:
            lines.append(f"stopped, because more than {pluralise(most, 'case')} failed")
        lines.append(describe_summary(summary, page))
        if job.part or (job.finish and summary.unfinished):
            lines.append(_describe_rest(job, options))
        click.echo(make_printable("\n".join(lines)))
        if damaged:
            raise VerificationError(
                f"{job.output}: {pluralise(damaged, 'file')} could not be repaired; see "
                f"`mcdiff-batch verify {job.output}`"
            )
        return summary.exit_code


def _process(
    job: "Job",
    bundle: "Bundle",
    on: str,
    mend: Callable[[], int],
    progress: "Callable[[Progress], None]",
    warn: Callable[[str], None],
) -> "tuple[Summary, int]":
    """Runs the job.  Returns the number of damaged files too that `mend` could not repair."""
    from mcdiff_batch.engine.backends.devices import backend_for
    from mcdiff_batch.engine.backends.plan_cache import cache_root
    from mcdiff_batch.engine.cluster.place import workplace
    from mcdiff_batch.engine.output import runs
    from mcdiff_batch.engine.run.enhance import enhance
    from mcdiff_batch.engine.run.preflight import prepare

    if job.finish:
        return enhance(job, None, progress, warn=warn), 0
    begun = runs.load(job.output) is not None
    prepare_here = lambda: prepare(bundle, job, backend_for(job.devices[0]), cache_root())
    ready, maker = prepare_here()
    damaged = mend()
    with workplace(on, job.devices) as (devices, workers):
        ready = replace(ready, devices=devices)
        try:
            return enhance(ready, maker, progress, workers, warn), damaged
        except FingerprintError:
            if begun or job.part is None:
                raise
            ready, maker = prepare_here()  # another part has begun, and its automatic choices hold
            ready = replace(ready, devices=devices)
            return enhance(ready, maker, progress, workers, warn), damaged


def _describe_rest(job: "Job", options: dict[str, Any]) -> str:
    """Which parts have been seen, and what finishes the run."""
    from mcdiff_batch.engine.output import places

    from .outcome import describe_parts

    words = ["mcdiff-batch", "run", str(job.archive.path)]
    if places.default_output(job.archive.path) != job.output.absolute():
        words += ["--output", str(job.output)]
    if options["bundle"]:
        words += ["--bundle", str(options["bundle"])]
    when = "when all parts are done, finish with" if job.part else "do what is left, then again"
    states = "; ".join(describe_parts(job.output)) or "no part has begun"
    return f"{states}; {when}: {shlex.join([*words, '--finish'])}"


def _check_hosts(on: str, output: Place | None) -> None:
    """Raises UsageError where other hosts could not write to the output."""
    if on.startswith("ray") and output is not None and not isinstance(output, Path):
        raise UsageError(
            f"--on {on}: expected an --output that is a folder of all hosts; for {output} start "
            "`mcdiff-batch run --part k/n` on each host"
        )


def _send_journal(job: "Job", warn: Callable[[str], None]) -> None:
    """Sends the report of a run whose output is in an object store, unless another one is there."""
    from mcdiff_batch.engine.cloud import workspace
    from mcdiff_batch.engine.output import locks

    root, part = job.output, job.part
    living = part in locks.find_living(root) if part else locks.is_running(root)
    if not living:
        try:
            workspace.send(locks.part_folder(root, part) if part else root)
        except OSError as error:
            warn(f"{root}: the report cannot be sent now ({error.strerror}); the next run sends it")


def _resolve(place: Place) -> Place:
    return place.resolve() if isinstance(place, Path) else place


def _preview(job: "Job", say: "_Say", *, repair: bool) -> None:
    """Prints what the run would do."""
    from mcdiff_batch.engine.output.verify import find_damage
    from mcdiff_batch.engine.run.job import resolve

    from .outcome import describe_plan

    resolved = resolve(job)
    found = list(find_damage(job.output)) if repair and resolved.begun else []
    found = [x for x in found if x.unit is None or job.takes(x.unit)]
    for damage in found:
        say.note("damaged", str(damage))
    units = {x.unit for x in found if x.unit is not None}
    click.echo(make_printable(describe_plan(resolved, units)))


def _write_report(
    output: Path, archive: "Archive", say: "_Say", options: dict[str, Any]
) -> Path | str:
    """Returns the page.  A report that cannot be written does not change how the run ended."""
    from mcdiff_batch.engine.page.write import write_report

    try:
        return write_report(output, show_ids=options["show_ids"], archive=archive)
    except (OSError, McdiffError) as error:
        text = f"the report is not written: {error}; `mcdiff-batch report {output}` does it later"
        say.note("warning", text)
        return "not written"


def _choose_archive(archives: tuple[Place, ...], named: Place | None) -> Place:
    """The one archive that the user names.  Raises UsageError, ArchiveError."""
    from mcdiff_batch.engine.output.places import check_is_archive

    if named and all(_resolve(x) == _resolve(named) for x in archives):
        archives = (named,)
    elif named:
        archives = (*archives, named)
    if not archives:
        raise UsageError("no archive is named; write for example: mcdiff-batch run archive.zarr")
    if len(archives) > 1:
        raise UsageError(
            f"expected one archive, found {', '.join(map(str, archives))}; the folder for the "
            "results is named with --output"
        )
    check_is_archive(archives[0])
    return archives[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Say:
    """Tells about the start of a run on stderr: lines of text, or of JSON."""

    as_json: bool

    def step(self, text: str) -> None:
        if not self.as_json:
            click.echo(text, err=True)

    def note(self, kind: str, text: str) -> None:
        line = json.dumps({kind: text}) if self.as_json else f"{kind}: {make_printable(text)}"
        click.echo(line, err=True)


def _repair(job: "Job", say: _Say) -> int:
    """Sets damage aside and says so.  Returns the number of files that stay damaged."""
    from mcdiff_batch.engine.run.enhance import repair

    say.step("checking all files of the output ...")
    mended, kept = repair(job)
    for damage in mended:
        again = "it is written again" if damage.unit is None else "its unit is done again"
        say.note("repair", f"{damage}; {again}")
    for damage in kept:
        say.note(
            "not repaired",
            f"{damage}; other cases of unit {damage.unit} are whole, and the archive has lost one "
            "of them: repair the archive first (see `mcdiff-batch check`)",
        )
    if not mended and not kept:
        say.note("repair", "no file is damaged")
    return len(kept)


def _job(
    archive: Place,
    output: Path,
    bundle: "Bundle",
    options: dict[str, Any],
) -> "Job":
    from mcdiff_batch.engine.archive.archive import open_archive
    from mcdiff_batch.engine.output.units import parse_part
    from mcdiff_batch.engine.run.job import Job
    from mcdiff_batch.engine.run.pool import Limits

    if options["finish"]:
        _check_finish(options)
    part = None if options["part"] is None else parse_part(options["part"], os.environ)
    return Job(
        archive=open_archive(archive),
        output=output,
        contract=bundle.contract,
        bundle=bundle.sha256,
        part=part,
        **_choose_devices(output, options),
        solver=options["sampler"],
        max_failures=0 if options["on_error"] == "stop" else options["max_failures"],
        limits=Limits(patience=options["patience"]),
        **{name: options[name] for name in SAME_NAME},
    )


def _check_finish(options: dict[str, Any]) -> None:
    for name in ("part", "repair", "retry_failed"):
        if options[name]:
            flag = name.replace("_", "-")
            raise UsageError(
                f"--finish --{flag}: --finish processes no case, it only completes an output; "
                f"leave out one of them (a run without --part and --finish takes what is left)"
            )


def _choose_devices(output: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Fields of the Job.  Who only finishes a run need not have the devices that it was done on."""
    from mcdiff_batch.engine.backends.devices import backend_for, devices
    from mcdiff_batch.engine.model.plan import Device
    from mcdiff_batch.engine.output import runs

    stored = runs.load(output) if options["finish"] else None
    if stored is None:
        chosen = devices(options["devices"])
        backend = backend_for(chosen[0])
        return {"devices": chosen, "plan": backend.name, "versions": backend.versions()}
    settings = stored.settings
    return {
        "devices": (Device(kind=settings.device_kind, index=0),),
        "plan": settings.plan,
        "versions": {x: y for x, y in settings.software.items() if x not in runs.WRITERS},
    }
