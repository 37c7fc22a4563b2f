"""Prepares a run before its first unit: the plan is compiled and tried, and the output begun."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from mcdiff_batch.engine.backends.backend import BUILD, Backend
from mcdiff_batch.engine.backends.ort import REFERENCE
from mcdiff_batch.engine.backends.trial import prepare_plan
from mcdiff_batch.engine.cloud import workspace
from mcdiff_batch.engine.errors import DeviceError, SpaceError, explain
from mcdiff_batch.engine.model.contract import Bundle
from mcdiff_batch.engine.model.plan import PlanMaker
from mcdiff_batch.engine.output import arrays, durable, ledger, locks, runs, shards
from mcdiff_batch.engine.output.runs import PLAN, Run
from mcdiff_batch.engine.telemetry import tracefile
from mcdiff_batch.engine.text import format_bytes

from .job import Job, ResolvedJob, Survey, bytes_needed, resolve


def prepare(bundle: Bundle, job: Job, backend: Backend, cache: Path) -> tuple[Job, PlanMaker]:
    """Returns the job with its batch size and compiled files, and how workers make its plan.

    If results depend on a case's place in its batch, and neither the user nor an earlier run chose
    the batch size, it becomes 1.  Raises DeviceError if the plan cannot be trusted.
    """
    device = job.devices[0]
    resolved = resolve(job)
    batch, copy = resolved.settings.batch_size, job.output / PLAN
    loader, result = prepare_plan(backend, bundle, job.devices, batch, cache, copy)
    chosen = job.batch_size or resolved.begun
    if result.mixes_cases and batch > 1 and not chosen and backend != REFERENCE:
        text = (
            f"{device.title}: results depend on a case's place in its batch: going on one at a time"
        )
        click.echo(text, err=True)
        batch = 1
        loader, result = prepare_plan(backend, bundle, job.devices, batch, cache, copy)
    if result.faults:
        raise DeviceError(
            f"{device.title}: {backend.name} cannot be trusted here: {'; '.join(result.faults)}; "
            f"{_advice(backend)}"
        )
    files = loader.files
    return replace(
        job,
        batch_size=batch,
        plan_folder=files.folder if files else None,
        plan_files=dict(files.hashes) if files else {},
        canary=result.canary,
    ), loader


def _advice(backend: Backend) -> str:
    doctor = "see `mcdiff-batch doctor`"
    if backend == REFERENCE:
        return f"{doctor}, or use another --bundle"
    return f"{doctor}, or use --devices cpu in a new --output"


def check_space(resolved: ResolvedJob, units: int) -> None:
    """Raises SpaceError if `units` more may not fit on the disk."""
    free = durable.files(resolved.job.output).free_bytes()
    needed = bytes_needed(resolved, units)
    if free is not None and free < needed:
        raise SpaceError(
            f"{resolved.job.output}: {format_bytes(free)} are free, up to {format_bytes(needed)} "
            "are needed; make room, or use an --output elsewhere"
        )


def try_output(job: Job, warn: Callable[[str], None]) -> None:
    """Says what the output's file system cannot promise; clears what a killed run left there.

    Raises UsageError where the output cannot be written to, SpaceError, McdiffError.
    """
    root = job.output
    try:
        weakness = durable.files(root).try_writing()
    except OSError as error:
        raise explain(error, root) from error
    if weakness:
        warn(f"{root}: {weakness}")
    if job.part is None:  # nobody else is writing
        durable.clear_scratch(root)


def begin(resolved: ResolvedJob) -> ResolvedJob:
    """Writes metadata, then run.json: where that exists, the metadata are complete.

    If another part has begun the output at the same moment, what it wrote counts: automatic choices
    are taken over.  Raises FingerprintError where it differs from what was asked for.
    """
    root, job = resolved.job.output, resolved.job
    with locks.units_locked(root):
        there = resolve(job)
        if there.begun:
            return there
        for name, data in metadata_files(resolved).items():
            durable.files(root).write(name, data)
        for name in resolved.layout.images:
            durable.make_folder(root, root / shards.FOLDER / name / "c")
        durable.make_folder(root, root / ledger.FOLDER)
        copy_plan(job)
        contract = asdict(job.contract)
        runs.save(root, Run(settings=resolved.settings, contract=contract))
    return resolve(job)


def open_output(resolved: ResolvedJob, todo: Survey) -> None:
    """Makes a begun output ready for units; while they are done there is no manifest."""
    root = resolved.job.output
    workspace.mark(resolved.journal)
    durable.make_folder(root, resolved.journal / tracefile.FOLDER)
    durable.sync_again(root, [ledger.FOLDER, *shards.folders(resolved.layout, todo.pending)])
    if todo.pending and not resolved.job.finish:
        durable.files(root).remove(runs.MANIFEST)


def copy_plan(job: Job) -> None:
    """Keeps the compiled plan for a later run: compiling again would give other bytes."""
    if job.plan_folder is None:
        return
    for name in (*(job.plan_files or {}), BUILD):
        data = (job.plan_folder / name).read_bytes()
        durable.files(job.output).write(f"{runs.PLAN}/{name}", data)


def metadata_files(resolved: ResolvedJob) -> arrays.Files:
    pixel_mm = arrays.find_pixel_size(resolved.archive, resolved.layout)
    return arrays.metadata_files(resolved.layout, _attributes(resolved), pixel_mm)


def _attributes(resolved: ResolvedJob) -> dict[str, Any]:
    """Attributes of images.zarr: all that a reader needs to know without this program."""
    draws = resolved.settings.draws
    spread = f"standard deviation (n - 1) of {draws} draws' results, grey levels of enhanced"
    return {
        "schema": 1,
        "grid": resolved.settings.grid,
        "frame": asdict(resolved.job.contract.frame),
        "classes": list(resolved.job.contract.classes),
        "intensity_range": [0, 255],
        "label": "label map of the enhanced image",
        "placement": "frame px = (top, left) + scale * input px",
        **({"spread": spread} if draws > 1 else {}),
    }
