"""The one training loop: Adam, EMA, gradient clipping, warm-up and cosine decay, resume.

Every step draws its data and noise from a generator keyed by (seed, stage, step, rank), so a
resumed run sees what an uninterrupted one would have seen.
"""

import hashlib
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist

from . import checkpoint
from .presets import Stage

Loss = Callable[[np.random.Generator, bool], Tensor]  # (generator, half-size) -> scalar
Score = Callable[[], dict[str, float]]  # held-out metrics of the model as it stands
Show = Callable[[int], None]  # draws what the model does, named by its step

SAVE_SECONDS = 120.0
SHOWN = 5  # notes between two pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a stage minimises, and how it is looked at; both on the averaged weights."""

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
    rank: int = 0
    world: int = 1


@dataclass(slots=True)
class Progress:
    """The state of a stage that changes."""

    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def generator(seed: int, stage: str, step: int, rank: int = 0) -> np.random.Generator:
    key = hashlib.blake2b(f"{seed}/{stage}/{step}/{rank}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key)))


def mixed(device: torch.device) -> torch.autocast:
    """bfloat16 where the hardware has it; a CPU that has not emulates it ten times slower."""
    known = torch.cpu.get_capabilities()
    fast = device.type == "cuda" or known.get("avx512_bf16", False) or known.get("amx_bf16", False)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bool(fast))


def learning_rate(stage: Stage, step: int) -> float:
    """Linear warm-up, then a cosine to a twentieth."""
    warm = min(1.0, (step + 1) / stage.warmup)
    share = min(1.0, step / max(1, stage.steps))
    return stage.learning_rate * warm * (0.05 + 0.95 * (1 + math.cos(math.pi * share)) / 2)


def train_stage(
    stage: Stage,
    model: nn.Module,
    job: Job,
    setting: Setting,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Runs a stage to its end, from its checkpoint if there is one; leaves EMA weights in `model`.

    Returns the stage's record: steps, seconds, history.
    """
    path = setting.folder / stage.name
    optimizer = torch.optim.Adam(model.parameters(), lr=stage.learning_rate)
    average = {name: p.detach().clone() for name, p in model.state_dict().items()}
    at = _resumed(path, model, optimizer, average)
    losses: list[float] = []
    saved = time.monotonic()
    while at.step < stage.steps:
        started = time.monotonic()
        losses.append(_step(stage, model, job.loss, optimizer, average, setting, at.step))
        at.step += 1
        at.seconds += time.monotonic() - started
        if at.step % max(1, stage.steps // setting.notes) == 0 or at.step == stage.steps:
            _note(stage, model, average, job, at, losses, say)
            losses.clear()
        if time.monotonic() - saved > SAVE_SECONDS or at.step == stage.steps:
            _save(path, model, optimizer, average, at, setting)
            saved = time.monotonic()
    model.load_state_dict(average)
    job.show(at.step)
    return {"steps": at.step, "seconds": round(at.seconds, 1), "history": at.history}


def _step(
    stage: Stage,
    model: nn.Module,
    loss: Loss,
    optimizer: torch.optim.Adam,
    average: dict[str, Tensor],
    setting: Setting,
    step: int,
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(stage, step)
    rng = generator(setting.seed, stage.name, step, setting.rank)
    optimizer.zero_grad(set_to_none=True)
    with mixed(setting.device):
        value = loss(rng, step < stage.half_steps)
    value.backward()
    _average_gradients(model, setting.world)
    nn.utils.clip_grad_norm_(model.parameters(), setting.clip)
    optimizer.step()
    decay = min(setting.ema, (1 + step) / (10 + step))
    with torch.no_grad():
        for name, p in model.state_dict().items():
            average[name].lerp_(p, 1 - decay)
    return value.item()


def _average_gradients(model: nn.Module, world: int) -> None:
    """Data parallelism in one line: one flat all-reduce a step, ample for networks of this size."""
    if world == 1:
        return
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in grads])
    dist.all_reduce(flat)
    for g, mean in zip(grads, (flat / world).split([g.numel() for g in grads]), strict=True):
        g.copy_(mean.view_as(g))


def _note(
    stage: Stage,
    model: nn.Module,
    average: dict[str, Tensor],
    job: Job,
    at: Progress,
    losses: list[float],
    say: Callable[[str], None],
) -> None:
    """Scores the averaged weights on held-out cases, a line of history; draws now and then."""
    current = {name: p.clone() for name, p in model.state_dict().items()}
    model.load_state_dict(average)
    metrics = {"loss": float(np.mean(losses))} | job.score()
    if (len(at.history) + 1) % SHOWN == 0:
        job.show(at.step)
    model.load_state_dict(current)
    at.history.append({"step": at.step} | {k: round(v, 5) for k, v in metrics.items()})
    text = " ".join(f"{k} {v:.4f}" for k, v in metrics.items())
    left = at.seconds / at.step * (stage.steps - at.step)
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
    about = {"step": at.step, "seconds": at.seconds, "history": at.history}
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
    return Progress(about["step"], about["seconds"], about["history"])


def world() -> tuple[int, int, torch.device]:
    """(rank, world size, device): from torchrun's environment if it started us."""
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = torch.cuda.is_available()
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo")
    return rank, size, torch.device("cuda", local) if cuda else torch.device("cpu")
