"""The paper's three stages: what each trains, on which images, by which loss."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mcdiff_batch.engine.errors import ArchiveError
from mcdiff_batch.engine.image.metrics import mean_dice
from mcdiff_batch.train.cases.corruption import corrupt_batch
from mcdiff_batch.train.cases.data import (
    Batch,
    Dataset,
    batch_of,
    draw,
    leave_out_optimal,
    one_hot,
    other_depth,
)
from mcdiff_batch.train.cases.variation import vary
from mcdiff_batch.train.networks.losses import denoising_loss, extractor_loss
from mcdiff_batch.train.networks.presets import Preset, Stage
from mcdiff_batch.train.networks.trio import Networks
from mcdiff_batch.train.networks.tuner import Folded

from .card import write_card
from .loop import Objective, Setting, Show, generator, train_stage
from .morphology import Untargeted, draw_view, first_time, morphology_loss, times_from_first
from .noising import Noised, Noising
from .samples import draw_samples
from .step import autocast, move
from .weights import pin_training, start_from

Say = Callable[[str], None]
HELD_OUT_CASES = 16
HELD_OUT_TIMES = (200, 500, 800, 950, 1000)
FAINTEST = 0.35  # share of the cases, by contrast of bone
CORRUPTED = 0.3  # share of the batches without a target that are corrupted


def train_all(
    preset: Preset, train: Dataset, held_out: Dataset, setting: Setting, say: Say
) -> tuple[Networks, dict[str, Any]]:
    """Trains the preset's stages, each from its checkpoint if there is one, and writes the results.

    Returns the networks and the record of each stage.  Raises FingerprintError if the folder
    belongs to another training, ArchiveError if stage I has no artifact-free case.
    """
    if preset.conditions != "depths":
        train, held_out = one_hot(train), one_hot(held_out)
    pin_training(preset, train, setting)
    torch.manual_seed(setting.seed)
    nets = Networks(preset, setting.device)
    if setting.source is not None:
        start_from(nets, setting.source)
    objectives: dict[str, Callable[[Stage], Objective]] = {
        "foundation": lambda stage: _foundation(nets, stage, train, held_out, setting),
        "extractor": lambda stage: _extractor(nets, stage, train, held_out, setting),
        "tuner": lambda stage: _tuner(nets, stage, train, held_out, setting),
    }
    records = {}
    total = sum(stage.steps for stage in preset.stages)
    for stage in preset.stages:
        model = nets.module_of(stage.name)
        model.requires_grad_(False)
        for parameter in nets.parameters_of(stage.name):
            parameter.requires_grad_(True)
        seconds = setting.seconds * stage.steps / total
        objective = objectives[stage.name](stage)
        records[stage.name] = train_stage(stage, model, objective, setting, say, seconds)
        model.requires_grad_(False).eval()
    if setting.rank == 0:
        write_card(nets, setting, (train, held_out), records)
    return nets, records


def _share(stage: Stage, setting: Setting) -> int:
    return max(1, stage.batch // setting.world)


def _foundation(
    nets: Networks, stage: Stage, train: Dataset, held_out: Dataset, setting: Setting
) -> Objective:
    """Stage I: artifact-free optimal images, eq. 9.

    The second observation is the image itself, corrupted as scans are.
    """
    images = train.subset(train.artifact_free).optimal_alone()
    unseen = held_out.subset(held_out.artifact_free | ~held_out.artifact_free.any())
    if not len(images):
        raise ArchiveError(
            "stage I has no artifact-free case; set `artifact_free (case)` for some cases of --data"
        )
    noising = Noising(nets.preset)

    def prepare(rng: np.random.Generator, crop: bool) -> Noised:
        clear = draw(images, _share(stage, setting), rng, crop=crop)
        return noising(clear.image, _corrupt(nets, clear, rng).scan, rng)

    def loss(noised: Noised) -> Tensor:
        return _denoising_loss(nets, noised, _x0_hat(nets, noised, None))

    def score() -> dict[str, float]:
        return _held_out(nets, unseen.optimal_alone(), noising, setting, conditioned=False)

    show = _show(nets, stage, unseen, setting, conditioned=False)
    return Objective(prepare=prepare, loss=loss, score=score, show=show)


def _extractor(
    nets: Networks, stage: Stage, train: Dataset, held_out: Dataset, setting: Setting
) -> Objective:
    """Stage II: images and masks, eq. 10.

    The paper takes optimal images only.  But the extractor reads all depths afterwards, and
    another depth may show bone that the optimal one hides.  With `any_depth` half of the batch
    gets another depth.  `varied` of the images come in other proportions and tones.
    """

    def prepare(rng: np.random.Generator, crop: bool) -> tuple[Tensor, Tensor]:
        clear = draw(train, _share(stage, setting), rng, crop=crop)
        batch = _corrupt(nets, clear, rng)
        which = other_depth(batch, rng) if nets.preset.any_depth else batch.optimal
        image = batch.depths[torch.arange(len(which)), which][:, None]
        varied = torch.from_numpy(rng.random(len(image)) < nets.preset.varied)
        other, label = vary(image, batch.label, rng)
        image = torch.where(varied[:, None, None, None], other, image)
        return image, torch.where(varied[:, None, None], label, batch.label)

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        image, label = batch
        return extractor_loss(nets.extractor(image), label)

    def score() -> dict[str, float]:
        return {"dice": _held_out_dice(nets, held_out, setting)}

    return Objective(prepare=prepare, loss=loss, score=score)


def _tuner(
    nets: Networks, stage: Stage, train: Dataset, held_out: Dataset, setting: Setting
) -> Objective:
    """Stage III: from D depths to the optimal image, eq. 11.

    The targets are artifact-free, so the foundation may go on learning too.  The stack is worse
    than the target in two ways: it is corrupted as scans are, and another depth, which is a real,
    spoiled view of the same spine, replaces the optimal one.

    With `morphology` as many cases again are drawn without a target: half the time from all
    cases, else from the faintest.
    """
    every, faint = train, train.faintest(FAINTEST)
    if nets.preset.tuner_artifact_free:
        train = train.subset(train.artifact_free)
        held_out = held_out.subset(held_out.artifact_free | ~held_out.artifact_free.any())
    train, held_out = (x.clearest(nets.preset.clearest) for x in (train, held_out))
    noising, weight = Noising(nets.preset), nets.preset.morphology
    nets.extractor.requires_grad_(False)

    def prepare(
        rng: np.random.Generator, crop: bool
    ) -> tuple[Batch, Noised, Untargeted | tuple[()]]:
        cases = max(1, _share(stage, setting) // (stage.draws + bool(weight)))
        clear = draw(train, cases, rng, crop=crop)
        batch = _spoil(nets, clear, rng)
        image, scan = (x.repeat_interleave(stage.draws, 0) for x in (clear.image, batch.scan))
        if not weight:
            return batch, noising(image, scan, rng), ()
        times = times_from_first(noising.schedule, cases, stage.draws, rng)
        noised = noising(image, scan, rng, times)
        source = every if rng.random() < 0.5 else faint
        return batch, noised, _untargeted(nets, noising, draw(source, cases, rng, crop=crop), rng)

    def loss(step: tuple[Batch, Noised, Untargeted | tuple[()]]) -> Tensor:
        batch, noised, untargeted = step
        x0_hat = _x0_hat(nets, noised, _repeat_conditions(nets, batch, stage.draws))
        value = _denoising_loss(nets, noised, x0_hat)
        if not untargeted:
            return value
        theirs = _x0_hat(nets, untargeted.noised, nets.conditions(*untargeted.batch[:2]))
        first = slice(None, None, stage.draws)
        x0_hat = torch.cat((x0_hat[first], theirs))
        inside = torch.cat((noised.inside[first], untargeted.noised.inside))
        label = torch.cat((batch.label, untargeted.batch.label))
        return value + weight * morphology_loss(
            nets.extractor, x0_hat, inside, label, untargeted.view
        )

    def score() -> dict[str, float]:
        return _held_out(nets, held_out, noising, setting, conditioned=True)

    show = _show(nets, stage, held_out, setting, conditioned=True)
    return Objective(prepare=prepare, loss=loss, score=score, show=show)


def _untargeted(
    nets: Networks, noising: Noising, clear: Batch, rng: np.random.Generator
) -> Untargeted:
    batch = _corrupt(nets, clear, rng) if rng.random() < CORRUPTED else clear
    cases, _, height, width = batch.scan.shape
    times = torch.full((cases,), first_time(noising.schedule))
    view = draw_view(torch.Size((2 * cases, 1, height, width)), rng)
    return Untargeted(batch, noising(batch.scan, batch.scan, rng, times), view)


def _spoil(nets: Networks, clear: Batch, rng: np.random.Generator) -> Batch:
    return _corrupt(nets, leave_out_optimal(clear, nets.preset.left_out, rng), rng)


def _corrupt(nets: Networks, clear: Batch, rng: np.random.Generator) -> Batch:
    return corrupt_batch(clear, nets.preset.corruption, rng, nets.preset.frame.height)


def _x0_hat(nets: Networks, noised: Noised, conditions: Folded | None) -> Tensor:
    sigma_b = _sigma_b(nets, noised)
    return nets.x0(noised.x, noised.t, *noised.root, noised.scan, conditions, sigma_b)


def _sigma_b(nets: Networks, noised: Noised) -> Tensor | None:
    return noised.sigma_b if nets.preset.sigma_b_input else None


def _denoising_loss(nets: Networks, noised: Noised, x0_hat: Tensor) -> Tensor:
    """Eq. 9; of an x0-hat with conditions eq. 11."""
    scale = nets.coefficients(*noised.root, _sigma_b(nets, noised)).net.abs()
    return denoising_loss(x0_hat, noised.image, scale, noised.inside, nets.preset.loss_power)


def _show(
    nets: Networks, stage: Stage, data: Dataset, setting: Setting, *, conditioned: bool
) -> Show:
    """A function that draws held-out cases into `samples/`; only process 0 does."""

    def show(step: int) -> None:
        if setting.rank == 0:
            path = setting.folder / "samples" / f"{stage.name}_{step:06d}.png"
            draw_samples(nets, data, path, conditioned=conditioned)

    return show


def _repeat_conditions(nets: Networks, batch: Batch, times: int) -> Folded:
    """The batch's conditions, repeated `times` for each case."""
    folded = nets.conditions(batch.depths, batch.weights)
    return [(d.repeat_interleave(times, 0), s.repeat_interleave(times, 0)) for d, s in folded]


