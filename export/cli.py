"""The commands `export`, `fit-steps` and `gate`; PyTorch is imported inside the first."""

from pathlib import Path

import click

FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.argument("trained", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--output", type=FOLDER, required=True, help="bundle folder to write")
@click.option(
    "--data",
    type=click.Path(exists=True, path_type=Path),
    required=True,
    help="archive of held-out phantoms for parity and for choosing the sampler",
)
@click.option(
    "--cases", type=click.IntRange(min=2), default=12, show_default=True, help="of --data to use"
)
@click.option(
    "--temperature",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="scale of the noise that sampling starts from",
)
@click.option(
    "--optimal-share",
    type=click.FloatRange(0, 1),
    help="of the fusion weights, to the optimal depth before the others; default: as trained",
)
def export(
    trained: Path,
    output: Path,
    data: Path,
    cases: int,
    temperature: float,
    optimal_share: float | None,
) -> None:
    """Turn a training folder into a bundle: ONNX graphs, hashes, parity, sampler, contract.

    TRAINED may be a bundle too: it is written again as it is, with float16 graphs beside.

    Ways down of 1 to 10 evaluations are scored on --data, by the truth where phantoms tell it, and
    the best is recommended. Every case is walked down the 1000-step reference once, which takes
    about a minute each on two cores for the preset `small`.
    """
    from .bundle import Choice, add_half, export_bundle

    if (trained / "contract.json").exists():
        half = add_half(trained, output, data, click.echo).contract.half
        click.echo(f"{output}: {half.parity if half else None}")
        return
    choice = Choice(temperature=temperature, optimal_share=optimal_share)
    bundle = export_bundle(trained, output, data, cases, choice, click.echo)
    sampler = bundle.contract.sampler
    click.echo(
        f"{output}: {sampler.solver} at {sampler.nfe} evaluations, median "
        f"{sampler.psnr_median_db} dB and minimum {sampler.psnr_min_db} dB from 1000-step DDIM "
        f"over {sampler.cases} cases"
    )


@click.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--data",
    type=click.Path(exists=True, path_type=Path),
    required=True,
    help="archive of validation cases: seen in no training and in no test",
)
@click.option(
    "--cases", type=click.IntRange(min=4), default=40, show_default=True, help="of --data to use"
)
@click.option(
    "--draws",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="noise seeds per case; two or more give the spread a threshold",
)
def gate(bundle: Path, data: Path, cases: int, draws: int) -> None:
    """Choose which results a bundle flags, and write it into the contract.

    Each case is enhanced as it is and with failures planted: the conditions of another case,
    another case's image, a missing depth. Half of the cases choose thresholds that catch them, the
    other half tell how well. Every case is walked down four times.
    """
    from .gate import as_text, calibrate

    click.echo(as_text(calibrate(bundle, data, cases, draws, click.echo)))


@click.command("fit-steps")
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--data",
    type=click.Path(exists=True, path_type=Path),
    required=True,
    help="archive to fit on: seen in no training and in no test",
)
@click.option(
    "--held-out",
    type=click.Path(exists=True, path_type=Path),
    required=True,
    help="archive to score on; phantoms, to be scored by the truth",
)
@click.option("--output", type=FOLDER, required=True, help="bundle folder to write")
@click.option(
    "--cases", type=click.IntRange(min=1), default=40, show_default=True, help="of --data to use"
)
@click.option(
    "--scored", type=click.IntRange(min=1), default=32, show_default=True, help="of --held-out"
)
@click.option(
    "--evaluations",
    type=click.IntRange(1, 100),
    multiple=True,
    default=(4, 6, 8, 10, 12, 20),
    show_default=True,
    help="to fit a ladder for; may be repeated",
)
@click.option(
    "--calls",
    type=click.IntRange(min=1),
    default=160,
    show_default=True,
    help="of the network, in the search for a ladder, for each of the cases that it follows",
)
def fit_steps(
    bundle: Path,
    data: Path,
    held_out: Path,
    output: Path,
    cases: int,
    scored: int,
    evaluations: tuple[int, ...],
    calls: int,
) -> None:
    """Fit step times and weights to a bundle, score all ways down, and recommend the best.

    OUTPUT is BUNDLE with other ladders in its contract, and the table of their quality to clean and
    likeness to 1000 steps; a search begins from the one that BUNDLE
    has, and those for other counts stay, scored on the same cases. Each held-out case is walked
    down 1000 steps once, about a minute on two cores for the preset `small`; what was walked and
    fitted stays in OUTPUT.work, and the same command again goes on from there.
    """
    from .ladders import Fitting
    from .ladders import fit_steps as fitted

    job = Fitting(
        source=bundle,
        data=data,
        held_out=held_out,
        output=output,
        cases=cases,
        scored=scored,
        evaluations=sorted(set(evaluations)),
        calls=calls,
    )
    sampler = fitted(job, click.echo).contract.sampler
    click.echo(
        f"{output}: recommends {sampler.solver} at {sampler.nfe} evaluations, median "
        f"{sampler.psnr_median_db} dB and minimum {sampler.psnr_min_db} dB"
    )
