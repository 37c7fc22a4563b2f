"""The GPUs of this machine, as NVIDIA's management library (NVML) lists them."""

import os
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pynvml

from mcdiff_batch.engine.errors import DeviceError
from mcdiff_batch.engine.telemetry.gauges import visible_gpus


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU; a field is None if NVML does not know it."""

    index: int
    name: str | None
    capability: str | None  # "sm_86"
    memory_mib: int | None
    free_mib: int | None
    clock_mhz: int | None  # of the multiprocessors, now
    ecc: bool | None
    throttled: bool | None  # by heat or power, now


def driver_version(nvml: Any = pynvml) -> str | None:
    """Version of NVIDIA's driver; None if there is no driver."""
    try:
        with _session(nvml):
            return str(nvml.nvmlSystemGetDriverVersion())
    except nvml.NVMLError:
        return None


def gpus(nvml: Any = pynvml) -> list[Gpu]:
    """The GPUs that CUDA_VISIBLE_DEVICES allows, in CUDA's order; none if there is no driver."""
    try:
        with _session(nvml):
            return [_gpu(nvml, i, handle) for i, handle in enumerate(visible_gpus(nvml))]
    except nvml.NVMLError:
        return []


def count_as_nvml() -> None:
    """Makes CUDA number GPUs as NVML does.  Call it before CUDA starts in this process."""
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")


def find_capability(nvml: Any = pynvml, index: int = 0) -> str:
    """Compute capability of a GPU.  Raises DeviceError if there is no such GPU."""
    matches = [x.capability for x in gpus(nvml) if x.index == index and x.capability]
    if not matches:
        raise DeviceError(
            "no NVIDIA GPU is found here; name one to compile for, such as --target sm_86, or run "
            "this on the machine that has the GPU"
        )
    return matches[0]


@contextmanager
def _session(nvml: Any) -> Any:
    nvml.nvmlInit()
    try:
        yield
    finally:
        nvml.nvmlShutdown()


def _gpu(nvml: Any, index: int, handle: Any) -> Gpu:
    slowed = (
        nvml.nvmlClocksThrottleReasonHwSlowdown | nvml.nvmlClocksThrottleReasonSwThermalSlowdown
    )

    def query(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except nvml.NVMLError:
            return None

    numbers = query(lambda: nvml.nvmlDeviceGetCudaComputeCapability(handle))
    memory = query(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    reasons = query(lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
    ecc = query(lambda: nvml.nvmlDeviceGetEccMode(handle))
    return Gpu(
        index=index,
        name=query(lambda: nvml.nvmlDeviceGetName(handle)),
        capability="sm_{}{}".format(*numbers) if numbers else None,
        memory_mib=memory.total >> 20 if memory else None,
        free_mib=memory.free >> 20 if memory else None,
        clock_mhz=query(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
        ecc=bool(ecc[0]) if ecc else None,
        throttled=bool(reasons & slowed) if reasons is not None else None,
    )
