"""Reads what a run uses at this moment: its processes, and the GPUs that it may use."""

import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import takewhile
from time import monotonic
from typing import Any

import psutil

from mcdiff_batch.engine.files import Json

MEBIBYTE = 1 << 20
# Why a GPU is slower than it could be, by the name of NVML's constant.
SLOWDOWNS = {
    "nvmlClocksThrottleReasonSwPowerCap": "power cap",
    "nvmlClocksThrottleReasonHwSlowdown": "hardware",
    "nvmlClocksThrottleReasonSwThermalSlowdown": "heat",
    "nvmlClocksThrottleReasonHwThermalSlowdown": "heat",
    "nvmlClocksThrottleReasonHwPowerBrakeSlowdown": "power brake",
}


def read_processes() -> tuple[float, float]:
    """CPU seconds and resident MiB of this process and its children, without those that ended."""
    seconds = resident = 0.0
    own = psutil.Process()
    family = [own]
    with suppress(psutil.Error, OSError):
        family += own.children()
    for process in family:
        with suppress(psutil.Error), process.oneshot():  # it may have ended just now
            times = process.cpu_times()
            seconds += times.user + times.system
            resident += process.memory_info().rss / MEBIBYTE
    return seconds, resident


class ProcessGauge:
    """Measures this process and its children, from one reading to the next."""

    def __init__(self) -> None:
        self.spent, self.at = read_processes()[0], monotonic()

    def read(self) -> tuple[float, float]:
        """Percent of CPU since the last reading (100: one core), and resident MiB now."""
        spent, resident = read_processes()
        now = monotonic()
        share = max(0.0, spent - self.spent) / max(now - self.at, 1e-9)
        self.spent, self.at = spent, now
        return 100 * share, resident


def visible_gpus(nvml: Any) -> list[Any]:
    """NVML's handles of the GPUs that CUDA_VISIBLE_DEVICES allows, as CUDA counts them.

    They are in PCI order, or in the order of that variable.  As in CUDA, the list ends before the
    first GPU that is absent.  Raises NVML's errors.
    """
    handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return handles
    by_name = {str(i): handle for i, handle in enumerate(handles)}
    by_name |= {str(nvml.nvmlDeviceGetUUID(handle)): handle for handle in handles}
    return [by_name[x] for x in takewhile(by_name.__contains__, map(str.strip, allowed.split(",")))]


class GpuGauges:
    """Reads the visible GPUs through NVML, between `open` and `close`.

    What NVML refuses becomes one of `notes`, never an error.
    """

    def __init__(self, nvml: Any) -> None:
        self.nvml = nvml
        self.handles: list[Any] = []
        self.names: list[str] = []
        self.notes: dict[str, str] = {}
        self.events: Any = None

    def open(self) -> None:
        try:
            self.nvml.nvmlInit()
        except self.nvml.NVMLError as error:
            self.notes["nvml"] = f"no GPU is watched: {error}"
            return
        self.handles = self._ask("list", partial(visible_gpus, self.nvml)) or []
        for handle in self.handles:
            self.names.append(str(self._ask("name", partial(self.nvml.nvmlDeviceGetName, handle))))
        self.events = self._ask("xid", self._watch_errors)

    def _watch_errors(self) -> Any:
        events = self.nvml.nvmlEventSetCreate()
        for handle in self.handles:
            kind = self.nvml.nvmlEventTypeXidCriticalError
            self.nvml.nvmlDeviceRegisterEvents(handle, kind, events)
        return events

    def close(self) -> None:
        with suppress(self.nvml.NVMLError):
            if self.events is not None:
                self.nvml.nvmlEventSetFree(self.events)
            self.nvml.nvmlShutdown()

    def read(self) -> list[Json]:
        """The figures of each GPU, without those that it does not give."""
        return [self._read(index, handle) for index, handle in enumerate(self.handles)]

    def _read(self, index: int, handle: Any) -> Json:
        n = self.nvml
        questions: dict[str, Callable[[], Any]] = {
            "utilisation_percent": lambda: n.nvmlDeviceGetUtilizationRates(handle).gpu,
            "memory_mib": lambda: n.nvmlDeviceGetMemoryInfo(handle).used >> 20,
            "power_w": lambda: n.nvmlDeviceGetPowerUsage(handle) / 1000,
            "energy_j": lambda: n.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000,
            "temperature_c": lambda: n.nvmlDeviceGetTemperature(handle, n.NVML_TEMPERATURE_GPU),
            "clock_mhz": lambda: n.nvmlDeviceGetClockInfo(handle, n.NVML_CLOCK_SM),
            "memory_clock_mhz": lambda: n.nvmlDeviceGetClockInfo(handle, n.NVML_CLOCK_MEM),
            "ecc_errors": lambda: n.nvmlDeviceGetTotalEccErrors(
                handle, n.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, n.NVML_VOLATILE_ECC
            ),
            "slowed": lambda: self._reasons(n.nvmlDeviceGetCurrentClocksThrottleReasons(handle)),
        }
        values = {name: self._ask(name, question) for name, question in questions.items()}
        return {"index": index} | {name: x for name, x in values.items() if x is not None}

    def _reasons(self, bits: int) -> list[str]:
        active = {words for name, words in SLOWDOWNS.items() if bits & getattr(self.nvml, name)}
        return sorted(active)

    def xids(self) -> list[int]:
        """Numbers of the driver's errors (XID) since the last call, of all GPUs."""
        numbers: list[int] = []
        with suppress(self.nvml.NVMLError):  # a timeout: there are no more
            while self.events is not None:
                numbers.append(int(self.nvml.nvmlEventSetWait_v2(self.events, 0).eventData))
        return numbers

    def _ask(self, name: str, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except self.nvml.NVMLError as error:
            self.notes.setdefault(name, f"{name} is not available: {error}")
            return None
