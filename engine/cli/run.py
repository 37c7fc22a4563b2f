"""The command `run`."""

import json
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
    VerificationError,
)
from mcdiff_batch.engine.text import clean, make_printable, pluralise

from .config import is_typed
from .job import check_hosts, choose_archive, make_job
from .options import run_options

if TYPE_CHECKING:
    from mcdiff_batch.engine.archive.archive import Archive
    from mcdiff_batch.engine.model.contract import Bundle
    from mcdiff_batch.engine.run.enhance import Summary
    from mcdiff_batch.engine.run.job import Job
    from mcdiff_batch.engine.run.tracker import Progress


@click.command()
@click.argument("archives", type=parse_place, nargs=-1, metavar="ARCHIVE")
@run_options
def run(
    archives: tuple[Place, ...], named: Place | None, output: Place | None, **options: Any
) -> int:
    """Enhance every case of an archive.

    ARCHIVE is a folder or an address (s3://, gs://, az://, https://).  The help of `check`
    describes its format.  The same command again finishes a run that was stopped.
    """
    from mcdiff_batch.engine.cli.terminal.outcome import (
        describe_failures,
        describe_scope,
        describe_summary,
    )
    from mcdiff_batch.engine.cli.terminal.progress import keep_metrics, show_progress

    say = _Say(as_json=options["progress"] == "json")
    warn = lambda text: say.note("warning", text)
    metrics = None if options["dry_run"] else options["metrics"]
    with (
        show_progress(options["progress"]) as show,
        keep_metrics(metrics, show, warn) as keep,
        ExitStack() as at_end,
    ):
        path = choose_archive(archives, named if is_typed("named") or not archives else None)
        from mcdiff_batch.engine.cluster.place import check_workplace

        check_workplace(options["on"])
        from mcdiff_batch.engine.cloud.workspace import open_workspace
        from mcdiff_batch.engine.model.contract import SHIPPED, load_bundle
        from mcdiff_batch.engine.output import places, runs
        from mcdiff_batch.engine.run.job import resolve

        bundle = load_bundle(options["bundle"] or SHIPPED)
        place = output or places.default_output(path)
        job = make_job(path, open_workspace(place), bundle, options)
        places.check_apart(job.output, job.archive.path, bundle.root)
        check_hosts(options["on"], output)
        keep.output = job.output
        resolved = resolve(job)  # what is wrong with the options is said before the model is loaded
        if not (options["dry_run"] or job.finish):
            say.step("loading the model ...")
        for text in job.archive.warnings:
            warn(text)
        if scope := describe_scope(job.archive.cases, resolved.not_selected):
            say.step(scope)
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
            lines.append(_describe_stop(most, options["on_error"]))
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


def _describe_stop(most: int, on_error: str) -> str:
    """Why a run has stopped; most: cases that may fail."""
    if most:
        return f"stopped, because more than {pluralise(most, 'case')} failed"
    option = "--on-error stop" if on_error == "stop" else "--max-failures 0"
    return f"stopped, because a case failed ({option})"


def _describe_rest(job: "Job", options: dict[str, Any]) -> str:
    """Which parts have been seen, and what finishes the run."""
    from mcdiff_batch.engine.cli.terminal.outcome import describe_parts
    from mcdiff_batch.engine.output import durable, places, runs
    from mcdiff_batch.engine.report.parts import DONE, read_parts

    if durable.files(job.output).exists(runs.MANIFEST):
        return "the output is complete: there is nothing to do and nothing to finish"
    words = ["mcdiff-batch", "run", str(job.archive.path)]
    if places.default_output(job.archive.path) != job.output.absolute():
        words += ["--output", str(job.output)]
    if options["bundle"]:
        words += ["--bundle", str(options["bundle"])]
    when = "when all parts are done, finish with" if job.part else "do what is left, then again"
    if job.part and all(x.state == DONE for x in read_parts(job.output)):
        when = "all parts are done, finish with"
    states = "; ".join(describe_parts(job.output)) or "no part has begun"
    return f"{states}; {when}: {shlex.join([*words, '--finish'])}"


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


def _preview(job: "Job", say: "_Say", *, repair: bool) -> None:
    """Prints what the run would do."""
    from mcdiff_batch.engine.cli.terminal.outcome import describe_plan
    from mcdiff_batch.engine.output.verify import find_damage
    from mcdiff_batch.engine.run.job import resolve

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
    except Exception as error:  # of any kind: all images are done
        usual = isinstance(error, OSError | McdiffError)
        cause = error if usual else f"unexpected {type(error).__name__}: {clean(error)}"
        text = f"the report is not written: {cause}; `mcdiff-batch report {output}` does it later"
        say.note("warning", text)
        return "not written"


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
