"""The commands that judge a machine: `bench` itself, and latency, throughput, ... soak."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from mcdiff_batch.bench.common.document import NewPath

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
AT_LEAST_1 = click.IntRange(min=1)
ANY = (
    click.option("--quick", is_flag=True, help="A smoke test: the least that gives a table."),
    click.option("--bundle", type=FOLDER, help="Model bundle (default: the shipped one)."),
    click.option("--devices", help="As for `run` (default: auto)."),
    click.option("--input", "archive", type=FOLDER, help="Your archive (default: phantoms)."),
    click.option(
        "--scratch", type=FOLDER, help="Folder for temporary outputs, on the disk to measure."
    ),
    click.option("--output", type=NewPath(), help="Also write the JSON document here."),
)
CRITERIA = (
    click.option(
        "--require", help="For example 'p95_latency_ms<=400, psnr_db>=45'; exit 8 if not met."
    ),
    click.option("--against", type=FILE, help="JSON of an earlier bench; exit 8 if worse."),
    click.option(
        "--tolerance",
        default="5%",
        show_default=True,
        help="How much worse than --against is allowed.",
    ),
    click.option(
        "--cases", type=AT_LEAST_1, help="Number of cases that must fit in --hours; else exit 8."
    ),
    click.option("--hours", type=click.FloatRange(min=0, min_open=True), help="Time for --cases."),
)
SAMPLES = click.option(
    "--samples", type=AT_LEAST_1, help="Number of cases to measure; for latency, of batches."
)
BATCHES = click.option("--batches", help="Batch sizes, for example 1,2,4.")
Command = Callable[..., Any]


def measuring_options(command: Command) -> Command:
    """Adds the options that all these commands have."""
    return _with(ANY, command)


def judging_options(command: Command) -> Command:
    """Adds those options, and the ones that judge a command's figures."""
    return _with(ANY + CRITERIA, command)


def _with(options: Sequence[Command], command: Command) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def run_acceptance(options: dict[str, Any]) -> None:
    """Runs `bench` without a command: the parts that decide a deployment."""
    parts = ("latency", "throughput", "io", "step", "fidelity")
    _run(options | {"samples": None, "batches": None}, parts)


@click.command()
@judging_options
@SAMPLES
@BATCHES
def latency(**options: Any) -> None:
    """Measure one case from frame to quality: percentiles."""
    _run(options, ("latency",))


@click.command()
@judging_options
@SAMPLES
@BATCHES
@click.option(
    "--repeats", type=AT_LEAST_1, help="Times to measure each setting, interleaved (default: 3)."
)
@click.option(
    "--pairs",
    type=click.IntRange(min=0),
    default=0,
    help="Also compare with the command `run`, so many times in turn.",
)
@click.option("--official", is_flag=True, help="MLPerf's length: at least 600 s and 24,576 cases.")
def throughput(**options: Any) -> None:
    """Measure cases per hour of `run`.

    By batch size, and with one device against all.
    """
    _run(options, ("throughput",))


@click.command(name="io")
@judging_options
@SAMPLES
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    help="Rate of a device that is to be kept busy, cases/s.",
)
def io_(**options: Any) -> None:
    """Measure the host's work around the model.

    Also says how many processes a device needs.
    """
    _run(options | {"batches": None}, ("io",))


@click.command()
@judging_options
@SAMPLES
@BATCHES
def step(**options: Any) -> None:
    """Measure the denoiser alone, against a matrix product."""
    _run(options, ("step",))


@click.command()
@measuring_options
@BATCHES
@click.option(
    "--rounds", type=AT_LEAST_1, help="Rounds in which all are measured in turn (default: 5)."
)
def peers(**options: Any) -> None:
    """Compare with PyTorch, diffusers and the paper's way.

    The paper's way is 1000 steps; of diffusers, the scheduler is used.  All take turns.
    """
    _run(UNJUDGED | options, ("peers",))


@click.command()
@measuring_options
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="How long to measure.",
)
def soak(**options: Any) -> None:
    """Measure the same work for a long time.

    Shows drift of the rate, growth of memory, and throttling.
    """
    _run(UNJUDGED | options, ("soak",))


COMMANDS = (latency, throughput, io_, step, peers, soak)
UNJUDGED: dict[str, Any] = dict.fromkeys(
    ("require", "against", "cases", "hours", "samples", "batches")
)
UNJUDGED |= {"tolerance": "0%"}


def _run(options: dict[str, Any], names: Sequence[str]) -> None:
    from .deployment import carry_out, read_criteria, workload
    from .parts import batch_sizes, parts, phantoms, samples

    criteria = read_criteria(options, names)
    if options["quick"] and "psnr_db" not in criteria.measures:
        names = [name for name in names if name != "fidelity"]
    sizes = batch_sizes(options, names)
    counts = samples(options, names, criteria.samples, sizes)
    with workload(options, phantoms(counts, sizes)) as work:
        chosen = parts(names, options, counts, sizes, work)
        carry_out(work, chosen, criteria, options["output"])
