"""Commands of evaluation; `segmenter` alone needs PyTorch, inside."""

from pathlib import Path

import click

PATH = click.Path(exists=True, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.option("--run", type=FOLDER, help="output of `mcdiff-batch run`")
@click.option("--images", type=PATH, help="any method's: zarr `enhanced (case, y, x)`, or PNGs")
@click.option("--truth", type=FOLDER, required=True, help="the phantom archive that was enhanced")
@click.option("--second", type=PATH, help="the same from another noise seed: intra-rater rows")
@click.option(
    "--against",
    type=PATH,
    multiple=True,
    help="another method's run or images of the same archive, such as plain regression: a row of "
    "its own, named as the path is, and bars; may be repeated",
)
@click.option("--bundle", type=FOLDER, help="whose frame; default: the shipped bundle")
@click.option("--json", "as_json", is_flag=True, help="everything, per case, as JSON")
def evaluate(
    run: Path | None,
    images: Path | None,
    truth: Path,
    second: Path | None,
    against: tuple[Path, ...],
    bundle: Path | None,
    as_json: bool,
) -> None:
    """Score images against the truth: the paper's tables II to V, and what it could not measure.

    Rows: original, floors, methods to compare with, enhanced, ceiling.  CNR and SNR are in 20 ln,
    the paper's logarithm, beside its figures and in the bars, else in dB of 20 log10.  Angles,
    Dice and levels are read from each image's pixels by segmenters that serve evaluation alone.
    """
    from mcdiff_batch.engine.errors import UsageError
    from mcdiff_batch.engine.model.contract import SHIPPED

    from .evaluate import evaluate as evaluated
    from .tables import as_json as told
    from .tables import as_text

    if (run is None) == (images is None):
        raise UsageError("expected either --run or --images; give one of them")
    result = evaluated(
        truth, bundle or SHIPPED, run=run, images=images, second=second, against=against
    )
    click.echo(told(result) if as_json else as_text(result))


@click.command()
@click.option("--data", type=FOLDER, required=True, help="phantom archive, 16 cases or more")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), required=True)
@click.option("--seed", type=int, default=0, show_default=True, help="of weights and batches")
@click.option("--steps", type=click.IntRange(min=1), default=1000, show_default=True)
def segmenter(data: Path, output: Path, seed: int, steps: int) -> None:
    """Train a segmenter for `evaluate`; the two that are shipped were made so."""
    from mcdiff_batch.train.segmenters.training import train_segmenter

    about = train_segmenter(data, output, seed=seed, steps=steps, say=click.echo)
    click.echo("  ".join(f"{name} {value}" for name, value in about.items()))
    click.echo(output)
