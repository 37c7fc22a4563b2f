"""The same network by others: PyTorch eager and compiled, diffusers' scheduler, the paper's way.

All are measured in turn (A/B/A/B), each at its own best batch size, on the same conditions of the
same cases.  All use one device; on a CPU, every core.  Images and conditions stay on the device,
and a step ends when the device has finished it.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from time import perf_counter
from typing import Any

import numpy as np
import torch

from mcdiff_batch.bench.common.percentiles import spread
from mcdiff_batch.bench.common.workload import Workload
from mcdiff_batch.engine.backends.backend import Backend
from mcdiff_batch.engine.backends.devices import backends_on
from mcdiff_batch.engine.backends.gpus import count_as_nvml, gpus
from mcdiff_batch.engine.backends.ort_cuda import OnnxRuntimeCuda
from mcdiff_batch.engine.backends.plan_cache import cache_root
from mcdiff_batch.engine.backends.trial import maker
from mcdiff_batch.engine.model.batch import condition, pad, strips
from mcdiff_batch.engine.model.framing import FramedCase, frame_case
from mcdiff_batch.engine.model.noise import gaussian
from mcdiff_batch.engine.model.plan import Plan
from mcdiff_batch.engine.model.schedule import uniform_ladder
from mcdiff_batch.engine.model.solver import Rung, rungs
from mcdiff_batch.engine.telemetry.machine import cores
from mcdiff_batch.train.networks.plan import TorchPlan
from mcdiff_batch.train.networks.presets import preset_from
from mcdiff_batch.train.networks.trio import Networks, to_half
from mcdiff_batch.train.training.weights import start_from

UNRECORDED = "onnxruntime-cuda without CUDA graphs"
OURS, EAGER, PAPER = "mcdiff-batch", "torch eager float32", "1000-step DDIM, eager float32"
WARM_UP = 3  # steps
Step = Callable[[], object]  # one step of a batch
Make = Callable[[int], Step]  # of a batch size
Trials = dict[int, tuple[float, Step]]  # by batch size: seconds of a step a case, and the step
Json = dict[str, Any]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much to measure."""

    rounds: int
    steps: int  # per round
    compiled: bool  # whether to measure torch.compile, which takes minutes to start


