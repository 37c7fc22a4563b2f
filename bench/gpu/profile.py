"""The time of a training step of each stage and of a denoiser step, against the ceilings.

`python -m mcdiff_batch.bench.gpu.profile --output profile.json`.  Each part fails alone, and the
results are written after each part.
"""

import gc
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import click
import numpy as np
import torch
from torch.utils.data import DataLoader

from mcdiff_batch.bench.common.ceilings import Ceilings, ceilings
from mcdiff_batch.bench.common.command import CLI
from mcdiff_batch.engine.model.contract import SHIPPED, load_bundle
from mcdiff_batch.engine.model.plan import Device
from mcdiff_batch.engine.telemetry.machine import machine
from mcdiff_batch.train.cases.data import Dataset, load, split
from mcdiff_batch.train.networks.plan import TorchPlan
from mcdiff_batch.train.networks.presets import PRESETS, Preset, Stage, preset_from
from mcdiff_batch.train.networks.trio import Networks, to_half
from mcdiff_batch.train.training import stages
from mcdiff_batch.train.training.loop import Objective, Setting, generator
from mcdiff_batch.train.training.step import WARM_UP, Stepper
from mcdiff_batch.train.training.weights import start_from

from .kernel_times import Json, Step, add_gaps, flops, profile_steps, split_by_family, wait

CASES, SEED = 64, 4000  # phantoms, which no training and no evaluation uses
BATCHES = {"cuda": (8, 32), "cpu": (2,)}  # of the denoiser
PROFILED = 3  # steps to profile, at most
Parts = Iterator[tuple[str, Callable[[], Json]]]  # the name of a part, and its measure


def time_steps(step: Step, device: torch.device, steps: int) -> list[float]:
    """The seconds of each step, to its end on the device."""
    taken = []
    wait(device)
    for _ in range(steps):
        start = time.perf_counter()
        step()
        wait(device)
        taken.append(time.perf_counter() - start)
    return taken


def pace_steps(step: Step, device: torch.device, steps: int) -> list[float]:
    """The seconds from one step to the next, when the host runs one ahead, as in training."""
    wait(device)
    step()
    at = [time.perf_counter()]
    for _ in range(steps):
        step()
        at.append(time.perf_counter())
    wait(device)
    return [b - a for a, b in pairwise(at)]


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def time_recording(measure: Callable[[], list[float]], device: torch.device) -> Json:
    """The time of a step as a CUDA graph, or the reason why there is none."""
    if device.type != "cuda":
        return {}
    try:
        return {"recorded_ms": milliseconds(measure())}
    except Exception as error:  # whatever it is, the eager step is measured
        return {"recorded_error": first_line(error)}


def milliseconds(seconds: Sequence[float]) -> float:
    return round(1000 * statistics.median(seconds), 4)


class Training:
    """The stages over one dataset, in the order of `train_all`."""

    def __init__(self, preset: Preset, data: Dataset, setting: Setting) -> None:
        self.preset, self.setting, self.device = preset, setting, setting.device
        self.data = split(data)
        torch.manual_seed(setting.seed)
        self.nets = Networks(preset, setting.device)

    def parts(self, top: Ceilings, steps: int) -> Parts:
        makers = (stages._foundation, stages._extractor, stages._tuner)
        for stage, make in zip(self.preset.stages, makers, strict=True):
            yield stage.name, partial(self._stage, stage, make, top, steps)
            self.nets.all()[stage.name].requires_grad_(False).eval()

    def _stage(
        self, stage: Stage, make: Callable[..., Objective], top: Ceilings, steps: int
    ) -> Json:
        objective = make(self.nets, stage, *self.data, self.setting)
        model, device = self.nets.all()[stage.name], self.device
        preparing, batches = self._prepare(stage, objective)
        average = {name: p.detach().clone() for name, p in model.state_dict().items()}
        stepper = Stepper(model, objective.loss, average, device, clip=self.setting.clip, world=1)
        records, stepper.records = stepper.records, False
        turn = count()
        step = lambda: stepper(batches[next(turn) % len(batches)], stage.learning_rate, 0.999)
        time_steps(step, device, WARM_UP)
        work = flops(step)
        row = {"batch": stage.batch, "prepare_ms": preparing}
        row |= {"eager_ms": milliseconds(pace_steps(step, device, steps))}
        row |= split_by_family(profile_steps(step, device, min(PROFILED, steps)), work, top)
        stepper.records = records

        def again() -> list[float]:
            time_steps(step, device, WARM_UP + 1)
            return pace_steps(step, device, steps)

        return add_gaps(row | time_recording(again, device), top)

    def _prepare(self, stage: Stage, objective: Objective) -> tuple[float, list[Any]]:
        """The milliseconds of one core for a batch; and batches, pinned for a GPU."""
        threads, taken, made = torch.get_num_threads(), [], []
        torch.set_num_threads(1)
        for k in range(3):
            start = time.perf_counter()
            made.append(objective.prepare(generator(SEED, stage.name, k), False))
            taken.append(time.perf_counter() - start)
        torch.set_num_threads(threads)
        dataset: Any = made  # a list is one
        pinned: DataLoader[Any] = DataLoader(
            dataset, batch_size=None, pin_memory=self.device.type == "cuda"
        )
        return milliseconds(taken), list(pinned)


