"""The command `train`; PyTorch is imported inside it."""

import math
import os
import shlex
from pathlib import Path

import click
from click.core import ParameterSource

FOLDER = click.Path(file_okay=False, path_type=Path)
ARCHIVE = click.Path(exists=True, path_type=Path)


@click.command()
@click.option(
    "--data", type=ARCHIVE, required=True, help="Archive with `label` and `artifact_free`."
)
@click.option(
    "--preset",
    default="small",
    show_default=True,
    help="toy, small, small-more, small-morphology, small-morphology-gpu, small-gpu, "
    "small-regression, small-paper-way or paper.",
)
@click.option(
    "--output", type=FOLDER, required=True, help="Folder for checkpoints, samples and the card."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of weights and batches.")
@click.option("--from", "source", type=FOLDER, help="Start from this bundle or training folder.")
@click.option(
    "--budget",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Multiply the preset's steps in every stage by this.",
)
@click.option(
    "--stage",
    "stages",
    type=click.Choice(["foundation", "extractor", "tuner"]),
    multiple=True,
    help="Train only this stage; the other networks are those of --from; may be repeated.",
)
@click.option(
    "--held-out",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    help="Share of the patients that are left out of training.",
)
@click.option(
    "--experiments",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Show this output of `bench experiments` in the card.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    help="End after this time, with every stage shortened in proportion; the weights then"
    " depend on the speed of the machine.",
)
@click.option(
    "--residual/--as-written", default=None, help="Tuner: eq. 8 plus the skip, or eq. 8 as written."
)
@click.option(
    "--artifact-free-only/--all-cases",
    "tuner_artifact_free",
    default=None,
    help="Stage III: learn from artifact-free cases, or from every case (eq. 11).",
)
@click.option(
    "--conditions",
    type=click.Choice(["depths", "optimal", "segmentation"]),
    help="What the tuner reads of the spine; only depths can be exported.",
)
def train(
    data: Path,
    preset: str,
    output: Path,
    seed: int,
    source: Path | None,
    budget: float,
    stages: tuple[str, ...],
    held_out: float,
    experiments: Path | None,
    minutes: float | None,
    **changes: object,
) -> None:
    """Train a model on an archive, in three stages.

    The archive needs `label (case, y, x)` and `artifact_free (case)`, and `patient (case)` if a
    patient has several cases.  Options that you leave out have the value of the preset.  The same
    command again continues a training that was stopped.  With two GPUs: `torchrun --nproc-per-node
    2 --no-python mcdiff-batch train ...`.
    """
    import torch

    from mcdiff_batch.engine.errors import UsageError
    from mcdiff_batch.engine.output.places import check_outside
    from mcdiff_batch.engine.telemetry.machine import cores
    from mcdiff_batch.train.cases import data as cases
    from mcdiff_batch.train.networks.presets import PRESETS, adjust, choose_stages

    from .card import read_experiments
    from .loop import Setting, world
    from .samples import draw_curves
    from .stages import train_all

    if preset not in PRESETS:
        raise UsageError(f"--preset {preset}: expected one of {', '.join(PRESETS)}")
    check_outside(output)
    chosen = choose_stages(adjust(PRESETS[preset], budget, changes), stages, source)
    document = None if experiments is None else read_experiments(experiments)
    rank, size, device = world()
    cpus = max(1, cores() // size)
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(cpus)
    if device.type != "cpu":
        torch.set_num_threads(1)  # leaves the cores to the processes that prepare steps ahead
        torch.backends.cudnn.benchmark = True
    say = click.echo if rank == 0 else lambda text: None
    say(f"reading {data}")
    shares = (chosen.optimal_share, chosen.evened)
    dataset = cases.load(data, chosen.frame, chosen.depth_weights, *shares)
    training, held_out_cases = cases.split(dataset, held_out)
    say(f"{len(training)} cases to train on, {len(held_out_cases)} held out, on {device}")
    setting = Setting(
        seed=seed,
        device=device,
        ema=chosen.ema,
        clip=chosen.clip,
        folder=output,
        source=source,
        command=_command(),
        experiments=document,
        loaders=0 if device.type == "cpu" else cpus,
        seconds=math.inf if minutes is None else 60 * minutes,
        rank=rank,
        world=size,
    )
    _, records = train_all(chosen, training, held_out_cases, setting, say)
    if rank == 0:
        draw_curves(records, output / "curves.png")
        say(f"trained; weights, card.html, card.json and curves.png are in {output}")


def _command() -> str:
    """The command as the user gave it; of a path only its name (P10)."""
    context = click.get_current_context()
    words = ["mcdiff-batch", str(context.info_name)]
    for option in context.command.params:
        name = str(option.name)
        value = context.params[name]
        if context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        if isinstance(value, bool):
            words.append(option.opts[0] if value else option.secondary_opts[0])
        else:
            for x in value if isinstance(value, tuple) else (value,):
                words += [option.opts[0], x.name if isinstance(x, Path) else str(x)]
    return shlex.join(words)
