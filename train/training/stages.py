"""The paper's three stages over one dataset: what each trains, on which images, by which loss."""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mcdiff_batch.engine.errors import ArchiveError, FingerprintError
from mcdiff_batch.engine.image.metrics import mean_dice
from mcdiff_batch.engine.model.schedule import Schedule
from mcdiff_batch.train.networks.losses import denoising_loss, diffuse, extractor_loss
from mcdiff_batch.train.networks.presets import Preset, Stage
from mcdiff_batch.train.networks.trio import Networks
from mcdiff_batch.train.networks.tuner import Folded

from .card import write_card
from .corruption import corrupted
from .data import Batch, Dataset, batch_of, draw, one_hot, other_depth, without_optimal
from .loop import Job, Setting, Show, generator, train_stage
from .samples import draw_samples
from .step import mixed, moved
from .weights import source_sha256, start_from

Say = Callable[[str], None]
HELD_OUT_CASES = 16
HELD_OUT_TIMES = (200, 500, 800, 950, 1000)
BLACK = -1 + 1e-3  # what lies above is in the strip


class Noised(NamedTuple):
    """Images at their times, eq. 1, and what else is known of them; [N, 1, H, W] and [N]."""

    image: Tensor  # x_0, what is to be drawn
    x: Tensor
    t: Tensor
    alpha: Tensor
    scan: Tensor  # b, the second observation
    inside: Tensor  # 1 where the scan is, else 0


class Noising:
    """Draws (t, eps) for images and noises them, eq. 1."""

    def __init__(self, *, last: bool = False) -> None:
        """last: t = T alone."""
        self.schedule, self.last = Schedule(), last
        self.alphas = torch.tensor(self.schedule.alphas(), dtype=torch.float32)

    def __call__(
        self, image: Tensor, scan: Tensor, rng: np.random.Generator, times: Tensor | None = None
    ) -> Noised:
        """Of image and scan [N, 1, H, W]; times stratified over 1..T unless given."""
        n = len(image)
        if times is None:
            strata = (rng.permutation(n) + rng.random(n)) / n
            drawn = 1 + np.floor(strata * self.schedule.steps).astype(np.int64)
            times = torch.from_numpy(drawn)
            if self.last:
                times = torch.full_like(times, self.schedule.steps)
        seed = int(rng.integers(2**62))
        eps = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
        alpha = self.alphas[times]
        inside = ((image > BLACK) | (scan > BLACK)).to(image.dtype)
        return Noised(image, diffuse(image, eps, alpha), times, alpha, scan, inside)


def train_all(
    preset: Preset, train: Dataset, held_out: Dataset, setting: Setting, say: Say
) -> tuple[Networks, dict[str, Any]]:
    """All three stages, each resumed from its checkpoint, and their records; writes the results.

    Raises FingerprintError where the folder holds another training, ArchiveError where no
    artifact-free case is there for stage I.
    """
    if preset.conditions != "depths":
        train, held_out = one_hot(train), one_hot(held_out)
    _pin(preset, train, setting)
    torch.manual_seed(setting.seed)
    nets = Networks(preset, setting.device)
    if setting.source is not None:
        start_from(nets, setting.source)
    jobs: dict[str, Callable[[Stage], Job]] = {
        "foundation": lambda stage: _foundation(nets, stage, train, held_out, setting),
        "extractor": lambda stage: _extractor(nets, stage, train, held_out, setting),
        "tuner": lambda stage: _tuner(nets, stage, train, held_out, setting),
    }
    records = {}
    total = sum(stage.steps for stage in preset.stages)
    for stage in preset.stages:
        model = nets.trained(stage.name)
        model.requires_grad_(False)
        for parameter in nets.thawed(stage.name):
            parameter.requires_grad_(True)
        seconds = setting.seconds * stage.steps / total
        job = jobs[stage.name](stage)
        records[stage.name] = train_stage(stage, model, job, setting, say, seconds)
        model.requires_grad_(False).eval()
    if setting.rank == 0:
        write_card(nets, setting, (train, held_out), records)
    return nets, records


