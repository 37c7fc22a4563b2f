"""CUDA and TensorRT as far as a plan sees them, on the memory and the cores of this machine.

Work on a stream is done when it is waited for, not when it is queued, so that a copy that comes too
early or a buffer that is used again too soon gives wrong results, as on a GPU.
"""

import ctypes
import json
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime

from mcdiff_batch.engine.backends.plan_cache import graph_shapes
from mcdiff_batch.engine.model.contract import Bundle


class Error(IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorLaunchFailure = 719


SAID = {2: b"out of memory", 719: b"unspecified launch failure"}


class Cuda:
    """What of `cuda.bindings.runtime` is used.  `fails`: calls that end in an error."""

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
        return Error.cudaSuccess, SAID[int(error)]

    def _taken(self, size):
        self.memory.append(np.full(size, 0xA5, np.uint8))
        return self.memory[-1].ctypes.data

    def cudaMalloc(self, size):
        return Error.cudaSuccess, self._taken(size)

    def cudaMallocHost(self, size):
        address = self._taken(size)
        self.pinned.append(range(address, address + size))
        return Error.cudaSuccess, address

    def cudaMemcpyAsync(self, target, source, size, kind, stream):
        staged = kind == 1 and not any(source in x for x in self.pinned)
        kept = ctypes.string_at(source, size) if staged else source
        self.do(lambda: ctypes.memmove(target, kept, size))
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
    """A runtime cache: what of it was given back."""

    def __init__(self):
        self.known = b""

    def deserialize(self, data):
        self.known = data

    def serialize(self):
        return b"kernels of this GPU"


class Config:
    def create_runtime_cache(self):
        return Kernels()

    def set_runtime_cache(self, kernels):
        self.kernels = kernels


class Engine:
    """A graph of a bundle on ONNX Runtime; half-precision images lie channels last."""

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
        """The tensor's memory in the order that the graph sees."""
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
    """What of the module is used to run a plan.  `rtx`: with kernels that are made at load."""

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
        return SimpleNamespace(deserialize_cuda_engine=self._loaded)

    def _loaded(self, plan):
        if self.refuses:
            return None
        self.loaded.append(Engine(self.cuda, plan))
        return self.loaded[-1]


def plan_folder(bundle: Bundle, batch: int, folder: Path) -> Path:
    """Files that Engine takes for the plans of a bundle."""
    folder.mkdir()
    for name, (graph, shapes) in graph_shapes(bundle, batch).items():
        about = {"graph": str(bundle.graph(graph, half=True)), "shapes": dict(shapes)}
        (folder / f"{name}.plan").write_text(json.dumps(about))
    return folder
