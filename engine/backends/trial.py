"""Tries a plan on made-up cases before it is trusted.

A run tries the plan of its first device before it begins, and each worker that does not compute
with the reference tries its own plan again, on its own device.
"""

import os
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import TypeVar

import numpy as np

from mcdiff_batch.engine.errors import DeviceError, McdiffError
from mcdiff_batch.engine.image.frame import Image
from mcdiff_batch.engine.image.metrics import psnr
from mcdiff_batch.engine.model.canary import enhance_made_up
from mcdiff_batch.engine.model.contract import Bundle, Contract
from mcdiff_batch.engine.model.plan import Device, Plan, PlanMaker
from mcdiff_batch.engine.signals import blocking, end_with_parent
from mcdiff_batch.engine.telemetry.machine import cores

from .backend import Backend, CompiledFiles
from .devices import backend_for
from .ort import CPU, REFERENCE
from .plan_cache import cache_root

EXACT_DB = 140.0  # stands for results that are equal bit for bit
REQUIRED_DB = 55.0  # of a float16 run, against float32
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTest:
    """What a plan did with made-up cases."""

    finite: bool
    slots_equal: bool  # one case gets the same bits in every slot of a batch
    order_free: bool  # a case gets the same bits in another slot, beside other cases (P4)
    psnr_db: float | None  # against the reference, data range 2; None: the plan is the reference
    seconds: float  # to enhance one batch
    canary: str  # see model/canary.py

    @property
    def mixes_cases(self) -> bool:
        """Whether a case's result depends on its slot or on the other cases of its batch."""
        return not (self.slots_equal and self.order_free)

    @property
    def faults(self) -> list[str]:
        psnr_db = EXACT_DB if self.psnr_db is None else self.psnr_db
        checks = {
            "results are not finite": not self.finite,
            "a case's bits depend on its slot": not self.slots_equal,
            "a case's bits depend on its neighbours": not self.order_free,
            f"results are {psnr_db:.0f} dB from float32, expected {REQUIRED_DB:.0f}": (
                psnr_db < REQUIRED_DB
            ),
        }
        return [text for text, fails in checks.items() if fails]


def self_test(plan: Plan, contract: Contract, reference: Plan | None = None) -> SelfTest:
    """Walks two batches of made-up cases down the recommended ladder.

    The batches are the cases 0 ... B-1 and 1 ... B.  The cases that are in both are in different
    slots and have different neighbours there, and must get the same bits.
    reference: a float32 plan of one case; None if `plan` is the reference itself.
    """
    start = time.perf_counter()
    made = enhance_made_up(plan, contract, range(plan.batch))
    seconds = time.perf_counter() - start
    first, second = made.images, _images(plan, contract, range(1, plan.batch + 1))
    order_free = _bits(first[1:]) == _bits(second[:-1])
    return SelfTest(
        finite=bool(np.isfinite(first).all() and np.isfinite(second).all()),
        slots_equal=order_free or _slots_equal(plan, contract),
        order_free=order_free,
        psnr_db=None if reference is None else _psnr(first[0], reference, contract),
        seconds=seconds,
        canary=made.digest,
    )


def _slots_equal(plan: Plan, contract: Contract) -> bool:
    copies = _images(plan, contract, [0] * plan.batch)
    return all(_bits(x) == _bits(copies[0]) for x in copies)


def _psnr(image: Image, reference: Plan, contract: Contract) -> float:
    """PSNR of case 0, at most EXACT_DB."""
    expected = _images(reference, contract, [0])[0]
    return min(EXACT_DB, psnr(image, expected, np.ones(image.shape, np.bool_), data_range=2))


def _bits(x: Image) -> bytes:
    return np.ascontiguousarray(x).tobytes()


def _images(plan: Plan, contract: Contract, cases: Sequence[int]) -> Image:
    return enhance_made_up(plan, contract, cases).images


