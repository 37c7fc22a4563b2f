"""Compiles graphs and runs plans with TensorRT, classic or for RTX.

No other file calls TensorRT.
"""

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
from mcdiff_batch.engine.files import replacing
from mcdiff_batch.engine.image.frame import Image, Labels
from mcdiff_batch.engine.model.plan import Conditioning, OnDevice, step_inputs
from mcdiff_batch.engine.model.solver import Rung

from .backend import Shapes, pad_depths
from .cuda import Buffer, Queue

FLAVOURS = ("tensorrt_rtx", "tensorrt")  # modules of one API; the first compiles without a GPU
CURRENT = "current"
HOST_INPUTS = ("depths", "weights", "strip")  # of a conditioner


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """A compiled graph.  It is executable code, so it is read from our own cache only (P11)."""

    plan: bytes
    log: str  # verbose, with a list of kernels
    flops: int  # of the convolutions and matrix products of one run


def tensorrt() -> Any:
    """The module that is installed.  Raises DeviceError if none is."""
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
    """Name and exact version.  A plan runs with exactly the version that compiled it."""
    return f"{trt.__name__} {trt.__version__}"


def targets(trt: Any) -> list[str]:
    """The targets of `compile_graph`: "current", and "sm_86", ... with TensorRT for RTX."""
    capabilities = getattr(trt, "ComputeCapability", None)
    names = [x for x in getattr(capabilities, "__members__", ()) if x.startswith("SM")]
    return [CURRENT, *(f"sm_{x[2:].lower()}" for x in names)]


def serves(trt: Any, capability: str) -> bool:
    """Whether TensorRT supports a GPU.  Classic TensorRT has no list; it fails when it compiles."""
    return not hasattr(trt, "ComputeCapability") or capability in targets(trt)


def compile_graph(trt: Any, path: Path, shapes: Shapes, target: str) -> Compiled:
    """Compiles an ONNX graph for one kind of GPU and fixed sizes.

    Raises UsageError for an unknown target, BundleError if TensorRT cannot read the graph,
    DeviceError if it cannot compile it.
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
        reason = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise BundleError(f"{path}: {flavour(trt)} cannot read it ({reason}); export again")
    _fix_shapes(trt, network, shapes)
    plan = builder.build_serialized_network(network, _config(trt, builder, target))
    if plan is None:
        errors = [text for severity, text in log.lines if severity <= trt.ILogger.Severity.ERROR]
        raise DeviceError(
            f"{path.name}: {flavour(trt)} could not compile it for {target}: "
            f"{errors[-1] if errors else 'no reason given'}"
        )
    text = "\n".join(text for _, text in log.lines)
    return Compiled(plan=bytes(memoryview(plan)), log=text, flops=_flops(trt, network))


@cache
def _log(trt: Any) -> Any:
    """Collects log lines.  TensorRT uses the first logger of a process until the process ends."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.lines: list[tuple[Any, str]] = []

        def log(self, severity: Any, text: str) -> None:
            self.lines.append((severity, text))

    return Log()


def _flags(trt: Any) -> int:
    """Makes TensorRT keep the graph's precisions.  Later versions always do and have no flag."""
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


def _fix_shapes(trt: Any, network: Any, shapes: Shapes) -> None:
    """Fixes every dimension, and puts the channels of float16 images last, to save transposes."""
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    for tensor in inputs:
        names = [tensor.get_dimension_name(i) for i in range(len(tensor.shape))]
        pairs = zip(tensor.shape, names, strict=True)
        tensor.shape = tuple(shapes[name] if size == -1 else int(size) for size, name in pairs)
    for tensor in (*inputs, *outputs):
        if tensor.dtype == trt.float16 and len(tensor.shape) == 4:
            tensor.allowed_formats = 1 << int(trt.TensorFormat.HWC)


