"""The commands `export`, `fit-steps`, `gate` and `card`; PyTorch is imported inside them."""

from pathlib import Path

import click

from mcdiff_batch.engine.cli.options import EXISTING, EXISTING_FOLDER, count
from mcdiff_batch.engine.signals import end_with

NEW_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.argument("trained", type=EXISTING_FOLDER)
@click.option("--output", type=NEW_FOLDER, required=True, help="Bundle folder to write.")
@click.option(
    "--data",
    type=EXISTING,
    required=True,
    help="Archive of held-out phantoms, for parity and to choose the sampler.",
)
@count("--cases", 12, "Number of cases of --data to use.", at_least=2)
@click.option(
    "--temperature",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Scale of the starting noise.",
)
@click.option(
    "--optimal-share",
    type=click.FloatRange(0, 1),
    help="Share of the fusion weights that goes to the optimal depth first (default: as trained).",
)
def export(
    trained: Path,
    output: Path,
    data: Path,
    cases: int,
    temperature: float,
    optimal_share: float | None,
) -> None:
    """Make a bundle from a training: graphs and contract.

    The command compares the ONNX graphs with the trained networks. Then it scores samplers of 1 to
    10 evaluations on --data, against the truth if the cases are phantoms, and recommends the best.
    The reference takes 1000 steps for each case: about a minute on two cores with the preset
    `small`.

    TRAINED may also be a bundle: it is copied, and float16 graphs are added.
    """
    from mcdiff_batch.engine.output.places import check_outside

    from .bundle import Choice, add_half, export_bundle

    check_outside(output)
    end_with(output)
    if (trained / "contract.json").exists():
        half = add_half(trained, output, data, click.echo).contract.half
        click.echo(f"{output}: {half.parity if half else None}")
        return
    choice = Choice(temperature=temperature, optimal_share=optimal_share)
    bundle = export_bundle(trained, output, data, cases, choice, click.echo)
    sampler = bundle.contract.sampler
    click.echo(
        f"{output}: {sampler.solver} with {sampler.nfe} evaluations, median "
        f"{sampler.psnr_median_db} dB and minimum {sampler.psnr_min_db} dB from 1000-step DDIM "
        f"over {sampler.cases} cases"
    )


@click.command()
@click.argument("bundle", type=EXISTING_FOLDER)
@click.option(
    "--data",
    type=EXISTING,
    required=True,
    help="Archive of validation cases, which no training and no test uses.",
)
@count("--cases", 40, "Number of cases of --data to use.", at_least=4)
@count("--draws", 1, "Noise seeds per case; with two or more, the spread gets a threshold.")
def gate(bundle: Path, data: Path, cases: int, draws: int) -> None:
    """Choose which results a bundle flags.

    Each case is enhanced as it is, and with planted failures: the conditions of another case, the
    image of another case, a missing depth. Half of the cases choose the thresholds, which are
    written into the contract; the other half measure them. Every case is sampled four times.
    """
    from .gate import as_text, calibrate

    click.echo(as_text(calibrate(bundle, data, cases, draws, click.echo)))


@click.command("fit-steps")
@click.argument("bundle", type=EXISTING_FOLDER)
@click.option(
    "--data",
    type=EXISTING,
    required=True,
    help="Archive to fit on, which no training and no test uses.",
)
@click.option(
    "--held-out",
    type=EXISTING,
    required=True,
    help="Archive to score on; phantoms are scored against the truth.",
)
@click.option("--output", type=NEW_FOLDER, required=True, help="Bundle folder to write.")
@count("--cases", 40, "Number of cases of --data to use.")
@count("--scored", 32, "Number of cases of --held-out to use.")
@click.option(
    "--evaluations",
    type=click.IntRange(1, 100),
    multiple=True,
    default=(4, 6, 8, 10, 12, 20),
    show_default=True,
    help="Number of evaluations to fit a ladder for; may be repeated.",
)
@count("--calls", 160, "Network calls per case in the search for a ladder.")
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
    """Fit step times and weights to a bundle.

    OUTPUT is a copy of BUNDLE with fitted ladders (times and weights of the steps) in its contract,
    the scores of all samplers, and the best one as its recommendation. A search starts from the
    ladder of BUNDLE; ladders for other numbers of evaluations stay, and are scored on the same
    cases. The reference takes 1000 steps for each held-out case: about a minute on two cores with
    the preset `small`. References and fits are stored in OUTPUT.work; the same command again
    continues from there.
    """
    from mcdiff_batch.engine.output.places import check_outside

    from . import ladders

    check_outside(output)
    end_with(output)
    options = ladders.Fitting(
        source=bundle,
        data=data,
        held_out=held_out,
        output=output,
        cases=cases,
        held_out_cases=scored,
        evaluations=sorted(set(evaluations)),
        calls=calls,
    )
    sampler = ladders.fit_steps(options, click.echo).contract.sampler
    click.echo(
        f"{output}: recommends {sampler.solver} with {sampler.nfe} evaluations, median "
        f"{sampler.psnr_median_db} dB and minimum {sampler.psnr_min_db} dB"
    )


@click.command()
@click.argument("bundle", type=EXISTING_FOLDER)
@click.option(
    "--evaluation",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What `mcdiff-batch evaluate --json` printed for this bundle; adds its figures.",
)
def card(bundle: Path, evaluation: Path | None) -> None:
    """Write the model card of a bundle: card.md and card.html.

    It says what the model is for, what it was trained on, how it was measured, where it fails, and
    what its limits are. `export`, `fit-steps` and `gate` write it too, without an evaluation. The
    bundle stays the same: runs on it go on.
    """
    from mcdiff_batch.engine.model.contract import load_bundle

    from .card import write_card

    for path in write_card(load_bundle(bundle), evaluation):
        click.echo(path)
