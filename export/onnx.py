"""Writes the graphs as ONNX files, with the names and free dimensions of the contract."""

import contextlib
import io
import logging
import warnings
from ast import literal_eval
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from mcdiff_batch.engine.files import file_sha256
from mcdiff_batch.engine.model.contract import Graph
from mcdiff_batch.engine.model.contract import Tensor as TensorSpec
from mcdiff_batch.train.networks.graphs import Conditioner, Denoiser, condition_names
from mcdiff_batch.train.networks.trio import Networks
from mcdiff_batch.train.training.weights import STORED

OPSET = 18  # ONNX Runtime's CPU kernels are twice as slow on the GroupNormalization of 21
SCOPES = "pkg.torch.onnx.name_scopes"
HALF_OPSET = 21  # TensorRT makes one kernel of its GroupNorm and SiLU
FEW = 1024  # a weight with fewer elements stays in float32


def write_conditioner(nets: Networks, path: Path) -> Graph:
    """Writes the conditioner.  Batch and depths are free, so it can label a single image too."""
    height, width = nets.preset.frame.height, nets.preset.frame.width
    depths = len(nets.preset.depth_weights)
    inputs = (
        torch.zeros(2, depths, height, width),
        torch.full((2, depths), 1 / depths),
        torch.ones(2, 1, height, width),
    )
    batch, free = torch.export.Dim("batch"), torch.export.Dim("depths")
    shapes = ({0: batch, 1: free}, {0: batch, 1: free}, {0: batch})
    output_names = ["label", *condition_names(nets)]
    input_names = ["depths", "weights", "strip"]
    return _write(Conditioner(nets), inputs, shapes, input_names, output_names, path, _opset(nets))


def write_denoiser(nets: Networks, path: Path) -> Graph:
    """Writes the denoiser, whose batch is free."""
    height, width = nets.preset.frame.height, nets.preset.frame.width
    depths = len(nets.preset.depth_weights)
    image = lambda: torch.rand(2, 1, height, width)  # a new one each: equal objects are merged
    even = torch.full((2, depths), 1 / depths)
    with torch.no_grad():
        stack = image().expand(-1, depths, -1, -1)
        _, *conditions = Conditioner(nets)(stack, even, torch.ones(2, 1, height, width))
    coefficients = torch.tensor([0.5, 0.8, 0.1, 0.9, 0.0])
    scalars = (torch.tensor([500.0]), coefficients)
    inputs = (image(), image(), *scalars, image(), image(), list(conditions))
    first = {0: torch.export.Dim("batch")}
    shapes = (first, first, None, None, first, first, [first] * len(conditions))
    input_names = ["x", "previous", "t", "coefficients", "strip", "scan", *condition_names(nets)]
    output_names = ["x_next", "x0"]
    return _write(Denoiser(nets), inputs, shapes, input_names, output_names, path, _opset(nets))


def _opset(nets: Networks) -> int:
    return HALF_OPSET if nets.foundation.dtype == torch.float16 else OPSET


def _write(
    module: nn.Module,
    inputs: tuple[Tensor | list[Tensor], ...],
    shapes: tuple[object, ...],
    input_names: list[str],
    output_names: list[str],
    path: Path,
    opset: int,
) -> Graph:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            module.eval(),
            inputs,
            dynamo=True,
            opset_version=opset,
            input_names=input_names,
            output_names=output_names,
            dynamic_shapes=shapes,
            verbose=False,
        )
    assert program is not None
    model = _store_in_half(_name_nodes(program.model_proto))
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return Graph(
        file=path.name,
        sha256=file_sha256(path),
        inputs=tuple(_describe(x) for x in model.graph.input),
        outputs=tuple(_describe(x) for x in model.graph.output),
    )


def _name_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Names nodes after their module, "tuner.3/node_add_5", for build logs and profiles.

    Removes the exporter's stack traces, which name files of this machine.
    """
    for node in model.graph.node:
        scopes = next((x.value for x in node.metadata_props if x.key == SCOPES), "[]")
        modules = [x for x in literal_eval(scopes)[:-1] if x]
        node.name = f"{modules[-1] if modules else 'step'}/{node.name}"
        del node.metadata_props[:]
        node.doc_string = ""
    for function in model.functions:
        for node in function.node:
            del node.metadata_props[:]
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    return model


def _store_in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Stores float32 weights in float16, each with a Cast that runtimes fold when they load.

    Trained weights were rounded when the training ended, so this changes none.  A weight that it
    would change stays in float32.
    """
    graph, casts = model.graph, []
    for weight in graph.initializer:
        value = onnx.numpy_helper.to_array(weight)
        if value.dtype != np.float32 or value.size < FEW:
            continue
        with np.errstate(over="ignore"):
            half = value.astype(np.float16)
        if not np.array_equal(half, value):
            continue
        name = weight.name
        weight.CopyFrom(onnx.numpy_helper.from_array(half, name + STORED))
        casts.append(
            onnx.helper.make_node(
                "Cast", [weight.name], [name], f"{name}/cast", to=onnx.TensorProto.FLOAT
            )
        )
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def _describe(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    dtype = str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    shape = tuple(d.dim_param or d.dim_value for d in kind.shape.dim)
    return TensorSpec(name=value.name, dtype=dtype, shape=shape)
