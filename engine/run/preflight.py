"""Prepares a run before its first unit: the plan is compiled and tried, and the job completed."""

from dataclasses import replace
from pathlib import Path

import click

from mcdiff_batch.engine.backends.backend import Backend
from mcdiff_batch.engine.backends.ort import REFERENCE
from mcdiff_batch.engine.backends.trial import prepare_plan
from mcdiff_batch.engine.errors import DeviceError
from mcdiff_batch.engine.model.contract import Bundle
from mcdiff_batch.engine.model.plan import PlanMaker
from mcdiff_batch.engine.output.runs import PLAN

from .job import Job, resolve


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
