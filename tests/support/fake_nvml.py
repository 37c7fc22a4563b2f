"""NVIDIA's management library without a GPU: it answers, refuses and fails on demand."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml

BUSY = {  # function -> what the GPU at an index answers
    "nvmlDeviceGetName": lambda index: f"NVIDIA Fake {index}",
    "nvmlDeviceGetUtilizationRates": lambda index: SimpleNamespace(gpu=90 + index, memory=40),
    "nvmlDeviceGetMemoryInfo": lambda index: SimpleNamespace(
        total=48 << 30, used=(10 + index) << 30, free=(38 - index) << 30
    ),
    "nvmlDeviceGetPowerUsage": lambda index: 250_000 + 1000 * index,  # mW
    "nvmlDeviceGetTemperature": lambda index: 70 + index,
    "nvmlDeviceGetClockInfo": lambda index: 1800,
    "nvmlDeviceGetTotalEccErrors": lambda index: index,
    "nvmlDeviceGetCurrentClocksThrottleReasons": lambda index: (
        pynvml.nvmlClocksThrottleReasonSwPowerCap * (index == 1)
    ),
}


@dataclass(slots=True, kw_only=True)
class FakeNvml:
    """Busy GPUs."""

    count: int = 2
    refuses: tuple[str, ...] = ()  # names of functions that raise
    xids: list[int] = field(default_factory=list)  # numbers of driver errors still to report
    energy: int = 0  # mJ, more at each call
    NVMLError: type[Exception] = pynvml.NVMLError

    def __getattr__(self, name: str) -> Any:
        """A constant of the library, or a function that answers as BUSY says."""
        if name in self.refuses:
            return self._refuse
        if name in BUSY:
            return lambda handle, *_: BUSY[name](handle)
        if name.startswith(("nvmlDevice", "nvmlEventSet", "nvmlInit", "nvmlShutdown")):
            return getattr(self, f"_{name}", lambda *_: None)
        return getattr(pynvml, name)

    def _refuse(self, *_: object) -> Any:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    def _nvmlDeviceGetCount(self) -> int:
        return self.count

    def _nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def _nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        self.energy += 250_000
        return self.energy

    def _nvmlEventSetCreate(self) -> object:
        return self

    def _nvmlEventSetWait_v2(self, events: object, timeout: int) -> Any:
        if not self.xids:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)
        return SimpleNamespace(eventData=self.xids.pop())