def _flops(trt: Any, network: Any) -> int:
    """Floating-point operations of convolutions and matrix products; a multiply-add counts as 2."""
    total = 0
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        out, size = layer.get_output(0), lambda x: math.prod(x.shape)
        if layer.type == trt.LayerType.CONVOLUTION:
            layer.__class__ = trt.IConvolutionLayer
            total += 2 * size(out) * layer.get_input(0).shape[1] * math.prod(layer.kernel_size_nd)
        elif layer.type == trt.LayerType.MATRIX_MULTIPLY:
            a, b = layer.get_input(0), layer.get_input(1)
            inner = math.isqrt(size(a) * size(b) // (size(out) * math.prod(out.shape[:-2])))
            total += 2 * size(out) * inner
    return total


class Network:
    """A compiled graph on a device, with a buffer for every tensor.

    buffers: another network's buffers, to be used for tensors of the same name.
    jit: file for the kernels that TensorRT for RTX compiles when it loads a plan; None: no file.
    """

    def __init__(
        self, trt: Any, plan: bytes, queue: Queue, buffers: Mapping[str, Buffer], jit: Path | None
    ) -> None:
        self.queue = queue
        self.runtime = trt.Runtime(_log(trt))
        self.engine = self.runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            raise RuntimeError(f"{flavour(trt)} refuses the plan on this GPU: {_last_line(trt)}")
        self.context = _context(trt, self.engine, jit)
        self.buffers = {}
        for i in range(self.engine.num_io_tensors):
            name = self.engine.get_tensor_name(i)
            self.buffers[name] = buffers.get(name) or self._buffer(trt, name)
            self.context.set_tensor_address(name, self.buffers[name].address)

    def _buffer(self, trt: Any, name: str) -> Buffer:
        shape = tuple(int(x) for x in self.engine.get_tensor_shape(name))
        return self.queue.buffer(shape, trt.nptype(self.engine.get_tensor_dtype(name)))

    def run(self) -> None:
        """Queues one run of the graph and returns at once."""
        if not self.context.execute_async_v3(int(self.queue.stream)):
            raise RuntimeError("TensorRT could not queue the plan; see the log of TensorRT")


def _context(trt: Any, engine: Any, jit: Path | None) -> Any:
    if not hasattr(trt, "CudaGraphStrategy"):  # classic TensorRT: the plan contains its kernels
        return engine.create_execution_context()
    config = engine.create_runtime_config()
    config.cuda_graph_strategy = trt.CudaGraphStrategy.DISABLED  # `Queue` records the steps
    kernels = config.create_runtime_cache()
    stored = _read_kernels(jit) if jit else None
    if stored is not None:
        kernels.deserialize(stored)
    config.set_runtime_cache(kernels)
    context = engine.create_execution_context(config)
    if jit and stored is None:
        _write_kernels(jit, bytes(memoryview(kernels.serialize())))
    return context


def _read_kernels(path: Path) -> bytes | None:
    """Reads a file of `_write_kernels`; None if it is absent or damaged.

    Kernels are executable code, so they are used only if the hash is right (P11).
    """
    data = path.read_bytes() if path.is_file() else b""
    return data[32:] if data and hashlib.sha256(data[32:]).digest() == data[:32] else None


def _write_kernels(path: Path, data: bytes) -> None:
    spare = path.with_suffix(f".{os.getpid()}")
    with suppress(OSError), replacing(path, spare):  # else the next load compiles them again
        spare.write_bytes(hashlib.sha256(data).digest() + data)


def _last_line(trt: Any) -> str:
    return _log(trt).lines[-1][1] if _log(trt).lines else "no reason given"


class TrtPlan:
    """A Plan on TensorRT.

    plans: compiled graphs by name of a part, as in `graph_shapes`.
    kernels: a folder of ours for the kernels of `Network`; None: they are compiled at each load.
    Conditions stay on the device and are valid until the next `relabel`, which overwrites them.
    A step is one CUDA graph; from rung to rung only a few numbers on the device change.
    """

    def __init__(
        self,
        trt: Any,
        queue: Queue,
        plans: Mapping[str, bytes],
        batch: int,
        kernels: Path | None = None,
    ) -> None:
        self.queue, self.batch = queue, batch

        def network(name: str, buffers: Mapping[str, Buffer]) -> Network:
            jit = kernels / f"{name}.jit" if kernels else None
            return Network(trt, plans[name], queue, buffers, jit)

        self.conditioner = network("conditioner", {})
        buffers = self.conditioner.buffers
        self.relabeller = network(
            "relabel", {x: buffers[x] for x in buffers if x not in HOST_INPUTS}
        )
        self.denoiser = network("denoiser", buffers)
        self.x, self.x0 = self._on_device("x"), self._on_device("previous")
        self.conditions: object = None  # stands for the batch whose conditions are on the device
        self.queue_step = queue.record(self._step)

    def _on_device(self, name: str) -> OnDevice:
        buffer = self.denoiser.buffers[name]
        return OnDevice(buffer, partial(self.queue.download, buffer))

    def condition(self, depths: Image, weights: Image, strip: Image, scan: Image) -> Conditioning:
        self.conditions = object()
        self.queue.upload(self.denoiser.buffers["scan"], scan)
        count = self.conditioner.buffers["depths"].host.shape[1]
        label = self._label(self.conditioner, *pad_depths(depths, weights, count), strip)
        return Conditioning(conditions=self.conditions, label=label)

    def relabel(self, images: Image, strip: Image) -> Labels:
        self.conditions = None
        weights = np.ones((len(images), 1), np.float32)
        return self._label(self.relabeller, images, weights, strip)

    def _label(self, network: Network, depths: Image, weights: Image, strip: Image) -> Labels:
        for name, array in zip(HOST_INPUTS, (depths, weights, strip), strict=True):
            self.queue.upload(network.buffers[name], array)
        network.run()
        return self.queue.download(network.buffers["label"]).astype(np.uint8)

    def step(
        self, x: Image, previous: Image, rung: Rung, conditioned: Conditioning
    ) -> tuple[Image, Image]:
        """Returns the same two tensors each time; they stay on the device."""
        assert conditioned.conditions is self.conditions, "conditions of another batch"
        for given, mine in ((x, self.x), (previous, self.x0)):
            if given is not cast(Image, mine):
                self.queue.upload(mine.handle, given)
        for name, values in step_inputs(rung).items():
            self.queue.set(self.denoiser.buffers[name], values)
        self.queue_step()
        return cast(Image, self.x), cast(Image, self.x0)

    def _step(self) -> None:
        buffers = self.denoiser.buffers
        self.denoiser.run()
        self.queue.move(buffers["x_next"], buffers["x"])
        self.queue.move(buffers["x0"], buffers["previous"])
