"""The ceilings of this machine: the rates of a matrix product and of a copy."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from mcdiff_batch.engine.backends.gpus import gpus
from mcdiff_batch.engine.model.plan import Device
from mcdiff_batch.engine.telemetry.machine import cores
from mcdiff_batch.engine.text import pluralise

SIDE, GPU_SIDE = 1536, 8192  # side of the matrices
MIB = 64  # size of a copied array, larger than a core's caches


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """The best of several tries, because a ceiling is what is possible."""

    flops_per_s: float  # matrix product
    bytes_per_s: float  # read and written, copying
    where: str  # "float32, 2 cores"

    def __str__(self) -> str:
        return (
            f"{self.flops_per_s / 1e9:.0f} GFLOP/s (matrix product) and "
            f"{self.bytes_per_s / 1e9:.0f} GB/s (copy), {self.where}"
        )

    def as_dict(self, after: str) -> dict[str, Any]:
        return {
            "after": after,
            "gemm_gflops": round(self.flops_per_s / 1e9, 1),
            "copy_gb_per_s": round(self.bytes_per_s / 1e9, 2),
        }

    def lowest(self, other: "Ceilings") -> "Ceilings":
        return Ceilings(
            flops_per_s=min(self.flops_per_s, other.flops_per_s),
            bytes_per_s=min(self.bytes_per_s, other.bytes_per_s),
            where=self.where,
        )


def ceilings(device: Device, seconds: float = 0.5) -> Ceilings | None:
    """Measures on every core of this process, or on a GPU by PyTorch; None without PyTorch."""
    if device.kind != "cpu":
        return _of_gpu(device, seconds) if find_spec("torch") else None
    where = f"float32, {pluralise(cores(), 'core')}"
    return Ceilings(flops_per_s=_product(seconds), bytes_per_s=_copy(seconds), where=where)


def _of_gpu(device: Device, seconds: float) -> Ceilings:
    import torch

    a, b = torch.randn(2, GPU_SIDE, GPU_SIDE, device=str(device), dtype=torch.float16)
    out = torch.empty_like(a)

    def product() -> None:
        torch.matmul(a, b, out=out)
        torch.cuda.synchronize(str(device))

    def copy() -> None:
        out.copy_(a)
        torch.cuda.synchronize(str(device))

    return Ceilings(
        flops_per_s=2 * GPU_SIDE**3 / _best(product, seconds),
        bytes_per_s=2 * a.nbytes / _best(copy, seconds),
        where=f"float16, {device}",
    )


def _product(seconds: float) -> float:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, SIDE, SIDE), dtype=np.float32)
    out = np.empty_like(a)
    return 2 * SIDE**3 / _best(lambda: np.matmul(a, b, out=out), seconds)


def _copy(seconds: float) -> float:
    source = np.ones((cores(), MIB << 18), np.float32)
    target = np.empty_like(source)
    with ThreadPoolExecutor(cores()) as pool:
        every = lambda: list(pool.map(np.copyto, target, source))
        return 2 * source.nbytes / _best(every, seconds)


def _best(work: Callable[[], object], seconds: float) -> float:
    """The seconds of the fastest call, of as many as fit into `seconds`, at least three."""
    work()
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def surroundings() -> dict[str, Any]:
    """The load, clock (MHz; None if unknown) and GPUs under which figures are measured."""
    return {
        "load": round(os.getloadavg()[0], 2),
        "clock_mhz": _clock(),
        "gpus": [asdict(gpu) for gpu in gpus()],
    }


def _clock() -> float | None:
    """The mean clock of the cores, now."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    clocks = [float(x.partition(":")[2]) for x in lines if x.startswith("cpu MHz")]
    return round(sum(clocks) / len(clocks)) if clocks else None
