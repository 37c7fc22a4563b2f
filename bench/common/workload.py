"""The workload of a measure: a bundle on devices over an archive; and one device's work on it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

from mcdiff_batch.engine.archive.archive import Archive, Case, open_archive
from mcdiff_batch.engine.backends.devices import devices
from mcdiff_batch.engine.backends.gpus import gpus
from mcdiff_batch.engine.backends.trial import maker
from mcdiff_batch.engine.errors import CaseError
from mcdiff_batch.engine.image.frame import Image, Labels, grey
from mcdiff_batch.engine.model.contract import Bundle
from mcdiff_batch.engine.model.framing import frame_case
from mcdiff_batch.engine.model.plan import Conditioning, Device, Plan
from mcdiff_batch.engine.model.solver import Rung
from mcdiff_batch.engine.output.units import Unit
from mcdiff_batch.engine.run import finisher, worker
from mcdiff_batch.engine.run.finisher import Work
from mcdiff_batch.engine.run.heartbeat import Pulse
from mcdiff_batch.engine.run.job import BATCH_SIZE, BATCH_SIZES, Job, resolve
from mcdiff_batch.engine.run.protocol import Recipe, Task
from mcdiff_batch.engine.telemetry.machine import cores, machine

SEED = 4000  # of the phantoms, which no training and no evaluation uses
STAGES = ("frame", "condition", "step", "relabel", "quality")


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A bundle, the archive to enhance, and the devices to use."""

    bundle: Bundle
    path: Path  # the archive
    scratch: Path  # folder for outputs, on the disk to measure
    devices: str = "auto"  # as `run` takes it

    @cached_property
    def archive(self) -> Archive:
        return open_archive(self.path)

    @property
    def device(self) -> Device:
        """The first device."""
        return devices(self.devices)[0]

    @property
    def batch(self) -> int:
        return usual_batch(self.devices)

    def job(self, output: Path, chosen: str, *, batch: int, unit_size: int | None = None) -> Job:
        return Job(
            archive=self.archive,
            output=output,
            contract=self.bundle.contract,
            bundle=self.bundle.sha256,
            devices=devices(chosen),
            batch_size=batch,
            unit_size=unit_size,
        )

    def recipe(self, batch: int) -> Recipe:
        """The recipe that a worker of `run` would get."""
        resolved = resolve(self.job(self.scratch / "never-made", self.devices, batch=batch))
        return Recipe(
            archive=self.path,
            identity=resolved.archive.identity,
            output=resolved.job.output,
            contract=self.bundle.contract,
            rungs=tuple(resolved.rungs),
            seed=resolved.settings.seed,
            temperature=resolved.settings.temperature,
            draws=resolved.settings.draws,
            batch_size=batch,
            layout=resolved.layout,
        )

    def cases(self) -> Iterator[Case]:
        """The cases of the archive, each once, without those that a run would fail."""
        for index in range(self.archive.cases):
            with suppress(CaseError):
                case = self.archive.read(index)
                frame_case(case, self.bundle.contract)
                yield case


def usual_batch(text: str) -> int:
    """The batch size that `run --devices text` takes."""
    return BATCH_SIZES.get(devices(text)[0].kind, BATCH_SIZE)


def describe_devices(chosen: Sequence[Device]) -> str:
    """ "2 x NVIDIA RTX A6000", "1 x NVIDIA RTX A6000, 2 workers", or "2 devices on 4 cores of AMD
    EPYC"."""
    if chosen[0].kind == "cpu":
        name = str(machine()["cpu"]).partition(" (")[0]
        many = f"{len(chosen)} devices" if len(chosen) > 1 else "1 device"
        return f"{many} on {cores()} cores of {name}"
    names = {gpu.index: gpu.name or "GPU" for gpu in gpus()}
    count = len({x.index for x in chosen})
    workers = f", {len(chosen)} workers" if len(chosen) > count else ""
    return f"{count} x {names.get(chosen[0].index, 'GPU')}{workers}"


@dataclass(slots=True)
class TimedPlan:
    """A Plan that sums the seconds of its calls."""

    plan: Plan
    spent: Counter[str] = field(default_factory=Counter)

    @property
    def batch(self) -> int:
        return self.plan.batch

    def _add(self, stage: str, start: float) -> None:
        self.spent[stage] += perf_counter() - start  # type: ignore[assignment]

    def condition(self, depths: Image, weights: Image, strip: Image, scan: Image) -> Conditioning:
        start = perf_counter()
        result = self.plan.condition(depths, weights, strip, scan)
        self._add("condition", start)
        return result

    def relabel(self, images: Image, strip: Image) -> Labels:
        start = perf_counter()
        result = self.plan.relabel(images, strip)
        self._add("relabel", start)
        return result

    def step(
        self, x: Image, previous: Image, rung: Rung, conditioned: Conditioning
    ) -> tuple[Image, Image]:
        start = perf_counter()
        result = self.plan.step(x, previous, rung, conditioned)
        self._add("step", start)
        return result


class LocalWorker:
    """One device in this process, driven by the functions that a worker of `run` calls."""

    def __init__(self, workload: Workload, batch: int) -> None:
        device = workload.device
        self.recipe = workload.recipe(batch)
        self.plan = TimedPlan(maker(workload.bundle, (device,), batch)(device, batch))
        self.pulse = Pulse(get_context("spawn"))

    def rate(self, cases: Sequence[Case], batches: int) -> float:
        """Cases/s of the plan's calls alone, on a batch that is in memory."""
        framed = [frame_case(case, self.recipe.contract) for case in cases]
        compute = lambda: worker.enhance_batch(
            self.plan, framed, _work(cases), self.recipe, self.pulse
        )
        compute()  # warm
        start = perf_counter()
        for _ in range(batches):
            compute()
        return batches * len(cases) / (perf_counter() - start)

    def process(self, cases: Sequence[Case]) -> dict[str, float]:
        """Processes a batch from decoded cases to measured images; seconds by stage."""
        self.plan.spent.clear()
        start = perf_counter()
        framed = [frame_case(case, self.recipe.contract) for case in cases]
        read = perf_counter()
        done = worker.enhance_batch(self.plan, framed, _work(cases), self.recipe, self.pulse)
        computed = perf_counter()
        for one in done:
            finisher.measure(one, grey(one.image, one.case.strip))
        spent = {stage: float(seconds) for stage, seconds in self.plan.spent.items()}
        return {
            "frame": read - start,
            **spent,
            "quality": perf_counter() - computed,
            "total": perf_counter() - start,
        }


def _work(cases: Sequence[Case]) -> Work:
    first = cases[0].index
    unit = Unit(index=0, first=first, count=len(cases))
    return Work(task=Task(unit=unit, cases=tuple(case.index for case in cases)))
