"""A plan is found or compiled, and tried on its device before it is trusted.

For a GPU a process of its own does that: it leaves nothing on the GPU, and a crash there ends in an
error here.  Each worker tries its plan again, on its own device, before it computes a case.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path

import click

from mcdiff_batch.engine.errors import DeviceError, McdiffError
from mcdiff_batch.engine.model.contract import Bundle
from mcdiff_batch.engine.model.plan import Device, Plan, PlanMaker
from mcdiff_batch.engine.telemetry.machine import cores

from . import gpus, ort, plan_cache, trt
from .devices import TENSORRT, plan_of
from .selftest import Verdict, tried

Attempt = Callable[[Bundle, str, Device, int, Path, Path | None], tuple["Loader", Verdict]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loader:
    """A PlanMaker for a GPU: loads, and tries what it loaded."""

    bundle: Bundle
    plan: str  # kind, as `devices` names it
    folder: Path | None = None  # of TensorRT's plans
    hashes: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, device: Device, batch: int) -> Plan:
        """Raises RuntimeError, which ends a worker and not the run, where it cannot be trusted."""
        plan = self.load(device, batch)
        faults = self.verdict(plan).faults
        if faults:
            raise RuntimeError(f"{device} failed its self-test: {'; '.join(faults)}")
        return plan

    def load(self, device: Device, batch: int) -> Plan:
        if self.folder is None:
            half = self.bundle.contract.half is not None
            return ort.load(self.bundle, device, batch, half=half)
        return plan_cache.load(self.folder, self.hashes, device, batch)

    def verdict(self, plan: Plan) -> Verdict:
        return tried(plan, self.bundle.contract, ort.load(self.bundle, ort.CPU, 1, threads=cores()))


def attempt(
    bundle: Bundle, plan: str, device: Device, batch: int, cache: Path, kept: Path | None
) -> tuple[Loader, Verdict]:
    """Makes a GPU's plan and tries it, in this process.  Raises DeviceError, BundleError."""
    loader = Loader(bundle=bundle, plan=plan)
    if plan == TENSORRT:
        say = lambda text: click.echo(text, err=True)
        made = plan_cache.plans(bundle, _target(device), batch, cache, say, kept)
        loader = replace(loader, folder=made.folder, hashes=made.hashes)
    return loader, loader.verdict(loader.load(device, batch))


def _target(device: Device) -> str:
    """By name where TensorRT can: so are the plans that `compile` made ahead."""
    kind = gpus.capability(index=device.index)
    return kind if kind in trt.targets(trt.tensorrt()) else trt.CURRENT


def elsewhere(
    bundle: Bundle, plan: str, device: Device, batch: int, cache: Path, kept: Path | None
) -> tuple[Loader, Verdict]:
    """`attempt` in a process of its own.  Raises DeviceError, BundleError."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other:
        try:
            return other.submit(attempt, bundle, plan, device, batch, cache, kept).result()
        except McdiffError:
            raise
        except BrokenProcessPool as error:
            cause = "the process that tried it was killed or crashed"
            raise DeviceError(f"{device}: {cause}; see `mcdiff-batch doctor`") from error
        except Exception as error:  # CUDA's and ONNX Runtime's own
            raise DeviceError(f"{device}: {error}; see `mcdiff-batch doctor`") from error


def maker(bundle: Bundle, devices: Sequence[Device], batch: int) -> PlanMaker:
    """How a worker on any of `devices` makes its plan, whatever that does when it is tried."""
    if devices[0].kind == "cpu":
        return ort.maker(bundle, threads=max(1, cores() // len(devices)))
    kind, cache = plan_of(devices[0]), plan_cache.cache_root()
    loader, _ = elsewhere(bundle, kind, devices[0], batch, cache, None)
    return loader
