"""What this machine can do at most, measured beside what is measured: products and copies."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mcdiff_batch.engine.devices import cores
from mcdiff_batch.engine.gpus import gpus

SIDE = 1536  # of the matrices
MIB = 64  # of an array copied, past any cache of a core


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """The best of several tries: a ceiling is what is possible."""

    flops_per_s: float  # float32 matrix product, on every core this process may use
    bytes_per_s: float  # read and written, copying

    def __str__(self) -> str:
        return (
            f"{self.flops_per_s / 1e9:.0f} GFLOP/s (float32 matrix product) and "
            f"{self.bytes_per_s / 1e9:.1f} GB/s (copy) on {cores()} cores"
        )


def ceilings(seconds: float = 0.5) -> Ceilings:
    return Ceilings(flops_per_s=_product(seconds), bytes_per_s=_copy(seconds))


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
    """Seconds of the fastest of as many calls as fit, three or more."""
    work()
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def surroundings() -> dict[str, Any]:
    """What a figure was measured under; clocks in MHz, None where the machine does not tell."""
    return {
        "load": round(os.getloadavg()[0], 2),
        "clock_mhz": _clock(),
        "gpus": [asdict(gpu) for gpu in gpus()],
    }


def _clock() -> float | None:
    """Mean of the cores, now."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    found = [float(x.partition(":")[2]) for x in lines if x.startswith("cpu MHz")]
    return round(sum(found) / len(found)) if found else None
