"""The one training loop: Adam, EMA, gradient clipping, warm-up and cosine decay, resume.

Every step draws its data and noise from a generator keyed by (seed, stage, step, rank), so a
resumed run sees what an uninterrupted one would have seen.  They may be prepared ahead, by
processes; what a step still waits for them is counted.
"""

import hashlib
import math
import os
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.utils.data import DataLoader, Dataset

from mcdiff_batch.train.networks.presets import Stage

from . import checkpoint
from .step import Loss, Stepper

Prepare = Callable[
    [np.random.Generator, bool], Any
]  # (generator, whether cropped) -> what `loss` takes
Score = Callable[[], dict[str, float]]  # held-out metrics of the model as it stands
Show = Callable[[int], None]  # draws what the model does, named by its step

SAVE_SECONDS = 120.0
SHOWN = 5  # notes between two pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a stage minimises, on which data, and how it is looked at, on averaged weights."""

    prepare: Prepare  # on the CPU
    loss: Loss
    score: Score
    show: Show = lambda step: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How and where to train."""

    seed: int
    device: torch.device
    ema: float
    clip: float
    folder: Path
    notes: int = 25  # lines of history a stage
    source: Path | None = None  # weights to start from: a training folder or a bundle
    command: str = ""  # as it was given, for the card
    experiments: Path | None = None  # what `bench experiments` wrote, for the card
    loaders: int = 0  # processes that prepare steps ahead; 0: each step prepares its own
    seconds: float = math.inf  # of training, all stages; each ends at its part, by its steps
    rank: int = 0
    world: int = 1


@dataclass(slots=True)
class Progress:
    """The state of a stage that changes."""

    step: int = 0
    seconds: float = 0.0
    waited: float = 0.0  # of these, for data
    history: list[dict[str, float]] = field(default_factory=list)


def generator(seed: int, stage: str, step: int, rank: int = 0) -> np.random.Generator:
    key = hashlib.blake2b(f"{seed}/{stage}/{step}/{rank}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key)))


def learning_rate(stage: Stage, step: int, share: float) -> float:
    """Linear warm-up, then a cosine to a twentieth; `share` of the stage is done."""
    warm = min(1.0, (step + 1) / stage.warmup)
    return stage.learning_rate * warm * (0.05 + 0.95 * (1 + math.cos(math.pi * share)) / 2)


def train_stage(
    stage: Stage,
    model: nn.Module,
    job: Job,
    setting: Setting,
    say: Callable[[str], None],
    seconds: float = math.inf,
) -> dict[str, Any]:
    """Runs a stage to its end, from its checkpoint if there is one; leaves EMA weights in `model`.

    Its end is that of its steps or of `seconds`, whichever comes first; the schedule follows.
    Returns the stage's record: steps, seconds, of these waited for data, history.
    """
    path = setting.folder / stage.name
    average = {name: p.detach().clone() for name, p in model.state_dict().items()}
    stepper = Stepper(
        model, job.loss, average, setting.device, clip=setting.clip, world=setting.world
    )
    at = _resumed(path, model, stepper.optimizer, average)
    losses: list[Tensor] = []
    saved = time.monotonic()
    share = lambda: max(at.step / stage.steps, at.seconds / seconds)
    batches = _prepared(stage, job.prepare, setting, at.step, share)
    while share() < 1:
        started = time.monotonic()
        batch = next(batches)
        at.waited += time.monotonic() - started
        rate = learning_rate(stage, at.step, share())
        losses.append(stepper(batch, rate, min(setting.ema, (1 + at.step) / (10 + at.step))))
        at.step += 1
        at.seconds = _agreed(at.seconds + time.monotonic() - started, setting)
        ended = share() >= 1
        if at.step % max(1, stage.steps // setting.notes) == 0 or ended:
            _note(stage, model, average, job, at, losses, seconds, say)
            losses.clear()
        if time.monotonic() - saved > SAVE_SECONDS or ended:
            _save(path, model, stepper.optimizer, average, at, setting)
            saved = time.monotonic()
    batches.close()
    model.load_state_dict(average)
    job.show(at.step)
    return {
        "steps": at.step,
        "seconds": round(at.seconds, 1),
        "waited_for_data": round(at.waited, 3),
        "history": at.history,
    }


def _agreed(seconds: float, setting: Setting) -> float:
    """The first process's, so that all of them end at the same step."""
    if setting.world == 1:
        return seconds
    told = torch.tensor(seconds, dtype=torch.float64, device=setting.device)
    dist.broadcast(told, 0)
    return told.item()