@torch.no_grad()
def _held_out(
    nets: Networks, data: Dataset, noising: Noising, setting: Setting, *, conditioned: bool
) -> dict[str, float]:
    """PSNR in dB of x0-hat inside the strip, over fixed cases and noise, spoiled as in training.

    psnr_T: at t = T, which is what one evaluation gives; psnr: the mean over HELD_OUT_TIMES.
    """
    chosen, times = np.arange(min(len(data), HELD_OUT_CASES)), torch.tensor(HELD_OUT_TIMES)
    rng, many = generator(0, "held-out", 0), len(times)
    clear = batch_of(data, chosen, np.zeros(len(chosen), bool))
    batch = _spoil(nets, clear, rng)
    image, scan = (x.repeat_interleave(many, 0) for x in (clear.image, batch.scan))
    noised = noising(image, scan, rng, times.repeat(len(chosen)))
    batch, noised = move((batch, noised), setting.device)
    with autocast(setting.device):
        conditions = _repeat_conditions(nets, batch, many) if conditioned else None
        x0 = _x0_hat(nets, noised, conditions)
    off = (x0.clamp(-1, 1) - noised.image).square() * noised.inside
    errors = off.sum((1, 2, 3)) / noised.inside.sum((1, 2, 3))
    decibel = 10 * torch.log10(4 / errors.reshape(len(chosen), many).mean(0).clamp(min=1e-9))
    return {"psnr_T": decibel[-1].item(), "psnr": decibel.mean().item()}


@torch.no_grad()
def _held_out_dice(nets: Networks, data: Dataset, setting: Setting) -> float:
    """Dice of the fused label map."""
    chosen = np.arange(min(len(data), 24))
    batch = batch_of(data, chosen, np.zeros(len(chosen), bool))
    depths, weights = batch.depths.to(setting.device), batch.weights.to(setting.device)
    labels = nets.features(depths, weights).logits.argmax(1).to(torch.uint8).cpu().numpy()
    return float(
        np.mean([mean_dice(a, b) for a, b in zip(labels, data.label[chosen], strict=True)])
    )
