"""The commands `evaluate` and `segmenter`; only `segmenter` imports PyTorch."""

from pathlib import Path

import click

PATH = click.Path(exists=True, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.option("--run", type=FOLDER, help="Output of `mcdiff-batch run`.")
@click.option(
    "--images",
    type=PATH,
    help="Images of any method: a zarr `enhanced (case, y, x)`, or PNG files.",
)
@click.option("--truth", type=FOLDER, required=True, help="The phantom archive that was enhanced.")
@click.option(
    "--second", type=PATH, help="The same from another noise seed; adds the intra-rater rows."
)
@click.option(
    "--against",
    type=PATH,
    multiple=True,
    help="Run or images of another method on the same archive; adds a row, named like the"
    " path, and bars; may be repeated.",
)
@click.option(
    "--bundle", type=FOLDER, help="Bundle whose frame is used (default: the shipped bundle)."
)
@click.option("--json", "as_json", is_flag=True, help="Print everything, per case, as JSON.")
def evaluate(
    run: Path | None,
    images: Path | None,
    truth: Path,
    second: Path | None,
    against: tuple[Path, ...],
    bundle: Path | None,
    as_json: bool,
) -> None:
    """Score images against the truth, with the paper's tables.

    The rows are original, floors, methods to compare with, enhanced, ceiling.  CNR and SNR are in
    dB of 20 log10; only the bars and the tables with the paper's figures have 20 ln, the logarithm
    of the paper.  Angles, Dice and levels are read from each image by segmenters that were trained
    apart from the bundle.
    """
    from mcdiff_batch.engine.errors import UsageError
    from mcdiff_batch.engine.model.contract import SHIPPED

    from . import tables
    from .evaluate import evaluate as score

    if (run is None) == (images is None):
        raise UsageError("give either --run or --images")
    result = score(truth, bundle or SHIPPED, run=run, images=images, second=second, against=against)
    click.echo(tables.as_json(result) if as_json else tables.as_text(result))


@click.command()
@click.option("--data", type=FOLDER, required=True, help="Phantom archive, 16 cases or more.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), required=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of weights and batches.")
@click.option("--steps", type=click.IntRange(min=1), default=1000, show_default=True)
def segmenter(data: Path, output: Path, seed: int, steps: int) -> None:
    """Train a segmenter for `evaluate`.

    This command made the two that are shipped.
    """
    from mcdiff_batch.engine.output.places import check_outside
    from mcdiff_batch.train.segmenters.training import train_segmenter

    check_outside(output)
    about = train_segmenter(data, output, seed=seed, steps=steps, say=click.echo)
    click.echo("  ".join(f"{name} {value}" for name, value in about.items()))
    click.echo(output)
