"""The only file that talks to CUDA: memory, one queue of work, and a recording of some of it.

No arithmetic is done here.  A batch's copies are megabytes and go through pinned memory on the
queue of the kernels: a second queue would hide less than a hundredth of a walk down the ladder.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from mcdiff_batch.engine.errors import DeviceError
from mcdiff_batch.engine.telemetry.spans import span

from .gpus import count_as_nvml

Array = npt.NDArray[Any]


class CudaError(RuntimeError):
    """A call failed; nothing of this process's CUDA is to be used any more."""


def runtime() -> Any:
    """The CUDA runtime.  Raises DeviceError where its bindings are not installed."""
    count_as_nvml()
    try:
        return import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise DeviceError(
            "cuda-bindings is not installed, and plans need it on a GPU; "
            "pip install 'mcdiff-batch[tensorrt-rtx]'"
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffer:
    """A tensor on the device, and its pinned twin on the host."""

    address: int
    host: Array


class Queue:
    """One device: its memory, and work that is done in order.  Memory lives as the process does."""

    def __init__(self, index: int, cuda: Any) -> None:
        self.cuda = cuda
        self._ask("cudaSetDevice", index)
        self.stream = self._ask("cudaStreamCreateWithFlags", cuda.cudaStreamNonBlocking)

    def buffer(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Buffer:
        size = prod(shape) * np.dtype(dtype).itemsize
        pinned = int(self._ask("cudaMallocHost", size))
        host = np.ctypeslib.as_array((ctypes.c_byte * size).from_address(pinned))
        return Buffer(
            address=int(self._ask("cudaMalloc", size)), host=host.view(dtype).reshape(shape)
        )

    def upload(self, buffer: Buffer, array: npt.ArrayLike) -> None:
        """`array` may be changed at once; the twin may not, so what is queued is waited for."""
        self.wait()
        with span("host-to-device"):
            buffer.host[...] = array
            kind = self.cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
            self._copy(buffer.address, buffer.host.ctypes.data, buffer.host.nbytes, kind)

    def set(self, buffer: Buffer, array: Array) -> None:
        """A few numbers, without waiting: CUDA has read pageable memory when it returns."""
        kind = self.cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(buffer.address, array.ctypes.data, array.nbytes, kind)

    def move(self, source: Buffer, target: Buffer) -> None:
        kind = self.cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._copy(target.address, source.address, source.host.nbytes, kind)

    def download(self, buffer: Buffer) -> Array:
        self.wait()
        with span("device-to-host"):
            kind = self.cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
            self._copy(buffer.host.ctypes.data, buffer.address, buffer.host.nbytes, kind)
            self._ask("cudaStreamSynchronize", self.stream)
            return buffer.host.copy()

    def wait(self) -> None:
        """Until all that was queued is done: the time of kernels is seen here, not at `step`."""
        with span("compute"):
            self._ask("cudaStreamSynchronize", self.stream)

    def recorded(self, work: Callable[[], None]) -> Callable[[], None]:
        """`work` as a CUDA graph, after it was done once: what is allocated late is there then."""
        work()
        self.wait()
        mode = self.cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._ask("cudaStreamBeginCapture", self.stream, mode)
        work()
        graph = self._ask("cudaStreamEndCapture", self.stream)
        made = self._ask("cudaGraphInstantiate", graph, 0)
        return lambda: self._ask("cudaGraphLaunch", made, self.stream)

    def _copy(self, target: int, source: int, size: int, kind: Any) -> None:
        self._ask("cudaMemcpyAsync", target, source, size, kind, self.stream)

    def _ask(self, name: str, *words: Any) -> Any:
        error, *found = getattr(self.cuda, name)(*words)
        if int(error):
            _, said = self.cuda.cudaGetErrorString(error)
            raise CudaError(f"{name}: {error.name}, {said.decode()}")
        return found[0] if found else None
