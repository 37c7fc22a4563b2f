"""The commands by which a machine is judged: `bench` itself, and latency, throughput, ... soak."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
AT_LEAST_1 = click.IntRange(min=1)
ANY = (
    click.option(
        "--quick", is_flag=True, help="A smoke test: as little as gives a table and can be judged."
    ),
    click.option("--bundle", type=FOLDER, help="Default: the shipped bundle."),
    click.option("--devices", help="As `run` takes it; default: auto."),
    click.option("--input", "archive", type=FOLDER, help="Your archive; default: phantoms."),
    click.option(
        "--scratch", type=FOLDER, help="Where outputs go meanwhile: the disk that is measured."
    ),
    click.option("--output", type=FILE, help="Write the JSON document there too."),
)
GATE = (
    click.option("--require", help="'p95_latency_ms<=400, psnr_db>=45'; exit 8 where not met."),
    click.option("--against", type=FILE, help="JSON of an earlier bench; exit 8 where worse."),
    click.option(
        "--tolerance", default="5%", show_default=True, help="By how much --against may be worse."
    ),
    click.option(
        "--cases", type=AT_LEAST_1, help="With --hours: do so many fit? Exit 8 where not."
    ),
    click.option(
        "--hours", type=click.FloatRange(min=0, min_open=True), help="The night that --cases have."
    ),
)
SAMPLES = click.option("--samples", type=AT_LEAST_1, help="Cases (latency: batches) to measure.")
BATCHES = click.option("--batches", help="Batch sizes, such as 1,2,4.")
Command = Callable[..., Any]


def measuring(command: Command) -> Command:
    """The options that all these commands share."""
    return _with(ANY, command)


def judging(command: Command) -> Command:
    """Those too by which a command's figures are judged."""
    return _with(ANY + GATE, command)


def _with(options: Sequence[Command], command: Command) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def whole(options: dict[str, Any]) -> None:
    """`bench` with no command: the parts that a deployment is decided by."""
    parts = ("latency", "throughput", "io", "step", "fidelity")
    _run(options | {"samples": None, "batches": None}, parts)


@click.command()
@judging
@SAMPLES
@BATCHES
def latency(**options: Any) -> None:
    """One case through frame, condition, steps, relabel and quality: percentiles."""
    _run(options, ("latency",))


@click.command()
@judging
@SAMPLES
@BATCHES
@click.option("--repeats", type=AT_LEAST_1, help="Of every setting, interleaved; default: 3.")
@click.option("--pairs", type=click.IntRange(min=0), default=0, help="Beside the command `run`.")
@click.option("--official", is_flag=True, help="MLPerf's length: 600 s and 24,576 cases or more.")
def throughput(**options: Any) -> None:
    """Cases an hour of the whole pipeline: batch sizes, and one device against all."""
    _run(options, ("throughput",))


@click.command(name="io")
@judging
@SAMPLES
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    help="Cases/s of a device that is to be kept busy.",
)
def io_(**options: Any) -> None:
    """What the host does around the model, its ceiling, and processes a device needs."""
    _run(options | {"batches": None}, ("io",))


@click.command()
@judging
@SAMPLES
@BATCHES
def step(**options: Any) -> None:
    """The denoiser alone, against a matrix product measured in the same run."""
    _run(options, ("step",))


@click.command()
@measuring
@BATCHES
@click.option("--rounds", type=AT_LEAST_1, help="Of all in turn; default: 5.")
def peers(**options: Any) -> None:
    """The same network by PyTorch, diffusers' scheduler and the paper's 1000 steps, in turn."""
    _run(UNJUDGED | options, ("peers",))


@click.command()
@measuring
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=60.0)
def soak(**options: Any) -> None:
    """The same work for long: drift of the rate, growth of memory, throttling."""
    _run(UNJUDGED | options, ("soak",))


COMMANDS = (latency, throughput, io_, step, peers, soak)
UNJUDGED: dict[str, Any] = dict.fromkeys(
    ("require", "against", "cases", "hours", "samples", "batches")
)
UNJUDGED |= {"tolerance": "0%"}


def _run(options: dict[str, Any], names: Sequence[str]) -> None:
    from .deployment import carry_out, gate, workload
    from .parts import batch_sizes, parts, phantoms, samples

    asked = gate(options, names)
    if options["quick"] and "psnr_db" not in asked.wanted:
        names = [name for name in names if name != "fidelity"]
    sizes = batch_sizes(options, names)
    counts = samples(options, names, asked.samples, sizes)
    with workload(options, phantoms(counts, sizes)) as found:
        chosen = parts(names, options, counts, sizes, found)
        carry_out(found, chosen, asked, options["output"])
