"""The Job that the options of `run` ask for."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcdiff_batch.engine.cloud.place import Place
from mcdiff_batch.engine.errors import UsageError

if TYPE_CHECKING:
    from mcdiff_batch.engine.model.contract import Bundle
    from mcdiff_batch.engine.run.job import Job

SAME_NAME = (  # options that a Job has under the same name
    *("batch_size", "unit_size", "steps", "seed", "draws", "temperature"),
    *("cases", "limit", "grid", "retry_failed", "finish"),
)


def choose_archive(archives: tuple[Place, ...], named: Place | None) -> Place:
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


def _resolve(place: Place) -> Place:
    return place.resolve() if isinstance(place, Path) else place


def check_hosts(on: str, output: Place | None) -> None:
    """Raises UsageError where other hosts could not write to the output."""
    if on.startswith("ray") and output is not None and not isinstance(output, Path):
        raise UsageError(
            f"--on {on}: expected an --output that is a folder of all hosts; for {output} start "
            "`mcdiff-batch run --part k/n` on each host"
        )


def make_job(
    archive: Place,
    output: Path,
    bundle: "Bundle",
    options: dict[str, Any],
) -> "Job":
    """Raises ArchiveError, UsageError, DeviceError."""
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
