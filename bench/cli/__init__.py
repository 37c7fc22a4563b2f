"""The command `bench`; each subcommand imports its own modules."""

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from mcdiff_batch.bench.acceptance.cli import COMMANDS, judging_options, run_acceptance
from mcdiff_batch.bench.common.document import NewPath, publish
from mcdiff_batch.bench.studies.picture_cli import picture

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
OUTPUT = click.option("--output", type=NewPath(), help="Also write the JSON here.")


@click.group(invoke_without_command=True)
@judging_options
@click.pass_context
def bench(context: click.Context, /, **options: Any) -> None:
    """Measure whether this machine may be deployed.

    Without a command it measures latency, throughput, io, step and fidelity.  The exit code is 8 if
    --require, --against or --cases in --hours is not met.  In a pipe or a file, the last line is
    one JSON document with hardware and versions.
    """
    if context.invoked_subcommand is None:
        run_acceptance(options)
    elif any(context.get_parameter_source(x) == ParameterSource.COMMANDLINE for x in options):
        raise click.UsageError(f"write options after the command {context.invoked_subcommand}")


for command in (*COMMANDS, picture):
    bench.add_command(command)


@bench.command()
@click.option(
    "--cases",
    type=click.IntRange(min=1),
    multiple=True,
    default=(100, 5000),
    show_default=True,
    help="Number of cases of a run; may be repeated.",
)
@OUTPUT
def memory(cases: tuple[int, ...], output: Path | None) -> None:
    """Measure the peak memory of runs of several lengths.

    The plan has no model.
    """
    from mcdiff_batch.bench.measures import memory

    document = memory.measure(cases)
    _say(document, output)


@bench.command()
@click.option("--repeats", type=click.IntRange(min=1), default=10, show_default=True)
@OUTPUT
def startup(repeats: int, output: Path | None) -> None:
    """Measure the time of `--help`, each time in a new process."""
    from mcdiff_batch.bench.measures import startup

    _say(startup.measure(repeats), output)


@bench.command()
@click.option("--cases", type=click.IntRange(min=64), default=10_000, show_default=True)
@click.option("--repeats", type=click.IntRange(min=1), default=100, show_default=True)
@OUTPUT
def review(cases: int, repeats: int, output: Path | None) -> None:
    """Measure how long a reader waits on the page of `review`.

    Needs chromium.
    """
    from mcdiff_batch.bench.review.waiting import measure

    _say(measure(cases, repeats), output)


@bench.command()
@click.option("--units", type=click.IntRange(min=8), default=200, show_default=True)
@click.option(
    "--pairs", type=click.IntRange(min=1), default=2, show_default=True, help="Runs of each way."
)
@click.option(
    "--nodes", type=click.IntRange(min=1), multiple=True, default=(1, 2), show_default=True
)
@click.option(
    "--cases",
    type=click.IntRange(min=1),
    multiple=True,
    default=(100, 1000, 10_000, 100_000),
    show_default=True,
    help="Number of cases for the driver's memory; may be repeated.",
)
@OUTPUT
def hosts(
    units: int, pairs: int, nodes: tuple[int, ...], cases: tuple[int, ...], output: Path | None
) -> None:
    """Measure what a run over Ray costs.

    Compares it with processes on this machine, in turn.  Needs the extra `ray`.
    """
    from mcdiff_batch.bench.measures import hosts

    _say(hosts.measure(units, pairs, nodes, cases), output)


@bench.command()
@click.option(
    "--play",
    "plays",
    type=(click.IntRange(min=1), click.IntRange(min=1)),
    metavar="HOSTS CASES",
    multiple=True,
    default=((1000, 10_000), (1000, 100_000), (1000, 1_000_000)),
    show_default=True,
    help="Hosts and cases of one measurement; may be repeated.",
)
@OUTPUT
def scale(plays: tuple[tuple[int, int], ...], output: Path | None) -> None:
    """Measure a driver with very many hosts and cases.

    The hosts are simulated.
    """
    from mcdiff_batch.bench.measures import scale

    _say(scale.measure(plays), output)


