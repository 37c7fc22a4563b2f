"""TensorRT, classic or for RTX; no other file knows it.  Compiles graphs, and runs plans."""

import hashlib
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np

from mcdiff_batch.engine.errors import BundleError, DeviceError, UsageError
from mcdiff_batch.engine.image.frame import Image, Labels
from mcdiff_batch.engine.model.plan import Conditioned, OnDevice, numbers
from mcdiff_batch.engine.model.solver import Rung

from .cuda import Buffer, Queue

FLAVOURS = ("tensorrt_rtx", "tensorrt")  # modules of one API; the first compiles without a GPU
CURRENT = "current"
FED = ("depths", "weights", "strip")  # what a conditioner reads, from the host

Shapes = Mapping[str, int]  # what the free dimensions of a graph become


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """A plan: executable, so never to be read from anywhere but our own cache (P11)."""

    plan: bytes
    log: str  # verbose, with the kernel listing
    flops: int  # of convolutions and matrix products, a run


def tensorrt() -> Any:
    """The flavour that is installed.  Raises DeviceError where none is."""
    for name in FLAVOURS:
        try:
            return import_module(name)
        except ImportError:
            continue
    raise DeviceError(
        "TensorRT is not installed, expected tensorrt-rtx (RTX GPUs; compiles on any machine) or "
        "tensorrt (data-centre GPUs); pip install 'mcdiff-batch[tensorrt-rtx]'"
    )


def flavour(trt: Any) -> str:
    """Name and exact version, which a plan is tied to."""
    return f"{trt.__name__} {trt.__version__}"


def targets(trt: Any) -> list[str]:
    """What `compile_graph` takes as target: "sm_86", ... where the flavour compiles for others."""
    known = getattr(trt, "ComputeCapability", None)
    names = [x for x in getattr(known, "__members__", ()) if x.startswith("SM")]
    return [CURRENT, *(f"sm_{x[2:].lower()}" for x in names)]


def serves(trt: Any, capability: str) -> bool:
    """Whether plans can be made for and run on a GPU; classic TensorRT is asked by trying."""
    return not hasattr(trt, "ComputeCapability") or capability in targets(trt)


