"""The commands `bench picture ...`; what draws is imported when it is asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
NEW = click.Path(dir_okay=False, path_type=Path)
RESULTS = Path(__file__).parents[1] / "results"


@click.group()
def picture() -> None:
    """Draw README's pictures as PNG files; cases are chosen by rule, not by hand."""


def _truth(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--truth", type=FOLDER, required=True, help="the phantom archive")(command)


def _output(name: str) -> Callable[..., Any]:
    return click.option("--output", type=NEW, default=RESULTS / name, help=f"default: {name}")


def _of_a_run(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of pictures of a run, and the real image beside it."""
    for option in (
        click.option("--real", type=FILE, help="a real scan of 0.18 mm/px, enhanced likewise"),
        click.option("--bundle", type=FOLDER, help="of the run; default: the shipped one"),
        _truth,
        click.option("--run", type=FOLDER, required=True, help="output of `mcdiff-batch run`"),
    ):
        command = option(command)
    return command


@picture.command("before-after")
@_of_a_run
@_output("before_after.png")
def before_after(**options: Any) -> None:
    """Original, enhanced and clean target of three difficult phantoms, and a real scan.

    Of the difficult phantoms of a run, those at the 10th, 50th and 90th percentile of what they
    gain in PSNR to clean.
    """
    from .picture import before_after

    _drawn(before_after, **options)


@picture.command()
@_of_a_run
@_output("uncertainty.png")
def uncertainty(**options: Any) -> None:
    """Mean and spread of draws, and the true error, of two difficult phantoms and a real scan.

    Of a run with --draws 8; the phantoms are those at the 25th and 75th percentile of the gain.
    """
    from .picture import uncertainty

    _drawn(uncertainty, **options)


def _drawn(draw: Callable[..., list[str]], bundle: Path | None, output: Path, **more: Any) -> None:
    from mcdiff_batch.engine.model.contract import SHIPPED, load_bundle

    said = draw(bundle=load_bundle(bundle or SHIPPED), path=output, **more)
    _say(output, said)


@picture.command()
@click.option(
    "--work", type=FOLDER, required=True, help="trainings that `bench experiments` left (.work)"
)
@_truth
@click.option("--evaluations", type=click.IntRange(1, 1000), default=1, show_default=True)
@click.option("--temperature", type=click.FloatRange(0, 1), default=0.0, show_default=True)
@_output("conditions.png")
def conditions(output: Path, **options: Any) -> None:
    """Two cases by the conditions of the paper's Fig. 8: what the tuner is told of the spine.

    Of the difficult ones among the first 48, those at the 25th and 75th percentile of what the arm
    with multi-depth features gains.
    """
    from .picture import conditions

    _say(output, conditions(path=output, **options))


def _say(output: Path, said: list[str]) -> None:
    for words in said:
        click.echo(words)
    click.echo(output)