def _share(stage: Stage, setting: Setting) -> int:
    return max(1, stage.batch // setting.world)


def _foundation(
    nets: Networks, stage: Stage, train: Dataset, held_out: Dataset, setting: Setting
) -> Job:
    """Stage I: artifact-free optimal images, eq. 9.

    As a second observation the foundation is given the image itself, corrupted as scans are.
    """
    images = train.subset(train.artifact_free).optimal_alone()
    unseen = held_out.subset(held_out.artifact_free | ~held_out.artifact_free.any())
    if not len(images):
        raise ArchiveError("no artifact-free case to train the foundation on; flag some")
    noising = Noising(last=nets.preset.regression)

    def prepare(rng: np.random.Generator, crop: bool) -> Noised:
        clear = draw(images, _share(stage, setting), rng, crop=crop)
        return noising(clear.image, _corrupted(nets, clear, rng).scan, rng)

    def loss(noised: Noised) -> Tensor:
        return _denoising_loss(nets, noised, None)

    def score() -> dict[str, float]:
        return _held_out(nets, unseen.optimal_alone(), noising, setting, conditioned=False)

    show = _shown(nets, stage, unseen, setting, conditioned=False)
    return Job(prepare=prepare, loss=loss, score=score, show=show)


def _extractor(
    nets: Networks, stage: Stage, train: Dataset, held_out: Dataset, setting: Setting
) -> Job:
    """Stage II: images and masks, eq. 10.

    The paper takes optimal images only; but the extractor then reads all depths, where bone that
    the optimal one hides may show.  `any_depth` gives half the batch another depth of its case.
    """

    def prepare(rng: np.random.Generator, crop: bool) -> tuple[Tensor, Tensor]:
        clear = draw(train, _share(stage, setting), rng, crop=crop)
        batch = _corrupted(nets, clear, rng)
        which = other_depth(batch, rng) if nets.preset.any_depth else batch.optimal
        return batch.depths[torch.arange(len(which)), which][:, None], batch.label

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        image, label = batch
        return extractor_loss(nets.extractor(image), label)

    def score() -> dict[str, float]:
        return {"dice": _held_out_dice(nets, held_out, setting)}

    return Job(prepare=prepare, loss=loss, score=score)


def _tuner(
    nets: Networks, stage: Stage, train: Dataset, held_out: Dataset, setting: Setting
) -> Job:
    """Stage III: D depths to the optimal image, eq. 11.

    The targets are artifact-free, so that the foundation may learn on as well.  What is read is
    worse than the target in two ways: corrupted as scans are, and with another depth in the place
    of the optimal one, a real, spoiled view of the same spine (SCIENCE.md).
    """
    if nets.preset.tuner_artifact_free:
        train = train.subset(train.artifact_free)
        held_out = held_out.subset(held_out.artifact_free | ~held_out.artifact_free.any())
    train, held_out = (x.clearest(nets.preset.clearest) for x in (train, held_out))
    noising = Noising(last=nets.preset.regression)

    def prepare(rng: np.random.Generator, crop: bool) -> tuple[Batch, Noised]:
        cases = max(1, _share(stage, setting) // stage.draws)
        clear = draw(train, cases, rng, crop=crop)
        batch = _spoiled(nets, clear, rng)
        image, scan = (x.repeat_interleave(stage.draws, 0) for x in (clear.image, batch.scan))
        return batch, noising(image, scan, rng)

    def loss(pair: tuple[Batch, Noised]) -> Tensor:
        batch, noised = pair
        return _denoising_loss(nets, noised, _repeated(nets, batch, stage.draws))

    def score() -> dict[str, float]:
        return _held_out(nets, held_out, noising, setting, conditioned=True)

    show = _shown(nets, stage, held_out, setting, conditioned=True)
    return Job(prepare=prepare, loss=loss, score=score, show=show)


def _spoiled(nets: Networks, clear: Batch, rng: np.random.Generator) -> Batch:
    return _corrupted(nets, without_optimal(clear, nets.preset.left_out, rng), rng)


def _corrupted(nets: Networks, clear: Batch, rng: np.random.Generator) -> Batch:
    return corrupted(clear, nets.preset.corruption, rng, nets.preset.frame.height)


def _denoising_loss(nets: Networks, noised: Noised, conditions: Folded | None) -> Tensor:
    """Eq. 9, or with conditions eq. 11."""
    alpha = noised.alpha[:, None, None, None]
    signal, noise = alpha.sqrt(), (1 - alpha).sqrt()
    x0_hat = nets.x0(noised.x, noised.t, signal, noise, noised.scan, conditions)
    scale = nets.coefficients(signal, noise).net.abs()
    return denoising_loss(x0_hat, noised.image, scale, noised.inside, nets.preset.loss_power)


def _shown(
    nets: Networks, stage: Stage, data: Dataset, setting: Setting, *, conditioned: bool
) -> Show:
    """Draws held-out cases into `samples/` at a step; one process of several does."""

    def show(step: int) -> None:
        if setting.rank == 0:
            path = setting.folder / "samples" / f"{stage.name}_{step:06d}.png"
            draw_samples(nets, data, path, conditioned=conditioned)

    return show


def _repeated(nets: Networks, batch: Batch, times: int) -> Folded:
    """A batch's conditions, each case's repeated `times`."""
    folded = nets.conditions(batch.depths, batch.weights)
    return [(d.repeat_interleave(times, 0), s.repeat_interleave(times, 0)) for d, s in folded]


@torch.no_grad()
def _held_out(
    nets: Networks, data: Dataset, noising: Noising, setting: Setting, *, conditioned: bool
) -> dict[str, float]:
    """PSNR of the mean square error of x0-hat inside the strip, dB, over fixed cases and noise: at
    t = T, where it is what one evaluation gives, and the mean over times; spoiled as in training.
    """
    chosen, times = np.arange(min(len(data), HELD_OUT_CASES)), torch.tensor(HELD_OUT_TIMES)
    rng, many = generator(0, "held-out", 0), len(times)
    clear = batch_of(data, chosen, np.zeros(len(chosen), bool))
    batch = _spoiled(nets, clear, rng)
    image, scan = (x.repeat_interleave(many, 0) for x in (clear.image, batch.scan))
    noised = noising(image, scan, rng, times.repeat(len(chosen)))
    batch, noised = moved((batch, noised), setting.device)
    alpha = noised.alpha[:, None, None, None]
    with mixed(setting.device):
        conditions = _repeated(nets, batch, many) if conditioned else None
        x0 = nets.x0(noised.x, noised.t, alpha.sqrt(), (1 - alpha).sqrt(), noised.scan, conditions)
    off = (x0.clamp(-1, 1) - noised.image).square() * noised.inside
    errors = off.sum((1, 2, 3)) / noised.inside.sum((1, 2, 3))
    decibel = 10 * torch.log10(4 / errors.reshape(len(chosen), many).mean(0).clamp(min=1e-9))
    return {"psnr_T": decibel[-1].item(), "psnr": decibel.mean().item()}


@torch.no_grad()
def _held_out_dice(nets: Networks, data: Dataset, setting: Setting) -> float:
    """Of the fused label map, as a run reads it."""
    chosen = np.arange(min(len(data), 24))
    batch = batch_of(data, chosen, np.zeros(len(chosen), bool))
    depths, weights = batch.depths.to(setting.device), batch.weights.to(setting.device)
    found = nets.features(depths, weights).logits.argmax(1).to(torch.uint8).cpu().numpy()
    return float(np.mean([mean_dice(a, b) for a, b in zip(found, data.label[chosen], strict=True)]))


def _pin(preset: Preset, train: Dataset, setting: Setting) -> None:
    """A folder belongs to one training: preset, data and seed are written first and compared."""
    path = setting.folder / "training.json"
    mine = {
        "preset": asdict(preset),
        "data_sha256": train.sha256,
        "seed": setting.seed,
        "from_sha256": source_sha256(setting.source),
    }
    mine = json.loads(json.dumps(mine))
    if path.exists():
        theirs = json.loads(path.read_text())
        for key, value in mine.items():
            if theirs.get(key) != value:
                raise FingerprintError(
                    f"{path}: {key} differs from this training's; use another --output"
                )
    elif setting.rank == 0:
        setting.folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(mine, indent=1) + "\n")