@dataclass(frozen=True, slots=True, kw_only=True)
class Loader:
    """A PlanMaker: loads a backend's plan in a worker, and tries it there."""

    backend: Backend
    bundle: Bundle
    files: CompiledFiles | None = None
    threads: int = 0  # of the CPU; 0: one per core

    def __call__(self, device: Device, batch: int) -> Plan:
        """Raises RuntimeError, which ends the worker but not the run, if the plan has faults.

        The reference is not tried again: all workers on the CPU have the same device.
        """
        plan = self._load(device, batch)
        faults = [] if self.backend == REFERENCE else self._test(plan).faults
        if faults:
            raise RuntimeError(f"{device.title} failed its self-test: {'; '.join(faults)}")
        return plan

    def try_on(self, device: Device, batch: int) -> SelfTest:
        """Tries the plan in this process.

        The reference gets two cases a batch in one thread.  More threads would share a batch, and
        a graph that mixes cases would go unnoticed if it got one case at a time.
        """
        if self.backend == REFERENCE:
            plan = REFERENCE.load(self.bundle, device, 2, threads=1)
            return self_test(plan, self.bundle.contract)
        return self._test(self._load(device, batch))

    def _load(self, device: Device, batch: int) -> Plan:
        return self.backend.load(self.bundle, device, batch, self.files, self.threads)

    def _test(self, plan: Plan) -> SelfTest:
        reference = REFERENCE.load(self.bundle, CPU, 1)
        return self_test(plan, self.bundle.contract, reference)


def prepare_plan(
    backend: Backend,
    bundle: Bundle,
    devices: Sequence[Device],
    batch: int,
    cache: Path,
    copy: Path | None = None,
) -> tuple[Loader, SelfTest]:
    """Compiles a plan, or finds its files, and tries it on the first of `devices`.

    cache, copy: folders of compiled files, as `Backend.compile` takes them.
    Raises DeviceError, BundleError.
    """
    make = partial(_compile, backend, bundle, devices, batch, cache, copy)
    return _run(partial(_try, make, devices[0], batch), backend, devices[0])


def maker(bundle: Bundle, devices: Sequence[Device], batch: int) -> PlanMaker:
    """A maker of the plans that a run uses on `devices`.  Raises DeviceError, BundleError."""
    backend = backend_for(devices[0])
    make = partial(_compile, backend, bundle, devices, batch, cache_root(), None)
    return _run(make, backend, devices[0])


def _try(make: Callable[[], Loader], device: Device, batch: int) -> tuple[Loader, SelfTest]:
    loader = make()
    return loader, loader.try_on(device, batch)


def _compile(
    backend: Backend,
    bundle: Bundle,
    devices: Sequence[Device],
    batch: int,
    cache: Path,
    copy: Path | None,
) -> Loader:
    files = backend.compile(bundle, devices[0], batch, cache, copy)
    threads = max(1, cores() // len(devices))
    return Loader(backend=backend, bundle=bundle, files=files, threads=threads)


def _run(work: Callable[[], T], backend: Backend, device: Device) -> T:
    """Calls `work`, in a process of its own if the backend needs that."""
    try:
        if not backend.isolated:
            return work()
        pool = ProcessPoolExecutor(1, get_context("spawn"), end_with_parent, (os.getpid(),))
        with pool:
            try:
                with blocking(signal.SIGINT):
                    future = pool.submit(work)
                return future.result()
            except KeyboardInterrupt:
                for child in active_children():  # else the block waits for it, maybe for minutes
                    child.kill()
                raise
    except McdiffError:
        raise
    except BrokenProcessPool as error:
        cause = "the process that tried the plan was killed or crashed"
        raise DeviceError(f"{device.title}: {cause}; see `mcdiff-batch doctor`") from error
    except Exception as error:  # CUDA's, TensorRT's and ONNX Runtime's own
        raise DeviceError(f"{device.title}: {error}; see `mcdiff-batch doctor`") from error