class Denoising:
    """The shipped bundle's denoiser step, in PyTorch."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.contract = device, load_bundle(SHIPPED).contract
        preset = preset_from(self.contract.training["preset"])
        nets32 = Networks(preset, torch.device("cpu"))  # with TF32 the parity check would fail
        start_from(nets32, SHIPPED)
        self.nets = {"float32": nets32}
        if device.type == "cuda":
            self.nets["float16"] = to_half(nets32)
        for nets in self.nets.values():
            for model in nets.all().values():
                model.requires_grad_(False).eval().to(device)

    def parts(self, top: Ceilings, steps: int) -> Parts:
        for kind in self.nets:
            for batch in BATCHES[self.device.type]:
                yield f"denoiser {kind}", partial(self._one, kind, batch, top, steps)

    def _one(self, kind: str, batch: int, top: Ceilings, steps: int) -> Json:
        device, step = self.device, torch.no_grad()(self._step(self.nets[kind], batch))
        torch.backends.cudnn.benchmark = True  # as for the peers; stages run without it
        try:
            time_steps(step, device, WARM_UP)
            work = flops(step)
            row = {"batch": batch, "eager_ms": milliseconds(time_steps(step, device, steps))}
            row |= split_by_family(profile_steps(step, device, min(PROFILED, steps)), work, top)
            row |= time_recording(lambda: time_steps(_graph(step), device, steps), device)
        finally:
            torch.backends.cudnn.benchmark = False
        return add_gaps(row, top)

    def _step(self, nets: Networks, batch: int) -> Step:
        """A step on random depths; t and coefficients are those in the middle of a walk."""
        frame, depths = self.contract.frame, len(self.contract.depth_weights)
        rng = np.random.default_rng(SEED)
        draw = lambda many: rng.uniform(-1, 1, (batch, many, frame.height, frame.width))
        short = lambda array: np.asarray(array, np.float32)
        plan = TorchPlan(nets, batch)
        weights = np.full((batch, depths), 1 / depths)
        strip = np.ones((batch, 1, frame.height, frame.width))
        images = short(strip), short(draw(1))
        conditions: Any = plan.condition(short(draw(depths)), short(weights), *images).conditions
        put = lambda array: torch.as_tensor(short(array), device=self.device)
        x, x0, t = put(draw(1)), put(draw(1)), put([500.0])
        scalars = put([0.7, 0.7, 0.5, 0.5, 0.1])
        return lambda: plan.denoiser(x, x0, t, scalars, *conditions)


def _graph(step: Step) -> Step:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    time_steps(graph.replay, torch.device("cuda"), WARM_UP)
    return graph.replay


def as_text(row: Json) -> list[str]:
    """A part as text of 80 columns."""
    if "error" in row:
        return [f"{row['part']}: {row['error']}"[:80]]
    times = [f"eager {row['eager_ms']:.4g} ms"]
    times += [f"recorded {row['recorded_ms']:.4g} ms"] if "recorded_ms" in row else []
    times += [f"kernels {row['kernels_ms']:.4g} ms"]
    lines = [f"{row['part']}, batch {row['batch']}: {', '.join(times)}"]
    if "prepare_ms" in row:
        lines.append(f"  a batch is prepared in {row['prepare_ms']:.4g} ms of one core")
    lines += [f"  not recorded: {row['recorded_error']}"[:80]] if "recorded_error" in row else []
    lines.append(
        f"  {row['gflop']:.4g} GFLOP, {row['tflops']:.3g} TFLOP/s, "
        f"{row['matrix_share']:.1%} of the matrix product"
    )
    lines.append(f"  {'family':<24}{'ms':>10}{'share':>8}{'kernels':>9}{'at ceiling, ms':>16}")
    for kind, x in row["families"].items():
        share = x["ms"] / row["kernels_ms"] if row["kernels_ms"] else 0.0
        lines.append(
            f"  {kind:<24}{x['ms']:>10.3f}{share:>8.1%}{x['kernels']:>9.0f}"
            f"{x['at_ceiling_ms']:>16.3f}"
        )
    return lines + [
        f"  gap: {x['family']} {x['ms']:.3f} ms; a step without it {x['step_ms_without']:.3f} ms"
        for x in row["gaps"]
    ]


def _about(device: torch.device, preset: str, steps: int) -> Json:
    on_gpu = device.type == "cuda"
    return {
        "what": "where a training step and a denoiser step go",
        "machine": machine(("torch",)),
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,
        "tf32_convolutions": torch.backends.cudnn.allow_tf32 if on_gpu else None,
        "preset": preset,
        "steps": steps,
    }


def _write(path: Path, found: Json) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(found, indent=1) + "\n")
    part.replace(path)


def _parts(
    preset: Preset, data: Path | None, device: torch.device, top: Ceilings, steps: int
) -> Parts:
    """The parts; each is made when it is needed, so that the last one's memory is free."""
    makes: dict[str, Callable[[], Training | Denoising]] = {
        "training": lambda: _training(preset, data, device),
        "denoiser": lambda: Denoising(device),
    }
    for name, make in makes.items():
        try:
            made = make()
        except Exception as error:  # no package, no memory, no archive
            yield name, partial(_raise, error)
            continue
        yield from made.parts(top, steps)


