"""The commands `bench picture ...`; each imports its own modules."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mcdiff_batch.bench.common.document import NewPath

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
RESULTS = Path(__file__).parents[1] / "results"


@click.group()
def picture() -> None:
    """Draw the pictures of README as PNG files.

    A rule chooses the cases.
    """


def _truth(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--truth", type=FOLDER, required=True, help="The phantom archive.")(command)


def _output(name: str) -> Callable[..., Any]:
    return click.option("--output", type=NewPath(), default=RESULTS / name, help=f"default: {name}")


def _of_a_run(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of pictures of a run."""
    for option in (
        click.option("--real", type=FILE, help="A real scan of 0.18 mm/px to enhance alike."),
        click.option(
            "--bundle", type=FOLDER, help="Bundle of the run (default: the shipped bundle)."
        ),
        _truth,
        click.option("--run", type=FOLDER, required=True, help="Output of `mcdiff-batch run`."),
    ):
        command = option(command)
    return command


@picture.command("before-after")
@_of_a_run
@_output("before_after.png")
def before_after(**options: Any) -> None:
    """Draw original, enhanced and clean target of three difficult phantoms, and a real scan.

    The phantoms are at the 10th, 50th and 90th percentile of the gain in PSNR to clean.
    """
    from .picture import before_after

    _draw(before_after, **options)


@picture.command()
@_of_a_run
@_output("uncertainty.png")
def uncertainty(**options: Any) -> None:
    """Draw mean and spread of draws, and the true error, of two difficult phantoms.

    Needs a run with --draws 8. The phantoms are at the 25th and 75th percentile of the gain.
    """
    from .picture import uncertainty

    _draw(uncertainty, **options)


def _draw(draw: Callable[..., list[str]], bundle: Path | None, output: Path, **more: Any) -> None:
    from mcdiff_batch.engine.model.contract import SHIPPED, load_bundle

    lines = draw(bundle=load_bundle(bundle or SHIPPED), path=output, **more)
    _say(output, lines)


@picture.command()
@click.option(
    "--work", type=FOLDER, required=True, help="Work folder of `bench experiments` (.work)."
)
@_truth
@click.option("--evaluations", type=click.IntRange(1, 1000), default=1, show_default=True)
@click.option("--temperature", type=click.FloatRange(0, 1), default=0.0, show_default=True)
@_output("conditions.png")
def conditions(output: Path, **options: Any) -> None:
    """Draw two cases under the conditions of the paper's Fig. 8.

    They are the difficult ones among the first 48 at the 25th and 75th percentile of the gain of
    the arm with multi-depth features.
    """
    from .picture import conditions

    _say(output, conditions(path=output, **options))


@picture.command()
@click.option(
    "--output",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=RESULTS,
    help="Folder for review.png and review_dark.png.",
)
def review(output: Path) -> None:
    """Draw the page of `review`, with phantoms that it makes and enhances. Needs chromium."""
    from mcdiff_batch.bench.review.pictures import draw

    for file in draw(output):
        click.echo(file)


def _say(output: Path, lines: list[str]) -> None:
    for words in lines:
        click.echo(words)
    click.echo(output)
