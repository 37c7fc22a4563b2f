"""TensorRT, classic or for RTX; no other file knows it.  A graph in, a plan and its log out."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from .errors import BundleError, DeviceError, UsageError

FLAVOURS = ("tensorrt_rtx", "tensorrt")  # modules of one API; the first compiles without a GPU
CURRENT = "current"

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
