"""What the machine says of itself at this moment: the processes of a run, and its GPUs."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")  # a second
PROC = Path("/proc")
MEBIBYTE = 1 << 20
# Why a GPU is slower than it could be, by the name of NVML's constant.
SLOWED = {
    "nvmlClocksThrottleReasonSwPowerCap": "power cap",
    "nvmlClocksThrottleReasonHwSlowdown": "hardware",
    "nvmlClocksThrottleReasonSwThermalSlowdown": "heat",
    "nvmlClocksThrottleReasonHwThermalSlowdown": "heat",
    "nvmlClocksThrottleReasonHwPowerBrakeSlowdown": "power brake",
}
Json = dict[str, Any]


def processes(proc: Path = PROC) -> tuple[float, float]:
    """CPU seconds and resident MiB of this process and its children.

    The seconds of a child that ended are gone.
    """
    spent = resident = 0.0
    for pid in [os.getpid(), *_children(proc)]:
        with suppress(OSError, ValueError, IndexError):  # it may have ended just now
            fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
            spent += (int(fields[11]) + int(fields[12])) / TICKS
            pages = int((proc / str(pid) / "statm").read_text().split()[1])
            resident += pages * PAGE / MEBIBYTE
    return spent, resident


def _children(proc: Path) -> Iterator[int]:
    for path in (proc / str(os.getpid()) / "task").glob("*/children"):
        with suppress(OSError):
            yield from map(int, path.read_text().split())


class Gpus:
    """Read through NVML from `open` to `close`; whatever it refuses is a note, never an error."""

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
        count = self._told("count", self.nvml.nvmlDeviceGetCount) or 0
        for index in range(count):
            handle = self._told("handle", partial(self.nvml.nvmlDeviceGetHandleByIndex, index))
            if handle is not None:
                self.handles.append(handle)
                name = self._told("name", partial(self.nvml.nvmlDeviceGetName, handle))
                self.names.append(str(name))
        self.events = self._told("xid", self._watched)

    def _watched(self) -> Any:
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
        """Of every GPU; what it does not tell is left out."""
        return [self._gpu(index, handle) for index, handle in enumerate(self.handles)]

    def _gpu(self, index: int, handle: Any) -> Json:
        n = self.nvml
        asked: dict[str, Callable[[], Any]] = {
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
        told = {name: self._told(name, ask) for name, ask in asked.items()}
        return {"index": index} | {name: value for name, value in told.items() if value is not None}

    def _reasons(self, bits: int) -> list[str]:
        return sorted({words for name, words in SLOWED.items() if bits & getattr(self.nvml, name)})

    def xids(self) -> list[int]:
        """Numbers of the driver's errors since the last reading, of any GPU."""
        found: list[int] = []
        with suppress(self.nvml.NVMLError):  # a timeout: there are no more
            while self.events is not None:
                found.append(int(self.nvml.nvmlEventSetWait_v2(self.events, 0).eventData))
        return found

    def _told(self, name: str, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except self.nvml.NVMLError as error:
            self.notes.setdefault(name, f"{name} is not told: {error}")
            return None
