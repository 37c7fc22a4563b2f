"""The cost of a bundle's graphs, counted from the ONNX files.  Needs the package onnx."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PRODUCTS = ("Conv", "Gemm", "MatMul")
FREE = ("Reshape", "Shape", "Squeeze", "Unsqueeze", "Identity")  # these move no data
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One convolution or matrix product; other operators can be fused to it."""

    flops: int
    bytes: int  # its inputs, weights and output, each once


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The cost of one run of a graph."""

    layers: tuple[Layer, ...]
    bytes_unfused: int  # if every operator reads and writes memory

    @property
    def flops(self) -> int:
        """A multiply-add counts as two; activations and norms do not count."""
        return sum(x.flops for x in self.layers)

    @property
    def bytes(self) -> int:
        return sum(x.bytes for x in self.layers)

    def roofline_s(self, flops_per_s: float, bytes_per_s: float) -> float:
        """The roofline (Williams 2009): per layer the slower of computing and moving data."""
        return sum(max(x.flops / flops_per_s, x.bytes / bytes_per_s) for x in self.layers)


def graph_cost(path: Path, sizes: Mapping[str, int]) -> Cost:
    """Counts a graph.  sizes: of its free dimensions, batch and depths.

    Raises KeyError if the size of one is absent.
    """
    import onnx

    model = onnx.load(str(path))
    del model.graph.value_info[:]
    for value in model.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = sizes[dim.dim_param]
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    tensors = _tensors(graph)
    shapes = {name: shape for name, (shape, _) in tensors.items()}
    size = lambda names: sum(math.prod(tensors[x][0]) * tensors[x][1] for x in {*names} if x)
    moved = {i: size((*node.input, *node.output)) for i, node in enumerate(graph.node)}
    layers = tuple(
        Layer(flops=_flops(node, shapes), bytes=moved[i])
        for i, node in enumerate(graph.node)
        if node.op_type in PRODUCTS
    )
    constants = {x.name for x in graph.initializer}  # operators on these alone run at load
    every = (
        moved[i]
        for i, node in enumerate(graph.node)
        if node.op_type not in FREE and not constants.issuperset(node.input)
    )
    return Cost(layers=layers, bytes_unfused=sum(every))


def _tensors(graph: Any) -> dict[str, tuple[tuple[int, ...], int]]:
    """The shape and the bytes per element of every tensor."""
    import onnx

    itemsize = lambda kind: np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)).itemsize
    out = {x.name: (tuple(x.dims), itemsize(x.data_type)) for x in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        shape = tuple(dim.dim_value for dim in kind.shape.dim)
        out[value.name] = (shape, itemsize(kind.elem_type))
    return out


def _flops(node: Any, shapes: Shapes) -> int:
    output, first, second = (shapes[x] for x in (node.output[0], *node.input[:2]))
    if node.op_type == "Conv":
        return 2 * math.prod(output) * math.prod(second[1:])
    turned = any(x.name == "transA" and x.i for x in node.attribute)
    return 2 * math.prod(output) * first[-2 if turned else -1]
