"""Options: those that several commands share, and those of `run`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mcdiff_batch.engine.cloud.place import parse_place

Decorator = Callable[[Callable[..., Any]], Any]

PATH = click.Path(path_type=Path)
EXISTING = click.Path(exists=True, path_type=Path)
EXISTING_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
AT_LEAST_1 = click.IntRange(min=1)


def join(*options: Decorator) -> Decorator:
    """One decorator for several options, which `--help` lists in this order."""

    def decorate(command: Callable[..., Any]) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def count(name: str, default: int, text: str, *, at_least: int = 1) -> Decorator:
    """An option for a whole number."""
    kind = click.IntRange(min=at_least)
    return click.option(name, type=kind, default=default, show_default=True, help=text)


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
show_ids = click.option("--show-ids", is_flag=True, help="Name cases by id too.")
bundle = click.option(
    "--bundle", type=EXISTING_FOLDER, help="Model bundle (default: the shipped one)."
)

run_options = join(
    click.option(
        "--input",
        "named",
        type=parse_place,
        metavar="ARCHIVE",
        help="The archive; the same as ARCHIVE.",
    ),
    click.option(
        "--output",
        type=parse_place,
        metavar="OUTPUT",
        help="Folder or address (s3://, az://, gs://) for the results (default: archive.enhanced "
        "beside archive.zarr; in the working directory for an archive at an address).",
    ),
    click.option("--bundle", type=PATH, help="Model to use (default: the one that is installed)."),
    click.option(
        "--devices",
        metavar="LIST",
        default="auto",
        show_default=True,
        help="auto (all GPUs of one kind, or the CPU), cpu, cpu:2 (two workers), cuda:0,cuda:1; "
        "cuda:0,cuda:0 gives a GPU two workers.",
    ),
    click.option(
        "--on",
        metavar="WHERE",
        default="processes",
        show_default=True,
        help="processes: on this machine. ray=ADDRESS: on all hosts of the Ray cluster at that "
        "address; start the command on one of them. ray: Ray on this machine alone. --devices "
        "applies to each host; cpu is one worker, cpu:2 two. All hosts need the same kind of "
        "device, and must see archive and output at the same paths.",
    ),
    click.option(
        "--batch-size",
        metavar="N",
        type=AT_LEAST_1,
        help="Cases that the model processes together (default: 4 on the CPU, 8 on a GPU).",
    ),
    click.option(
        "--unit-size",
        metavar="N",
        type=AT_LEAST_1,
        help="Cases that are saved together, in one file per image array (default: 32).",
    ),
    click.option(
        "--sampler", metavar="NAME", help="ddim, dpmpp_2m or fitted (default: the bundle's)."
    ),
    click.option(
        "--steps",
        metavar="N",
        type=click.IntRange(1, 1000),
        help="Network evaluations per case (default: the bundle's).",
    ),
    click.option("--seed", type=int, metavar="N", help="Seed of the starting noise (default: 0)."),
    click.option(
        "--draws",
        metavar="N",
        type=AT_LEAST_1,
        help="Results per case, each from its own starting noise; their mean and their standard "
        "deviation are saved (default: 1). Two or more take at least 10 steps each, unless --steps "
        "is given.",
    ),
    click.option(
        "--temperature",
        metavar="X",
        type=click.FloatRange(0, 1),
        help="Scale of the starting noise (default: the bundle's; 1 if that is 0 and --draws is 2 "
        "or more).",
    ),
    click.option("--limit", type=AT_LEAST_1, metavar="N", help="Enhance only the first N cases."),
    click.option(
        "--cases", metavar="LIST", help="Enhance only these cases; write for example 0,3,5-9."
    ),
    click.option(
        "--grid",
        type=click.Choice(["frame", "input"]),
        help="Pixels of the results: the model's frame, or those of the input (default: frame).",
    ),
    click.option(
        "--dry-run",
        is_flag=True,
        help="Print what the run would do, or has left to do; write nothing.",
    ),
    click.option(
        "--on-error",
        type=click.Choice(["skip", "stop"]),
        default="skip",
        show_default=True,
        help="Skip a case that fails, or stop the run when the units that it works on are done: "
        "other cases of these units (of 32 cases, see --unit-size) are still enhanced.",
    ),
    click.option(
        "--max-failures",
        type=click.IntRange(min=0),
        metavar="N",
        help="Stop the run when more than N cases have failed; they are counted after each unit of "
        "32 cases (see --unit-size).",
    ),
    click.option(
        "--retry-failed",
        is_flag=True,
        help="Try failed cases again, after you repaired the archive.",
    ),
    click.option(
        "--repair",
        is_flag=True,
        help="First check all files of the output, as `verify` does, and compute damaged ones "
        "again.",
    ),
    click.option(
        "--part",
        metavar="k/n",
        help="Do part k of n: every n-th unit of 32 cases (see --unit-size), so with few cases a "
        "part may have none. Other parts may run at the same time, here or on other machines. "
        "auto: take k and n from a Slurm array or a Kubernetes Indexed Job.",
    ),
    click.option(
        "--finish", is_flag=True, help="Complete an output whose parts have all been done."
    ),
    click.option(
        "--show-ids", is_flag=True, help="Name cases by id too, on screen and in the report."
    ),
    click.option(
        "--patience",
        metavar="SECONDS",
        type=click.FloatRange(min=1),
        default=300,
        show_default=True,
        help="Replace a worker that makes no progress for this many seconds.",
    ),
    click.option(
        "--progress",
        type=click.Choice(["auto", "json"]),
        default="auto",
        show_default=True,
        help="auto: a table on a terminal, otherwise a line every 30 s; json: JSON lines. On "
        "stderr.",
    ),
    click.option(
        "--metrics",
        metavar="FILE.prom",
        type=PATH,
        help="Write metrics for Prometheus to this file, every few seconds and at the end; for the "
        "textfile collector of its node exporter.",
    ),
)