def _raise(error: Exception) -> NoReturn:
    raise error


def _phantoms(path: Path) -> None:
    """Draws phantoms by the command, because processes started from here would import torch."""
    words = ("phantom", "--output", str(path), "--cases", str(CASES), "--seed", str(SEED))
    ended = subprocess.run((*CLI, *words), capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(ended.stderr.strip().splitlines()[-1])


def _training(preset: Preset, data: Path | None, device: torch.device) -> Training:
    with TemporaryDirectory() as name:
        path = data or Path(name) / "phantoms.zarr"
        if data is None:
            _phantoms(path)
        cases = load(path, preset.frame, preset.depth_weights, preset.optimal_share, preset.evened)
    folder = Path(name)  # an objective needs a folder, but nothing is written here
    setting = Setting(seed=SEED, device=device, ema=preset.ema, clip=preset.clip, folder=folder)
    return Training(preset, cases, setting)


@click.command()
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), required=True)
@click.option(
    "--preset", type=click.Choice(sorted(PRESETS)), default="small-gpu", show_default=True
)
@click.option("--steps", type=click.IntRange(min=1), default=10, show_default=True)
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help=f"training archive; default: {CASES} phantoms",
)
@click.option(
    "--seconds", type=float, default=55, show_default=True, help="No part starts after so long."
)
def main(output: Path, preset: str, steps: int, data: Path | None, seconds: float) -> None:
    """Measure where a training step and a denoiser step spend their time."""
    end = time.monotonic() + seconds
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    document = _about(device, preset, steps)
    top = ceilings(Device(kind=device.type, index=0))
    assert top is not None  # PyTorch is here
    document |= {
        "tflops": round(top.flops_per_s / 1e12, 4),
        "gb_per_s": round(top.bytes_per_s / 1e9, 2),
        "ceilings": str(top),
        "parts": [],
    }
    click.echo(f"{preset} on {document['device']}, torch {document['torch']}\nceilings {top}")
    for name, work in _parts(PRESETS[preset], data, device, top, steps):
        row: Json = {"part": name}
        began = time.monotonic()
        try:
            row |= work() if began < end else {"error": "no time was left"}
        except Exception as error:  # a fault of one part must not lose the others
            row |= {"error": first_line(error)}
        row["seconds"] = round(time.monotonic() - began, 2)
        document["parts"].append(row)
        _write(output, document)
        click.echo("\n".join(as_text(row)))
        gc.collect()
        torch.cuda.empty_cache()
    click.echo(json.dumps(document))


if __name__ == "__main__":
    main()
