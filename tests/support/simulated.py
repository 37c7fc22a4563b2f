"""Simulated hardware and backends: CUDA and TensorRT on this machine's CPU, GPUs, faulty plans.

The simulated CUDA does queued work when it is waited for.  So a copy that comes too early, or a
buffer that is reused too soon, gives wrong results, as on a GPU.
"""

import ctypes
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime

from mcdiff_batch.engine.backends.backend import CompiledFiles, graph_shapes
from mcdiff_batch.engine.image.frame import Image
from mcdiff_batch.engine.model.contract import Bundle
from tests.support.fake import FakePlan


class Error(IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorLaunchFailure = 719


MESSAGES = {2: b"out of memory", 719: b"unspecified launch failure"}


class Cuda:
    """The part of `cuda.bindings.runtime` that the engine uses.  fails: error by name of a call."""

    cudaStreamNonBlocking = 1
    cudaMemcpyKind = SimpleNamespace(
        cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2, cudaMemcpyDeviceToDevice=3
    )
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self, **fails):
        self.fails = fails
        self.memory, self.pinned = [], []
        self.queued, self.captured = [], None
        self.launches = 0

    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        if name.startswith("cuda") and callable(found) and name in self.fails:
            return lambda *_: (self.fails[name],)
        return found

    def cudaSetDevice(self, index):
        return (Error.cudaSuccess,)

    def cudaStreamCreateWithFlags(self, flags):
        return Error.cudaSuccess, 7

    def cudaGetErrorString(self, error):
        return Error.cudaSuccess, MESSAGES[int(error)]

    def _allocate(self, size):
        self.memory.append(np.full(size, 0xA5, np.uint8))
        return self.memory[-1].ctypes.data

    def cudaMalloc(self, size):
        return Error.cudaSuccess, self._allocate(size)

    def cudaMallocHost(self, size):
        address = self._allocate(size)
        self.pinned.append(range(address, address + size))
        return Error.cudaSuccess, address

    def cudaMemcpyAsync(self, target, source, size, kind, stream):
        staged = kind == 1 and not any(source in x for x in self.pinned)
        data = ctypes.string_at(source, size) if staged else source
        self.do(lambda: ctypes.memmove(target, data, size))
        return (Error.cudaSuccess,)

    def do(self, work):
        (self.queued if self.captured is None else self.captured).append(work)

    def cudaStreamSynchronize(self, stream):
        while self.queued:
            self.queued.pop(0)()
        return (Error.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream, mode):
        self.captured = []
        return (Error.cudaSuccess,)

    def cudaStreamEndCapture(self, stream):
        graph, self.captured = self.captured, None
        return Error.cudaSuccess, graph

    def cudaGraphInstantiate(self, graph, flags):
        return Error.cudaSuccess, graph

    def cudaGraphLaunch(self, graph, stream):
        self.launches += 1
        self.queued += graph
        return (Error.cudaSuccess,)


class Logger:
    pass


class Kernels:
    """A runtime cache, which remembers the kernels that it was given."""

    def __init__(self):
        self.given = b""

    def deserialize(self, data):
        self.given = data

    def serialize(self):
        return b"kernels of this GPU"


class Config:
    def create_runtime_cache(self):
        return Kernels()

    def set_runtime_cache(self, kernels):
        self.kernels = kernels


class Engine:
    """A graph of a bundle on ONNX Runtime.  Its float16 images have their channels last."""

    def __init__(self, cuda, plan):
        about = json.loads(plan)
        self.cuda = cuda
        self.session = onnxruntime.InferenceSession(
            about["graph"], providers=["CPUExecutionProvider"]
        )
        self.inputs, self.outputs = self.session.get_inputs(), self.session.get_outputs()
        self.tensors = {x.name: x for x in (*self.inputs, *self.outputs)}
        self.sizes = about["shapes"]
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, index):
        return list(self.tensors)[index]

    def get_tensor_shape(self, name):
        return [self.sizes.get(x, x) for x in self.tensors[name].shape]

    def get_tensor_dtype(self, name):
        kinds = {"tensor(float)": "f4", "tensor(float16)": "f2", "tensor(int32)": "i4"}
        return np.dtype(kinds[self.tensors[name].type])

    def create_runtime_config(self):
        return Config()

    def create_execution_context(self, config=None):
        return Context(self, config)


class Context:
    def __init__(self, engine, config):
        self.engine, self.config, self.addresses = engine, config, {}

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def execute_async_v3(self, stream):
        assert stream == 7
        self.engine.cuda.do(self._run)
        return True

    def _view(self, name):
        """The tensor's memory, with its dimensions in the order of the graph."""
        shape, dtype = self.engine.get_tensor_shape(name), self.engine.get_tensor_dtype(name)
        last = dtype == np.float16 and len(shape) == 4
        stored = [shape[0], *shape[2:], shape[1]] if last else shape
        size = int(np.prod(stored)) * dtype.itemsize
        memory = np.ctypeslib.as_array((ctypes.c_byte * size).from_address(self.addresses[name]))
        array = memory.view(dtype).reshape(stored)
        return array.transpose(0, 3, 1, 2) if last else array

    def _run(self):
        feed = {x.name: np.ascontiguousarray(self._view(x.name)) for x in self.engine.inputs}
        for tensor, result in zip(
            self.engine.outputs, self.engine.session.run(None, feed), strict=True
        ):
            self._view(tensor.name)[...] = result


