"""What a bundle's graphs cost, counted from the ONNX files.  Needs the package onnx."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PRODUCTS = ("Conv", "Gemm", "MatMul")
FREE = ("Reshape", "Shape", "Squeeze", "Unsqueeze", "Identity")  # no px is read or written
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One convolution or matrix product; what else there is can be fused to it."""

    flops: int
    bytes: int  # of its inputs, weights and output, each once


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One run of a graph."""

    layers: tuple[Layer, ...]
    bytes_unfused: int  # where every operator reads and writes memory

    @property
    def flops(self) -> int:
        """A multiply-add is two; activations and norms are not counted."""
        return sum(x.flops for x in self.layers)

    @property
    def bytes(self) -> int:
        return sum(x.bytes for x in self.layers)

    def roofline_s(self, flops_per_s: float, bytes_per_s: float) -> float:
        """Layer by layer, the slower of computing and moving; all else fused (Williams 2009)."""
        return sum(max(x.flops / flops_per_s, x.bytes / bytes_per_s) for x in self.layers)


def graph_cost(path: Path, sizes: Mapping[str, int]) -> Cost:
    """`sizes` of the graph's free dimensions: batch, depths.  Raises KeyError for one unnamed."""
    import onnx

    model = onnx.load(str(path))
    del model.graph.value_info[:]
    for value in model.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = sizes[dim.dim_param]
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    known = _tensors(graph)
    shapes = {name: shape for name, (shape, _) in known.items()}
    size = lambda names: sum(math.prod(known[x][0]) * known[x][1] for x in {*names} if x)
    moved = {i: size((*node.input, *node.output)) for i, node in enumerate(graph.node)}
    layers = tuple(
        Layer(flops=_flops(node, shapes), bytes=moved[i])
        for i, node in enumerate(graph.node)
        if node.op_type in PRODUCTS
    )
    held = {x.name for x in graph.initializer}  # what hangs on these alone is done at load
    every = (
        moved[i]
        for i, node in enumerate(graph.node)
        if node.op_type not in FREE and not held.issuperset(node.input)
    )
    return Cost(layers=layers, bytes_unfused=sum(every))


def _tensors(graph: Any) -> dict[str, tuple[tuple[int, ...], int]]:
    """Shape and bytes an element of every tensor."""
    import onnx

    itemsize = lambda kind: np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)).itemsize
    out = {x.name: (tuple(x.dims), itemsize(x.data_type)) for x in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        shape = tuple(dim.dim_value for dim in kind.shape.dim)
        out[value.name] = (shape, itemsize(kind.elem_type))
    return out


def _flops(node: Any, shapes: Shapes) -> int:
    made, first, second = (shapes[x] for x in (node.output[0], *node.input[:2]))
    if node.op_type == "Conv":
        return 2 * math.prod(made) * math.prod(second[1:])
    turned = any(x.name == "transA" and x.i for x in node.attribute)
    return 2 * math.prod(made) * first[-2 if turned else -1]