class _Steps(Dataset[Any]):
    """What steps take, by (step, whether cropped)."""

    def __init__(self, stage: Stage, prepare: Prepare, setting: Setting) -> None:
        self.stage, self.prepare, self.setting = stage, prepare, setting

    def __getitem__(self, at: tuple[int, bool]) -> Any:
        step, crop = at
        rng = generator(self.setting.seed, self.stage.name, step, self.setting.rank)
        return self.prepare(rng, crop)


def _prepared(
    stage: Stage, prepare: Prepare, setting: Setting, first: int, share: Callable[[], float]
) -> Generator[Any]:
    """What each step takes, from `first` on; by processes, a few steps ahead, if there are any."""

    def asked() -> Iterator[tuple[int, bool]]:
        for step in count(first):
            yield step, max(share(), step / stage.steps) < stage.crop_steps / stage.steps

    loader = DataLoader(
        _Steps(stage, prepare, setting),
        sampler=asked(),
        batch_size=None,
        num_workers=setting.loaders,
        pin_memory=setting.device.type == "cuda",
        multiprocessing_context="fork" if setting.loaders else None,  # shares the cases
    )
    yield from loader


def _note(
    stage: Stage,
    model: nn.Module,
    average: dict[str, Tensor],
    job: Job,
    at: Progress,
    losses: list[Tensor],
    ends: float,
    say: Callable[[str], None],
) -> None:
    """Scores the averaged weights on held-out cases, a line of history; draws now and then."""
    current = {name: p.clone() for name, p in model.state_dict().items()}
    model.load_state_dict(average)
    metrics = {"loss": torch.stack(losses).mean().item()} | job.score()
    if (len(at.history) + 1) % SHOWN == 0:
        job.show(at.step)
    model.load_state_dict(current)
    at.history.append({"step": at.step} | {k: round(v, 5) for k, v in metrics.items()})
    text = " ".join(f"{k} {v:.4f}" for k, v in metrics.items())
    left = max(0.0, min(at.seconds / at.step * (stage.steps - at.step), ends - at.seconds))
    say(f"{stage.name} {at.step}/{stage.steps} {text} ({left / 60:.0f} min left at this rate)")


def _save(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Adam,
    average: dict[str, Tensor],
    at: Progress,
    setting: Setting,
) -> None:
    if setting.rank:
        return
    tensors = checkpoint.prefixed("model", model.state_dict())
    tensors |= checkpoint.prefixed("average", average)
    names = [name for name, _ in model.named_parameters()]
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= checkpoint.prefixed(f"adam.{names[i]}", state)
    about = asdict(at)
    checkpoint.save(path, tensors, about)


def _resumed(
    path: Path, model: nn.Module, optimizer: torch.optim.Adam, average: dict[str, Tensor]
) -> Progress:
    if not path.with_suffix(".safetensors").exists():
        return Progress()
    tensors, about = checkpoint.load(path)
    model.load_state_dict(checkpoint.under("model", tensors))
    for name, x in checkpoint.under("average", tensors).items():
        average[name].copy_(x)
    names = [name for name, _ in model.named_parameters()]
    moments = {i: checkpoint.under(f"adam.{name}", tensors) for i, name in enumerate(names)}
    state = optimizer.state_dict()
    state["state"] = {i: m for i, m in moments.items() if m}
    optimizer.load_state_dict(state)
    return Progress(**about)


def world() -> tuple[int, int, torch.device]:
    """(rank, world size, device): from torchrun's environment if it started us."""
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = torch.cuda.is_available()
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo")
    return rank, size, torch.device("cuda", local) if cuda else torch.device("cpu")
