"""One optimiser step of a stage.  On a GPU each shape of batch is recorded once as a CUDA graph.

A step of these networks is thousands of small kernels, and launching them one by one takes longer
than running them.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.optim.swa_utils import get_ema_multi_avg_fn

Loss = Callable[[Any], Tensor]  # -> scalar
WARM_UP = 3  # steps before the recording, so that all memory is allocated by then


def autocast(device: torch.device) -> torch.autocast:
    """Autocast to bfloat16 if the hardware has it; other CPUs emulate it, ten times slower."""
    has = torch.cpu.get_capabilities()
    fast = device.type == "cuda" or has.get("avx512_bf16", False) or has.get("amx_bf16", False)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bool(fast))


def move(batch: Any, device: torch.device) -> Any:
    """Moves the tensors of nested tuples to a device; from pinned memory without waiting."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    parts = [move(x, device) for x in batch]
    return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)


def leaves(batch: Any) -> list[Tensor]:
    """All tensors of nested tuples."""
    return [batch] if isinstance(batch, Tensor) else [x for part in batch for x in leaves(part)]


@dataclass(slots=True)
class Recording:
    """A recorded step: a graph that reads `batch` and writes `value` in place."""

    graph: torch.cuda.CUDAGraph
    batch: Any
    value: Tensor


class Stepper:
    """Steps `model`, and updates `average` from it; both are on `device`."""

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        average: dict[str, Tensor],
        device: torch.device,
        *,
        clip: float,
        world: int,
    ) -> None:
        self.model, self.loss, self.device, self.clip, self.world = model, loss, device, clip, world
        cuda = device.type == "cuda"
        rate = torch.zeros((), device=device) if cuda else 0.0  # a graph reads it in place
        self.optimizer = torch.optim.Adam(model.parameters(), lr=rate, capturable=cuda)
        self.average, self.state = list(average.values()), list(model.state_dict().values())
        self.records = cuda and world == 1
        self.warm: Counter[Any] = Counter()
        self.recordings: dict[Any, Recording] = {}
        self.before: torch.cuda.Event | None = None

    def __call__(self, batch: Any, rate: float, decay: float) -> Tensor:
        """Does a step; returns the loss on the device, which may still be computing it."""
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        batch = move(batch, self.device)
        value = self._replay(batch) if self.records else self._step(batch)
        get_ema_multi_avg_fn(decay)(self.average, self.state, None)
        self._at_most_one_behind()
        return value

    def _step(self, batch: Any) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device):
            value = self.loss(batch)
        value.backward()
        self._average_gradients()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        return value.detach()

    def _replay(self, batch: Any) -> Tensor:
        shapes = tuple(x.shape for x in leaves(batch))
        if self.warm[shapes] < WARM_UP:
            self.warm[shapes] += 1
            return self._aside(batch)
        recording = self.recordings.get(shapes)
        if recording is None:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                value = self._step(batch)
            recording = self.recordings[shapes] = Recording(graph, batch, value)
        for mine, theirs in zip(leaves(recording.batch), leaves(batch), strict=True):
            mine.copy_(theirs)
        recording.graph.replay()
        return recording.value.clone()

    def _aside(self, batch: Any) -> Tensor:
        """Does a step on another stream, as CUDA requires before a recording."""
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            value = self._step(batch)
        here.wait_stream(aside)
        return value

    def _at_most_one_behind(self) -> None:
        """Waits until the GPU is at most one step behind the host."""
        if self.device.type != "cuda":
            return
        if self.before is not None:
            self.before.synchronize()
        self.before = torch.cuda.current_stream().record_event()

    def _average_gradients(self) -> None:
        """Averages gradients over processes by one flat all-reduce."""
        if self.world == 1:
            return
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in grads])
        dist.all_reduce(flat)
        means = (flat / self.world).split([g.numel() for g in grads])
        for g, mean in zip(grads, means, strict=True):
            g.copy_(mean.view_as(g))