class Field:
    """The contenders on one workload."""

    def __init__(self, workload: Workload) -> None:
        self.workload, self.recipe = workload, workload.recipe(1)
        self.contract = workload.bundle.contract
        count_as_nvml()
        self.device = torch.device(str(workload.device) if self.on_gpu else "cpu")
        torch.set_num_threads(cores())
        torch.backends.cudnn.benchmark = True  # PyTorch's fastest convolutions
        self.nets = Networks(preset_from(self.contract.training["preset"]), self.device)
        start_from(self.nets, workload.bundle.root)

    @property
    def on_gpu(self) -> bool:
        return self.workload.device.kind == "cuda"

    def contenders(self, *, compiled: bool) -> dict[str, Make]:
        nets, denoiser = self.nets, TorchPlan(self.nets, 1).denoiser
        short = lambda: torch.autocast(self.device.type, torch.bfloat16)
        out: dict[str, Make] = {
            OURS: self._ours,
            EAGER: partial(self._torch, nets, denoiser, nullcontext),
            "torch eager bfloat16": partial(self._torch, nets, denoiser, short),
            PAPER: partial(self._torch, nets, denoiser, nullcontext, walk=self._thousand()),
        }
        if self.on_gpu:
            out |= self._backends() | self._in_half(compiled=compiled)
        elif compiled:
            fast = torch.compile(denoiser, dynamic=False)
            out["torch.compile float32"] = partial(self._torch, nets, fast, nullcontext)
            out["torch.compile bfloat16"] = partial(self._torch, nets, fast, short)
        out["diffusers DPM-Solver++, eager float32"] = self._diffusers
        return out

    def _backends(self) -> dict[str, Make]:
        """The backends that the run would not take, and ONNX Runtime as it is without recording."""
        gpu = gpus()[self.workload.device.index]
        others: dict[str, Backend] = {x.name: x for x in backends_on(gpu)[1:]}
        if OnnxRuntimeCuda().serves(gpu):
            others[UNRECORDED] = OnnxRuntimeCuda(records=False)
        return {name: partial(self._plan, backend) for name, backend in others.items()}

    def _in_half(self, *, compiled: bool) -> dict[str, Make]:
        """Contenders in float16, channels last, without autocast, which casts at every step."""
        nets = to_half(self.nets)
        nets.to(self.device)
        denoiser = TorchPlan(nets, 1).denoiser
        out: dict[str, Make] = {
            "torch eager float16": partial(self._torch, nets, denoiser, nullcontext)
        }
        if compiled:
            fast = torch.compile(denoiser, mode="reduce-overhead", dynamic=False)
            out["torch.compile float16, CUDA graphs"] = partial(
                self._torch, nets, fast, _mark_replay
            )
        return out

    def _thousand(self) -> list[Rung]:
        schedule = self.contract.schedule
        return rungs("ddim", schedule, uniform_ladder(schedule, schedule.steps))

    def cases(self, batch: int) -> list[FramedCase]:
        cases = [frame_case(x, self.contract) for x in islice(self.workload.cases(), batch)]
        return pad(cases, batch)

    def _noise(self, cases: Sequence[FramedCase]) -> Any:
        shape = (1, self.contract.frame.height, self.contract.frame.width)
        return np.stack([gaussian(0, case.key, shape) for case in cases])

    def _ours(self, batch: int) -> Step:
        device = self.workload.device
        return self._walk(maker(self.workload.bundle, (device,), batch)(device, batch))

    def _plan(self, backend: Backend, batch: int) -> Step:
        bundle, device = self.workload.bundle, self.workload.device
        files = backend.compile(bundle, device, batch, cache_root(), None)
        return self._walk(backend.load(bundle, device, batch, files))

    def _walk(self, plan: Plan) -> Step:
        cases = self.cases(plan.batch)
        conditions, walk = condition(plan, cases), cycle(self.recipe.rungs)
        x = self._noise(cases)
        x0 = np.zeros_like(x)

        def step() -> None:
            nonlocal x, x0
            x, x0 = plan.step(x, x0, next(walk), conditions)
            self._wait()

        return step

    def _condition(self, nets: Networks, cases: Sequence[FramedCase]) -> Any:
        return condition(TorchPlan(nets, len(cases)), cases).conditions

    def _torch(
        self,
        nets: Networks,
        denoiser: Any,
        within: Callable[[], AbstractContextManager[Any]],
        batch: int,
        walk: Sequence[Rung] | None = None,
    ) -> Step:
        cases = self.cases(batch)
        put = lambda array: torch.as_tensor(array, dtype=torch.float32, device=self.device)
        x, state = put(self._noise(cases)), self._condition(nets, cases)
        x0 = torch.zeros_like(x)
        for tensor in (x, x0, state[0], state[1], *state[2]):
            torch._dynamo.mark_static_address(tensor)  # otherwise CUDA graphs copy it every step
        scalars = cycle(
            [
                (put([r.t]), put([r.signal, r.noise, r.a, r.b, r.c]))
                for r in walk or self.recipe.rungs
            ]
        )

        def step() -> None:
            with torch.no_grad(), within():
                denoiser(x, x0, *next(scalars), *state)
            self._wait()

        return step

    def _diffusers(self, batch: int) -> Step:
        """Steps whose x0-hat is from the eager networks and whose solver is diffusers'."""
        from diffusers import DPMSolverMultistepScheduler

        alphas = self.contract.schedule.alphas()
        solver = DPMSolverMultistepScheduler(
            num_train_timesteps=self.contract.schedule.steps,
            trained_betas=(1 - alphas[1:] / alphas[:-1]).tolist(),
            algorithm_type="dpmsolver++",
            prediction_type="sample",
        )
        cases = self.cases(batch)
        start = torch.as_tensor(self._noise(cases), device=self.device)
        _, scan, flat = self._condition(self.nets, cases)
        folded = list(zip(flat[::2], flat[1::2], strict=True))

        def walk() -> Iterator[None]:
            while True:
                solver.set_timesteps(len(self.recipe.rungs), device=self.device)
                x = start
                for t in solver.timesteps:
                    alpha = torch.tensor([alphas[int(t) + 1]], device=self.device)  # theirs from 0
                    scalars = (alpha.sqrt().float(), (1 - alpha).sqrt().float())
                    x0 = self.nets.x0(x, t.float()[None] + 1, *scalars, scan, folded)
                    x = solver.step(x0.clamp(-1, 1), t, x).prev_sample
                    self._wait()
                    yield

        steps = walk()

        def step() -> None:
            with torch.no_grad():
                next(steps)

        return step

    def _wait(self) -> None:
        """Waits for everything that this process has queued on the GPU."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def around(self, plan: Any, batch: int) -> Step:
        """The work of a case beside its steps: conditioning and relabelling."""
        cases = self.cases(batch)
        images, strip = self._noise(cases), strips(cases)
        return lambda: (condition(plan, cases), plan.relabel(images, strip))


@contextmanager
def _mark_replay() -> Iterator[None]:
    """Marks a step of torch.compile's CUDA graph, which may overwrite the last step's result."""
    torch.compiler.cudagraph_mark_step_begin()
    yield


def seconds(step: Step, steps: int) -> float:
    """The median seconds of `steps` calls."""
    taken = []
    for _ in range(steps):
        start = perf_counter()
        step()
        taken.append(perf_counter() - start)
    return statistics.median(taken)


def measure(workload: Workload, batches: Sequence[int], effort: Effort, say: Say) -> Json:
    field = Field(workload)
    every: dict[str, Trials] = {}
    absent = {} if effort.compiled else {"torch.compile": "left out by --quick"}
    for name, make in field.contenders(compiled=effort.compiled).items():
        say(f"{name}: best of batch {', '.join(map(str, batches))}")
        every[name] = {}
        for batch in batches:
            try:
                every[name][batch] = _try(make, batch, effort.steps)
            except Exception as error:  # not installed, no compiler, no memory, their own fault
                if name in (OURS, EAGER, PAPER) and batch == batches[0]:
                    raise
                absent[name] = f"batch {batch}: {_first_line(error)}"
    chosen = {name: _best(trials) for name, trials in every.items() if trials}
    taken: dict[str, list[float]] = {name: [] for name in chosen}
    for turn in range(effort.rounds):
        say(f"round {turn + 1} of {effort.rounds}")
        for name, (batch, step) in chosen.items():
            taken[name].append(seconds(step, effort.steps) / batch)
    rows = [_row(name, every[name], taken[name], taken[OURS]) for name in chosen]
    return {"rows": rows, "case": _case(field, chosen, taken, effort), "absent": absent}


def _try(make: Make, batch: int, steps: int) -> tuple[float, Step]:
    """The seconds of a warm step per case, and the step itself."""
    step = make(batch)
    seconds(step, WARM_UP)
    return seconds(step, steps) / batch, step


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:100]


def _best(trials: Trials) -> tuple[int, Step]:
    """The batch size with the shortest step per case, and the step."""
    batch = min(trials, key=lambda x: trials[x][0])
    return batch, trials[batch][1]


def _row(name: str, trials: Trials, taken: Sequence[float], ours: Sequence[float]) -> Json:
    """A row of the table.

    over_ours: how many times as long as ours, round by round; tried_ms: by batch size.
    """
    return {
        "name": name,
        "batch": _best(trials)[0],
        "tried_ms": {batch: round(1000 * x, 4) for batch, (x, _) in trials.items()},
        "step_ms": spread([1000 * x for x in taken]).as_dict(),
        "over_ours": spread([x / y for x, y in zip(taken, ours, strict=True)]).as_dict(),
    }


def _case(
    field: Field,
    chosen: dict[str, tuple[int, Step]],
    taken: dict[str, list[float]],
    effort: Effort,
) -> Json:
    """A whole case with conditioner and relabelling: ours, and by the paper's procedure.

    The 1000 steps are extrapolated from the measured ones.
    """
    device, evaluations = field.workload.device, len(field.recipe.rungs)
    batch, thousand = chosen[OURS][0], field.contract.schedule.steps
    plan = maker(field.workload.bundle, (device,), batch)(device, batch)
    ours = _around(field, plan, batch) + evaluations * statistics.median(taken[OURS])
    batch = chosen[PAPER][0]
    around = _around(field, TorchPlan(field.nets, batch), batch)
    paper = around + thousand * statistics.median(taken[PAPER])
    return {
        "ours_s": round(ours, 4),
        "evaluations": evaluations,
        "paper_s": round(paper, 3),
        "paper_steps": thousand,
        "paper_steps_timed": effort.rounds * effort.steps,
        "times": round(paper / ours, 2),
    }


def _around(field: Field, plan: Any, batch: int) -> float:
    work = field.around(plan, batch)
    work()
    return seconds(work, WARM_UP) / batch


def measures(document: Json) -> tuple[dict[str, float], dict[str, str]]:
    """None: peers do not decide a deployment."""
    return {}, {}


def as_text(document: Json) -> list[str]:
    """The table, 80 columns."""
    lines = [f"{'peers, a step of a case':<38}{'batch':>6}{'ms':>9}{'times ours (range)':>24}"]
    for row in document["rows"]:
        over = row["over_ours"]
        ratio = f"{over['median']:.2f} ({over['low']:.2f}..{over['high']:.2f})"
        lines.append(
            f"{row['name']:<38}{row['batch']:>6}{row['step_ms']['median']:>9.3g}{ratio:>24}"
        )
    case = document["case"]
    lines.append(
        f"  a case, all but reading and writing: {case['ours_s']:.3g} s at {case['evaluations']} "
        f"evaluations;"
    )
    lines.append(
        f"  the paper's way {case['paper_s']:.4g} s, {case['times']:.1f} times as long: "
        f"{case['paper_steps']} steps, extrapolated from {case['paper_steps_timed']}"
    )
    return [*lines, *(f"  absent: {x}: {why}" for x, why in document["absent"].items())]
