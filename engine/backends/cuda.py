"""Calls CUDA: allocates memory, queues work on one stream, and records work as a CUDA graph.

No other file calls CUDA, and no arithmetic is done here.  Copies go through pinned memory, on the
stream of the kernels.
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
    """A CUDA call failed.  This process must not use CUDA any more."""


def runtime() -> Any:
    """The CUDA runtime.  Raises DeviceError if its Python bindings are not installed."""
    count_as_nvml()
    try:
        return import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise DeviceError(
            "cuda-bindings is not installed, but TensorRT plans need it; "
            "pip install 'mcdiff-batch[tensorrt-rtx]'"
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffer:
    """A tensor on the device, and a pinned array of the same size on the host."""

    address: int
    host: Array


class Queue:
    """A device's memory and one stream of work.  Memory is freed when the process ends."""

    def __init__(self, index: int, cuda: Any) -> None:
        self.cuda = cuda
        self._call("cudaSetDevice", index)
        self.stream = self._call("cudaStreamCreateWithFlags", cuda.cudaStreamNonBlocking)

    def buffer(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Buffer:
        size = prod(shape) * np.dtype(dtype).itemsize
        pinned = int(self._call("cudaMallocHost", size))
        host = np.ctypeslib.as_array((ctypes.c_byte * size).from_address(pinned))
        return Buffer(
            address=int(self._call("cudaMalloc", size)), host=host.view(dtype).reshape(shape)
        )

    def upload(self, buffer: Buffer, array: npt.ArrayLike) -> None:
        """Queues a copy to the device, after waiting for queued work, which may use the pinned
        array.  The caller may change `array` at once.
        """
        self.wait()
        with span("host-to-device"):
            buffer.host[...] = array
            kind = self.cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
            self._copy(buffer.address, buffer.host.ctypes.data, buffer.host.nbytes, kind)

    def set(self, buffer: Buffer, array: Array) -> None:
        """Queues a copy of a few numbers without waiting.  The caller may change `array` at once,
        since CUDA has read pageable memory when it returns.
        """
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
            self._call("cudaStreamSynchronize", self.stream)
            return buffer.host.copy()

    def wait(self) -> None:
        """Waits until all queued work is done.  The time that kernels take shows here."""
        with span("compute"):
            self._call("cudaStreamSynchronize", self.stream)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Records `work` as a CUDA graph and returns a function that queues the graph.

        `work` is done once before, so that all it allocates exists when it is recorded.
        """
        work()
        self.wait()
        mode = self.cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self.stream, mode)
        work()
        graph = self._call("cudaStreamEndCapture", self.stream)
        instance = self._call("cudaGraphInstantiate", graph, 0)
        return lambda: self._call("cudaGraphLaunch", instance, self.stream)

    def _copy(self, target: int, source: int, size: int, kind: Any) -> None:
        self._call("cudaMemcpyAsync", target, source, size, kind, self.stream)

    def _call(self, name: str, *arguments: Any) -> Any:
        """Calls a function of the CUDA runtime.  Raises CudaError."""
        error, *results = getattr(self.cuda, name)(*arguments)
        if int(error):
            _, text = self.cuda.cudaGetErrorString(error)
            raise CudaError(f"{name}: {error.name}, {text.decode()}")
        return results[0] if results else None