class TensorRT:
    """The part of TensorRT's module that runs plans.  rtx: compiles kernels when it loads one."""

    __name__, __version__ = "simulated", "1"
    ILogger = Logger

    def __init__(self, cuda, *, rtx=False, refuses=False):
        self.cuda, self.refuses = cuda, refuses
        self.loaded = []
        if rtx:
            self.CudaGraphStrategy = SimpleNamespace(DISABLED=0)

    def nptype(self, dtype):
        return dtype

    def Runtime(self, log):
        return SimpleNamespace(deserialize_cuda_engine=self._load)

    def _load(self, plan):
        if self.refuses:
            return None
        self.loaded.append(Engine(self.cuda, plan))
        return self.loaded[-1]


class RecordingSession:
    """A session that records CUDA graphs as ONNX Runtime's CUDA provider does, on the CPU.

    The first run of a number executes the graph three times: twice to warm up, once to record.
    Later runs of the number use the tensors that it had then, whatever is bound since.
    """

    def __init__(self, path: Path, sizes: dict[str, int]):
        options = onnxruntime.SessionOptions()
        for name, size in sizes.items():
            options.add_free_dimension_override_by_name(name, size)
        self.session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        self.recordings = {}
        self.replays = 0

    def __getattr__(self, name):
        return getattr(self.session, name)

    def run_with_iobinding(self, binding, options):
        number = options.get_run_config_entry("gpu_graph_id")
        if number in self.recordings:
            self.replays += 1
            self.session.run_with_iobinding(self.recordings[number])
            return
        self.recordings[number] = binding
        for _ in range(3):
            self.session.run_with_iobinding(binding)


def simulated_plans(bundle: Bundle, batch: int) -> dict[str, bytes]:
    """What `Engine` reads as the plans of a bundle, by name of a part."""
    return {
        name: json.dumps(
            {"graph": str(bundle.graph(graph, half=True)), "shapes": dict(shapes)}
        ).encode()
        for name, (graph, shapes) in graph_shapes(bundle, batch).items()
    }


def by_slot(x: Image) -> Image:
    return 1e-6 * np.arange(len(x), dtype=np.float32)[:, None, None, None]


def by_neighbours(x: Image) -> Image:
    return np.float32(1e-6) * np.roll(x, 1, axis=0)


def by_mean(x: Image) -> Image:
    return np.float32(1e-6) * x.mean(axis=0, keepdims=True)


def no_change(x: Image) -> Image:
    return np.zeros_like(x)


@dataclass(slots=True, kw_only=True)
class AlteredPlan(FakePlan):
    """Adds `change` of each step's result to it."""

    change: Callable[[Image], Image] = no_change

    def step(self, x, previous, rung, conditioned):
        x_next, x0 = FakePlan.step(self, x, previous, rung, conditioned)
        return np.asarray(x_next + self.change(x_next), np.float32), x0


@dataclass(frozen=True, kw_only=True)
class FakeBackend:
    """A Backend of altered plans for every device."""

    change: Callable[[Image], Image] = no_change
    files: CompiledFiles | None = None
    batches: list[int] = field(default_factory=list)  # of the plans that were loaded
    name: str = "tensorrt"
    isolated: bool = False

    def serves(self, gpu):
        return True

    def versions(self):
        return {"fake": "1"}

    def compile(self, bundle, device, batch, cache, copy):
        return self.files

    def load(self, bundle, device, batch, files=None, threads=0):
        self.batches.append(batch)
        return AlteredPlan(batch=batch, change=self.change)


@dataclass(frozen=True, kw_only=True)
class EndlessBackend(FakeBackend):
    """Compiles for ever, in a process of its own, and makes the file `compiles` in the cache."""

    isolated: bool = True

    def compile(self, bundle, device, batch, cache, copy):
        (cache / "compiles").touch()
        time.sleep(600)


class NotSupported(Exception):
    pass


def library(**changes):
    """NVIDIA's management library on a machine with two A6000s; it knows little of the second."""

    def refuse(handle):
        if handle == 1:
            raise NotSupported
        return SimpleNamespace(total=48 << 30, free=47 << 30)

    nothing = lambda *_: None
    return SimpleNamespace(
        **{
            "NVMLError": NotSupported,
            "NVML_CLOCK_SM": 1,
            "nvmlClocksThrottleReasonHwSlowdown": 8,
            "nvmlClocksThrottleReasonSwThermalSlowdown": 32,
            "nvmlInit": nothing,
            "nvmlShutdown": nothing,
            "nvmlSystemGetDriverVersion": lambda: "580.1",
            "nvmlDeviceGetCount": lambda: 2,
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetName": lambda handle: "NVIDIA RTX A6000",
            "nvmlDeviceGetCudaComputeCapability": lambda handle: (8, 6),
            "nvmlDeviceGetMemoryInfo": refuse,
            "nvmlDeviceGetClockInfo": lambda handle, kind: 1800,
            "nvmlDeviceGetEccMode": lambda handle: (1, 1),
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda handle: 8 * handle,
        }
        | changes
    )
