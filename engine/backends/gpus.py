"""The GPUs of this machine, as NVIDIA's management library tells of them."""

import os
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import pynvml

from mcdiff_batch.engine.errors import DeviceError


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """None where the library does not tell."""

    index: int
    name: str | None
    capability: str | None  # "sm_86"
    memory_mib: int | None
    free_mib: int | None
    clock_mhz: int | None  # of the multiprocessors, now
    ecc: bool | None
    throttled: bool | None  # by heat or power, now


def driver(nvml: Any = pynvml) -> str | None:
    """Version of NVIDIA's driver; None where there is none."""
    try:
        with _session(nvml):
            return str(nvml.nvmlSystemGetDriverVersion())
    except nvml.NVMLError:
        return None


def gpus(nvml: Any = pynvml) -> list[Gpu]:
    """Every GPU that CUDA_VISIBLE_DEVICES leaves, counted as CUDA does; none with no driver."""
    try:
        with _session(nvml):
            return [_gpu(nvml, i, handle) for i, handle in enumerate(_visible(nvml))]
    except nvml.NVMLError:
        return []


def count_as_nvml() -> None:
    """CUDA counts GPUs as they are counted here, if it has not begun in this process."""
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")


def capability(nvml: Any = pynvml, index: int = 0) -> str:
    """Compute capability of a GPU.  Raises DeviceError where it is not there."""
    found = [x.capability for x in gpus(nvml) if x.index == index and x.capability]
    if not found:
        raise DeviceError(
            "no NVIDIA GPU is found here; name one to compile for, such as --target sm_86, or run "
            "on the machine that has it"
        )
    return found[0]


@contextmanager
def _session(nvml: Any) -> Any:
    nvml.nvmlInit()
    try:
        yield
    finally:
        nvml.nvmlShutdown()


def _visible(nvml: Any) -> list[Any]:
    """Handles, in PCI order; as CUDA, up to the first that is not there."""
    handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return handles
    known = {str(i): handle for i, handle in enumerate(handles)}
    known |= {str(nvml.nvmlDeviceGetUUID(handle)): handle for handle in handles}
    return [known[x] for x in takewhile(known.__contains__, map(str.strip, wanted.split(",")))]


def _gpu(nvml: Any, index: int, handle: Any) -> Gpu:
    slowed = (
        nvml.nvmlClocksThrottleReasonHwSlowdown | nvml.nvmlClocksThrottleReasonSwThermalSlowdown
    )

    def told(ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except nvml.NVMLError:
            return None

    numbers = told(lambda: nvml.nvmlDeviceGetCudaComputeCapability(handle))
    memory = told(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    reasons = told(lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
    ecc = told(lambda: nvml.nvmlDeviceGetEccMode(handle))
    return Gpu(
        index=index,
        name=told(lambda: nvml.nvmlDeviceGetName(handle)),
        capability="sm_{}{}".format(*numbers) if numbers else None,
        memory_mib=memory.total >> 20 if memory else None,
        free_mib=memory.free >> 20 if memory else None,
        clock_mhz=told(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
        ecc=bool(ecc[0]) if ecc else None,
        throttled=bool(reasons & slowed) if reasons is not None else None,
    )
