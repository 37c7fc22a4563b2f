"""The one training loop: Adam, EMA, gradient clipping, warm-up and cosine decay, resume.

Every step draws its data and noise from a generator keyed by (seed, stage, step, rank), so a
resumed training sees what an uninterrupted one would have seen.  Processes may prepare steps
ahead; the loop counts the seconds that it still waits for them.
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

Prepare = Callable[[np.random.Generator, bool], Any]  # (generator, crop) -> the loss's argument
Score = Callable[[], dict[str, float]]  # -> held-out metrics of the model
Show = Callable[[int], None]  # draws samples of the model at a step

SAVE_SECONDS = 120.0
SHOWN = 5  # notes between two pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What a stage minimises, on which data; `score` and `show` see the averaged weights."""

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
    notes: int = 25  # lines of history per stage
    source: Path | None = None  # weights to start from: a training folder or a bundle
    command: str = ""  # as the user gave it, for the card
    experiments: dict[str, Any] | None = None  # output of `bench experiments`, for the card
    loaders: int = 0  # processes that prepare steps ahead; 0: each step prepares its own
    seconds: float = math.inf  # for all stages; each gets a share, by its steps
    rank: int = 0
    world: int = 1


@dataclass(slots=True)
class StageState:
    """How far a stage is; stored in its checkpoint."""

    step: int = 0
    seconds: float = 0.0
    waited: float = 0.0  # part of `seconds`, for data
    history: list[dict[str, float]] = field(default_factory=list)


def generator(seed: int, stage: str, step: int, rank: int = 0) -> np.random.Generator:
    """Random numbers that depend on the arguments alone."""
    key = hashlib.blake2b(f"{seed}/{stage}/{step}/{rank}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key)))


def learning_rate(stage: Stage, step: int, share: float) -> float:
    """Linear warm-up, then a cosine down to a twentieth.  share: how much of the stage is done."""
    warm = min(1.0, (step + 1) / stage.warmup)
    return stage.learning_rate * warm * (0.05 + 0.95 * (1 + math.cos(math.pi * share)) / 2)


def train_stage(
    stage: Stage,
    model: nn.Module,
    objective: Objective,
    setting: Setting,
    say: Callable[[str], None],
    seconds: float = math.inf,
) -> dict[str, Any]:
    """Runs a stage to its end, from its checkpoint if there is one; leaves EMA weights in `model`.

    The stage ends after its steps or after `seconds`, whichever comes first; the learning rate
    follows.  Returns the stage's record: steps, seconds, seconds waited for data, history.
    """
    path = setting.folder / stage.name
    average = {name: p.detach().clone() for name, p in model.state_dict().items()}
    stepper = Stepper(
        model, objective.loss, average, setting.device, clip=setting.clip, world=setting.world
    )
    at = _resume(path, model, stepper.optimizer, average)
    losses: list[Tensor] = []
    saved = time.monotonic()
    share = lambda: max(at.step / stage.steps, at.seconds / seconds)
    batches = _prepare_steps(stage, objective.prepare, setting, at.step, share)
    while share() < 1:
        started = time.monotonic()
        batch = next(batches)
        at.waited += time.monotonic() - started
        rate = learning_rate(stage, at.step, share())
        losses.append(stepper(batch, rate, min(setting.ema, (1 + at.step) / (10 + at.step))))
        at.step += 1
        at.seconds = _agree(at.seconds + time.monotonic() - started, setting)
        ended = share() >= 1
        if at.step % max(1, stage.steps // setting.notes) == 0 or ended:
            _note(stage, model, average, objective, at, losses, seconds, say)
            losses.clear()
        if time.monotonic() - saved > SAVE_SECONDS or ended:
            _save(path, model, stepper.optimizer, average, at, setting)
            saved = time.monotonic()
    batches.close()
    model.load_state_dict(average)
    objective.show(at.step)
    return {
        "steps": at.step,
        "seconds": round(at.seconds, 1),
        "waited_for_data": round(at.waited, 3),
        "history": at.history,
    }


def _agree(seconds: float, setting: Setting) -> float:
    """The seconds of process 0, so that all processes end at the same step."""
    if setting.world == 1:
        return seconds
    shared_seconds = torch.tensor(seconds, dtype=torch.float64, device=setting.device)
    dist.broadcast(shared_seconds, 0)
    return shared_seconds.item()


class _Steps(Dataset[Any]):
    """Steps prepared from (step, crop)."""

    def __init__(self, stage: Stage, prepare: Prepare, setting: Setting) -> None:
        self.stage, self.prepare, self.setting = stage, prepare, setting

    def __getitem__(self, at: tuple[int, bool]) -> Any:
        step, crop = at
        rng = generator(self.setting.seed, self.stage.name, step, self.setting.rank)
        return self.prepare(rng, crop)


def _prepare_steps(
    stage: Stage, prepare: Prepare, setting: Setting, first: int, share: Callable[[], float]
) -> Generator[Any]:
    """Prepares the steps from `first` on; the loaders, if any, work a few steps ahead."""

    def requests() -> Iterator[tuple[int, bool]]:
        for step in count(first):
            yield step, max(share(), step / stage.steps) < stage.crop_steps / stage.steps

    loader = DataLoader(
        _Steps(stage, prepare, setting),
        sampler=requests(),
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
    objective: Objective,
    at: StageState,
    losses: list[Tensor],
    ends: float,
    say: Callable[[str], None],
) -> None:
    """Adds a line of history: scores the averaged weights on held-out cases; sometimes draws."""
    current = {name: p.clone() for name, p in model.state_dict().items()}
    model.load_state_dict(average)
    metrics = {"loss": torch.stack(losses).mean().item()} | objective.score()
    if (len(at.history) + 1) % SHOWN == 0:
        objective.show(at.step)
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
    at: StageState,
    setting: Setting,
) -> None:
    if setting.rank:
        return
    tensors = checkpoint.add_prefix("model", model.state_dict())
    tensors |= checkpoint.add_prefix("average", average)
    names = [name for name, _ in model.named_parameters()]
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= checkpoint.add_prefix(f"adam.{names[i]}", state)
    about = asdict(at)
    checkpoint.save(path, tensors, about)


def _resume(
    path: Path, model: nn.Module, optimizer: torch.optim.Adam, average: dict[str, Tensor]
) -> StageState:
    if not path.with_suffix(".safetensors").exists():
        return StageState()
    tensors, about = checkpoint.load(path)
    model.load_state_dict(checkpoint.select_prefix("model", tensors))
    for name, x in checkpoint.select_prefix("average", tensors).items():
        average[name].copy_(x)
    names = [name for name, _ in model.named_parameters()]
    moments = {i: checkpoint.select_prefix(f"adam.{name}", tensors) for i, name in enumerate(names)}
    state = optimizer.state_dict()
    state["state"] = {i: m for i, m in moments.items() if m}
    optimizer.load_state_dict(state)
    return StageState(**about)


def world() -> tuple[int, int, torch.device]:
    """(rank, world size, device), from the environment if torchrun started this process."""
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = torch.cuda.is_available()
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo")
    return rank, size, torch.device("cuda", local) if cuda else torch.device("cpu")