def _say(document: dict[str, object], output: Path | None) -> None:
    """Prints one line per row for a person, then the document."""
    rows = document["runs"]
    assert isinstance(rows, list)
    for row in rows:
        click.echo("  ".join(f"{key} {value}" for key, value in row.items()))
    publish(document, output)


@bench.command()
@click.option("--cases", type=click.IntRange(min=8), default=256, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=77, show_default=True)
@click.option(
    "--sheet",
    type=NewPath(),
    help="Also write a PNG of twelve phantoms, and of one case of each grade depth by depth.",
)
@click.option(
    "--beside",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A real image of about 0.18 mm/px, put at a random place among them.",
)
@OUTPUT
def phantom(
    cases: int, seed: int, sheet: Path | None, beside: Path | None, output: Path | None
) -> None:
    """Compare phantoms with what is known of real images."""
    from mcdiff_batch.bench.studies import calibration

    if sheet is not None:
        calibration.contact_sheet(sheet, seed, beside)
    _say(calibration.calibrate(cases, seed), output)


@bench.command()
@click.option("--data", type=FOLDER, required=True, help="Phantoms to train on.")
@click.option(
    "--held-out", type=FOLDER, required=True, help="Phantoms to score against their truth."
)
@click.option("--output", type=NewPath(), required=True)
@click.option(
    "--steps",
    type=click.IntRange(min=2),
    default=400,
    show_default=True,
    help="Steps of stage III in each arm; the other stages take a part of them.",
)
@click.option(
    "--from",
    "source",
    type=FOLDER,
    help="Bundle or training folder from which the common stages start.",
)
@click.option(
    "--rater",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Segmenter that reads Dice and levels (default: the shipped one).",
)
@click.option(
    "--arm", "arms", multiple=True, help="Run only this arm, such as base; may be repeated."
)
def experiments(
    data: Path,
    held_out: Path,
    output: Path,
    steps: int,
    source: Path | None,
    rater: Path | None,
    arms: tuple[str, ...],
) -> None:
    """Compare settings of training.

    The same command again continues where it stopped.
    """
    from mcdiff_batch.bench.studies.experiments import Options, run_experiments
    from mcdiff_batch.bench.studies.summary import as_text
    from mcdiff_batch.train.segmenters.rater import SHIPPED

    options = Options(
        data=data,
        held_out=held_out,
        output=output,
        source=source,
        rater=rater or SHIPPED[0],
        steps=steps,
        arms=arms,
        say=lambda text: click.echo(text, err=True),
    )
    click.echo(as_text(document := run_experiments(options)))
    publish(document, None)


@bench.command()
@click.option("--data", type=FOLDER, required=True, help="Held-out phantoms with their truth.")
@click.option("--bundle", type=FOLDER, help="Model bundle (default: the shipped one).")
@click.option(
    "--cases",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Number of cases of --data to use.",
)
@click.option(
    "--evaluations",
    type=click.IntRange(2, 200),
    multiple=True,
    default=(6, 8, 10, 20),
    show_default=True,
    help="Number of evaluations of the published solvers; may be repeated.",
)
@click.option(
    "--work", type=NewPath(folder=True), required=True, help="Folder for references and rows."
)
@click.option("--plot", type=NewPath(), help="Also write a PNG here.")
@click.option(
    "--times/--no-times",
    default=True,
    help="Report seconds; leave them out if other programs load the machine.",
)
@OUTPUT
def fidelity(
    data: Path,
    bundle: Path | None,
    cases: int,
    evaluations: tuple[int, ...],
    work: Path,
    plot: Path | None,
    times: bool,
    output: Path | None,
) -> None:
    """Compare few evaluations with 1000-step DDIM.

    Tries several solvers and ladders.  The same command again continues where it stopped.
    """
    from mcdiff_batch.bench.studies.fidelity import Options, draw, measure
    from mcdiff_batch.engine.model.contract import SHIPPED

    work.mkdir(parents=True, exist_ok=True)
    options = Options(
        bundle=bundle or SHIPPED,
        data=data,
        cases=cases,
        evaluations=evaluations,
        work=work,
        times=times,
        say=lambda text: click.echo(text, err=True),
    )
    document = measure(options)
    if plot is not None:
        draw(document, plot)
    _say(document, output)