def compile_graph(trt: Any, path: Path, shapes: Shapes, target: str) -> Compiled:
    """Compiles an ONNX graph for one kind of GPU, every dimension fixed.

    Raises UsageError for a target that the flavour does not know, BundleError where TensorRT
    refuses the graph, DeviceError where it cannot compile here.
    """
    if target not in targets(trt):
        raise UsageError(
            f"--target {target}: {flavour(trt)} compiles for {', '.join(targets(trt))}"
        )
    log = _log(trt)
    log.lines.clear()
    builder = trt.Builder(log)
    network = builder.create_network(_flags(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(path.read_bytes()):
        errors = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise BundleError(f"{path}: {flavour(trt)} cannot read it ({errors}); export again")
    _fix(trt, network, shapes)
    plan = builder.build_serialized_network(network, _config(trt, builder, target))
    if plan is None:
        said = [text for severity, text in log.lines if severity <= trt.ILogger.Severity.ERROR]
        raise DeviceError(
            f"{path.name}: {flavour(trt)} could not compile it for {target}: "
            f"{said[-1] if said else 'no reason given'}"
        )
    text = "\n".join(text for _, text in log.lines)
    return Compiled(plan=bytes(memoryview(plan)), log=text, flops=_flops(trt, network))


@cache
def _log(trt: Any) -> Any:
    """TensorRT keeps the first logger of a process for ever; this one collects."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.lines: list[tuple[Any, str]] = []

        def log(self, severity: Any, text: str) -> None:
            self.lines.append((severity, text))

    return Log()


def _flags(trt: Any) -> int:
    """Precision is what the graph says; later versions know nothing else and have no flag."""
    strong = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if strong is None else 1 << int(strong)


def _config(trt: Any, builder: Any, target: str) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.max_aux_streams = 0
    if hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)
    if hasattr(trt, "ComputeCapability"):
        name = "CURRENT" if target == CURRENT else f"SM{target.removeprefix('sm_').upper()}"
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, name), 0)
    return config


def _fix(trt: Any, network: Any, shapes: Shapes) -> None:
    """Every dimension fixed; half-precision images channels last, so that nothing is transposed."""
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    for tensor in inputs:
        named = [tensor.get_dimension_name(i) for i in range(len(tensor.shape))]
        pairs = zip(tensor.shape, named, strict=True)
        tensor.shape = tuple(shapes[name] if size == -1 else int(size) for size, name in pairs)
    for tensor in (*inputs, *outputs):
        if tensor.dtype == trt.float16 and len(tensor.shape) == 4:
            tensor.allowed_formats = 1 << int(trt.TensorFormat.HWC)


def _flops(trt: Any, network: Any) -> int:
    """Of convolutions and matrix products, two a multiply-add."""
    total = 0
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        out, size = layer.get_output(0), lambda x: math.prod(x.shape)
        if layer.type == trt.LayerType.CONVOLUTION:
            layer.__class__ = trt.IConvolutionLayer
            total += 2 * size(out) * layer.get_input(0).shape[1] * math.prod(layer.kernel_size_nd)
        elif layer.type == trt.LayerType.MATRIX_MULTIPLY:
            a, b = layer.get_input(0), layer.get_input(1)
            shared = math.isqrt(size(a) * size(b) // (size(out) * math.prod(out.shape[:-2])))
            total += 2 * size(out) * shared
    return total


class Network:
    """A plan on a device, with a buffer for every tensor, bound once.

    `shared`: buffers that another network has for tensors of the same name.  `jit`: where the
    kernels that RTX compiles for this GPU are kept for the next time.
    """

    def __init__(
        self, trt: Any, plan: bytes, queue: Queue, shared: Mapping[str, Buffer], jit: Path
    ) -> None:
        self.queue = queue
        self.runtime = trt.Runtime(_log(trt))
        self.engine = self.runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            raise RuntimeError(f"{flavour(trt)} refuses the plan on this GPU: {_last_words(trt)}")
        self.context = _context(trt, self.engine, jit)
        self.buffers = {}
        for i in range(self.engine.num_io_tensors):
            name = self.engine.get_tensor_name(i)
            self.buffers[name] = shared.get(name) or self._buffer(trt, name)
            self.context.set_tensor_address(name, self.buffers[name].address)

    def _buffer(self, trt: Any, name: str) -> Buffer:
        shape = tuple(int(x) for x in self.engine.get_tensor_shape(name))
        return self.queue.buffer(shape, trt.nptype(self.engine.get_tensor_dtype(name)))

    def run(self) -> None:
        """Queued, not waited for."""
        if not self.context.execute_async_v3(int(self.queue.stream)):
            raise RuntimeError("TensorRT could not queue the plan; its log says why")


def _context(trt: Any, engine: Any, jit: Path) -> Any:
    if not hasattr(trt, "CudaGraphStrategy"):  # classic: kernels are in the plan
        return engine.create_execution_context()
    config = engine.create_runtime_config()
    config.cuda_graph_strategy = trt.CudaGraphStrategy.DISABLED  # steps are recorded by `Queue`
    kernels = config.create_runtime_cache()
    known = _kept(jit)
    if known is not None:
        kernels.deserialize(known)
    config.set_runtime_cache(kernels)
    context = engine.create_execution_context(config)
    if known is None:
        _keep(jit, bytes(memoryview(kernels.serialize())))
    return context


def _kept(path: Path) -> bytes | None:
    """What `_keep` wrote, if it is whole: kernels are executed, so never without our hash (P11)."""
    data = path.read_bytes() if path.is_file() else b""
    return data[32:] if data and hashlib.sha256(data[32:]).digest() == data[:32] else None


def _keep(path: Path, data: bytes) -> None:
    part = path.with_suffix(f".{os.getpid()}")
    with suppress(OSError):  # only time would be lost
        part.write_bytes(hashlib.sha256(data).digest() + data)
        part.replace(path)


def _last_words(trt: Any) -> str:
    return _log(trt).lines[-1][1] if _log(trt).lines else "no reason given"


class TrtPlan:
    """Plan (engine/plan.py) on TensorRT.

    Conditions never leave the device: `relabel` writes over them, so they hold until then.  A step
    is one CUDA graph; what changes from rung to rung are numbers in the device's memory.
    """

    def __init__(self, trt: Any, queue: Queue, folder: Path, batch: int) -> None:
        self.queue, self.batch = queue, batch

        def network(name: str, shared: Mapping[str, Buffer]) -> Network:
            jit = folder / f"{name}.jit"
            return Network(trt, (folder / f"{name}.plan").read_bytes(), queue, shared, jit)

        self.conditioner = network("conditioner", {})
        held = self.conditioner.buffers
        self.relabeller = network("relabel", {x: held[x] for x in held if x not in FED})
        self.denoiser = network("denoiser", held)
        self.x, self.x0 = (self._left("x"), self._left("previous"))
        self.held: object = None  # whose conditions are on the device
        self.go = queue.recorded(self._step)

    def _left(self, name: str) -> OnDevice:
        buffer = self.denoiser.buffers[name]
        return OnDevice(buffer, partial(self.queue.download, buffer))

    def condition(self, depths: Image, weights: Image, strip: Image, scan: Image) -> Conditioned:
        self.held = object()
        self.queue.upload(self.denoiser.buffers["scan"], scan)
        label = self._labelled(self.conditioner, depths, weights, strip)
        return Conditioned(conditions=self.held, label=label)

    def relabel(self, images: Image, strip: Image) -> Labels:
        self.held = None
        weights = np.ones((len(images), 1), np.float32)
        return self._labelled(self.relabeller, images, weights, strip)

    def _labelled(self, network: Network, depths: Image, weights: Image, strip: Image) -> Labels:
        for name, array in zip(FED, (depths, weights, strip), strict=True):
            self.queue.upload(network.buffers[name], array)
        network.run()
        return self.queue.download(network.buffers["label"]).astype(np.uint8)

    def step(
        self, x: Image, previous: Image, rung: Rung, conditioned: Conditioned
    ) -> tuple[Image, Image]:
        """What it returns is the same two tensors each time, still on the device."""
        assert conditioned.conditions is self.held, "conditions of another batch"
        for given, mine in ((x, self.x), (previous, self.x0)):
            if given is not cast(Image, mine):
                self.queue.upload(mine.handle, given)
        for name, values in numbers(rung).items():
            self.queue.set(self.denoiser.buffers[name], values)
        self.go()
        return cast(Image, self.x), cast(Image, self.x0)

    def _step(self) -> None:
        buffers = self.denoiser.buffers
        self.denoiser.run()
        self.queue.move(buffers["x_next"], buffers["x"])
        self.queue.move(buffers["x0"], buffers["previous"])
