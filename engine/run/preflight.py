"""What happens once, before the first unit: the plan is tried, and the job follows what it can."""

from dataclasses import replace
from pathlib import Path

import click

from mcdiff_batch.engine.backends.trial import Attempt, elsewhere, maker
from mcdiff_batch.engine.errors import DeviceError
from mcdiff_batch.engine.model.contract import Bundle
from mcdiff_batch.engine.model.plan import PlanMaker
from mcdiff_batch.engine.output.runs import PLAN

from .job import BATCH_SIZE, Job, resolve


def prepared(
    bundle: Bundle, job: Job, cache: Path, attempt: Attempt = elsewhere
) -> tuple[Job, PlanMaker]:
    """The job as its plan lets it be done, and how workers make that plan.

    A plan whose results depend on the slot is taken at batch size 1, where the user did not ask
    for another.  Raises DeviceError where it cannot be trusted.
    """
    device = job.devices[0]
    if device.kind == "cpu":
        return job, maker(bundle, job.devices, 1)
    resolved = resolve(job)
    batch, kept = resolved.settings.batch_size, job.output / PLAN
    loader, verdict = attempt(bundle, job.plan, device, batch, cache, kept)
    if verdict.mixes_cases and batch == BATCH_SIZE and not (job.batch_size or resolved.begun):
        text = f"{device}: results depend on a case's place in its batch: going on one at a time"
        click.echo(text, err=True)
        batch = 1
        loader, verdict = attempt(bundle, job.plan, device, batch, cache, kept)
    if verdict.faults:
        raise DeviceError(
            f"{device}: {job.plan} cannot be trusted here: {'; '.join(verdict.faults)}; see "
            "`mcdiff-batch doctor`, or use --devices cpu in a new --output"
        )
    return replace(
        job, batch_size=batch, plan_folder=loader.folder, plan_files=dict(loader.hashes)
    ), loader
