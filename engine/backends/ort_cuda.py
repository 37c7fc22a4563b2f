"""The backend "onnxruntime-cuda": ONNX Runtime's CUDA provider, for a GPU without TensorRT.

Each graph is recorded as a CUDA graph, because the host takes longer to launch its many small
kernels than the GPU takes to run them.
"""

import sys
from collections.abc import Collection, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import onnxruntime

from mcdiff_batch.engine.errors import DeviceError
from mcdiff_batch.engine.image.frame import Image, Labels
from mcdiff_batch.engine.model.contract import Bundle
from mcdiff_batch.engine.model.plan import Conditioning, Device, OnDevice, Plan, step_inputs
from mcdiff_batch.engine.model.solver import Rung
from mcdiff_batch.engine.telemetry.machine import package_version
from mcdiff_batch.engine.text import clean

from .backend import CompiledFiles, Shapes, graph_shapes, pad_depths
from .gpus import Gpu, count_as_nvml

CUDA_PROVIDER = "CUDAExecutionProvider"
DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
}


def session(
    path: Path, device: Device, sizes: Shapes, *, recorded: bool
) -> onnxruntime.InferenceSession:
    """Loads a graph of fixed sizes on a GPU.

    cuDNN picks its default algorithms: a search by timing would change the bits from run to run.
    Raises ONNX Runtime's own errors, and DeviceError where ONNX Runtime would use the CPU instead.
    """
    count_as_nvml()
    onnxruntime.set_default_logger_severity(3)  # errors
    with redirect_stdout(sys.stderr):  # preload_dlls prints the libraries that it does not find
        onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.use_deterministic_compute = True
    for name, size in sizes.items():
        options.add_free_dimension_override_by_name(name, size)
    provider = {
        "device_id": device.index,
        "cudnn_conv_algo_search": "DEFAULT",
        "use_tf32": 0,
        "enable_cuda_graph": int(recorded),
    }
    graph = onnxruntime.InferenceSession(
        path, options, [(CUDA_PROVIDER, provider)], enable_fallback=0
    )
    if CUDA_PROVIDER not in graph.get_providers():
        raise DeviceError(
            f"{device.title}: ONNX Runtime {onnxruntime.__version__} finds no CUDA that it can use "
            "and would compute on the CPU; pip install 'onnxruntime-gpu[cuda,cudnn]', or put the "
            "folders of libcublasLt, libcudart and libcudnn on LD_LIBRARY_PATH"
        )
    return graph


class Network:
    """A graph, and the places of its tensors on the device, which stay the same for CUDA graphs.

    places: the places of tensors that another network has too.
    outputs: those that are computed; empty: all of them.
    number: of the CUDA graph, among those of the session.
    """

    def __init__(
        self,
        graph: onnxruntime.InferenceSession,
        device: Device,
        sizes: Shapes,
        places: Mapping[str, onnxruntime.OrtValue],
        *,
        outputs: Collection[str] = (),
        number: int = 1,
    ) -> None:
        self.graph, self.places = graph, dict[str, onnxruntime.OrtValue]()
        self.binding = graph.io_binding()
        wanted = [x for x in graph.get_outputs() if not outputs or x.name in outputs]
        for tensor in (*graph.get_inputs(), *wanted):
            shape = [sizes.get(x, x) for x in tensor.shape]
            place = places.get(tensor.name)
            if place is None:
                place = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                    shape, DTYPES[tensor.type], device.kind, device.index
                )
            self.places[tensor.name] = place
        for tensor in graph.get_inputs():
            self.binding.bind_ortvalue_input(tensor.name, self.places[tensor.name])
        for tensor in wanted:
            self.binding.bind_ortvalue_output(tensor.name, self.places[tensor.name])
        self.options = onnxruntime.RunOptions()
        self.options.add_run_config_entry("gpu_graph_id", str(number))

    def put(self, name: str, array: Image) -> None:
        self.places[name].update_inplace(np.ascontiguousarray(array, np.float32))

    def run(self) -> None:
        """Runs the graph to its end.  The first run records it, and executes it several times."""
        self.graph.run_with_iobinding(self.binding, self.options)


class BoundPlan:
    """A Plan on ONNX Runtime whose tensors stay on the device between calls.

    graphs: by name of a part, as in `graph_shapes`.
    Steps go back and forth between two places of x and of x0-hat: a run may not overwrite its own
    inputs, because the one that records a graph executes it several times.
    """

    def __init__(
        self,
        graphs: Mapping[str, onnxruntime.InferenceSession],
        shapes: Mapping[str, tuple[str, Shapes]],
        device: Device,
    ) -> None:
        sizes = {name: x for name, (_, x) in shapes.items()}
        self.batch, self.depths = sizes["conditioner"]["batch"], sizes["conditioner"]["depths"]
        self.conditioner = Network(graphs["conditioner"], device, sizes["conditioner"], {})
        self.relabeller = Network(
            graphs["relabel"], device, sizes["relabel"], {}, outputs=["label"]
        )
        forth = Network(graphs["denoiser"], device, sizes["denoiser"], self.conditioner.places)
        pairs = {"x": "x_next", "previous": "x0", "x_next": "x", "x0": "previous"}
        swapped = {name: forth.places[other] for name, other in pairs.items()}
        back = Network(
            graphs["denoiser"], device, sizes["denoiser"], forth.places | swapped, number=2
        )
        self.steps = (forth, back)
        self.states = [
            [_on_device(x.places[name]) for name in ("x", "previous")] for x in self.steps
        ]
        self.turn = 0  # which of the steps is next
        self.conditions: object = None  # stands for the batch whose conditions are on the device

    def record(self) -> None:
        """Runs every network once, so that CUDA graphs are recorded.  Raises ONNX Runtime's own
        errors."""
        for network in (self.conditioner, self.relabeller, *self.steps):
            network.run()

    def condition(self, depths: Image, weights: Image, strip: Image, scan: Image) -> Conditioning:
        self.conditions = object()
        self.steps[0].put("scan", scan)
        label = _label(self.conditioner, *pad_depths(depths, weights, self.depths), strip)
        return Conditioning(conditions=self.conditions, label=label)

    def relabel(self, images: Image, strip: Image) -> Labels:
        return _label(self.relabeller, images, np.ones((len(images), 1), np.float32), strip)

    def step(
        self, x: Image, previous: Image, rung: Rung, conditioned: Conditioning
    ) -> tuple[Image, Image]:
        assert conditioned.conditions is self.conditions, "conditions of another batch"
        network, state = self.steps[self.turn], self.states[self.turn]
        for name, given, mine in zip(("x", "previous"), (x, previous), state, strict=True):
            if given is not cast(Image, mine):
                network.put(name, np.asarray(given))
        for name, values in step_inputs(rung).items():
            network.put(name, values)
        network.run()
        self.turn = 1 - self.turn
        x_next, x0 = self.states[self.turn]
        return cast(Image, x_next), cast(Image, x0)


def _on_device(place: onnxruntime.OrtValue) -> OnDevice:
    return OnDevice(place, place.numpy)


def _label(network: Network, depths: Image, weights: Image, strip: Image) -> Labels:
    for name, array in (("depths", depths), ("weights", weights), ("strip", strip)):
        network.put(name, array)
    network.run()
    return np.asarray(network.places["label"].numpy(), np.uint8)


@dataclass(frozen=True, slots=True)
class OnnxRuntimeCuda:
    """A Backend for every NVIDIA GPU; computes the float16 graphs if the bundle has them.

    records: whether to record CUDA graphs, where ONNX Runtime can.
    """

    records: bool = True

    name = "onnxruntime-cuda"
    isolated = True

    def serves(self, gpu: Gpu | None) -> bool:
        return gpu is not None and CUDA_PROVIDER in onnxruntime.get_available_providers()

    def versions(self) -> dict[str, str]:
        if CUDA_PROVIDER not in onnxruntime.get_available_providers():
            return {}
        return {"onnxruntime": package_version("onnxruntime")}

    def compile(
        self, bundle: Bundle, device: Device, batch: int, cache: Path, copy: Path | None
    ) -> None:
        return None

    def load(
        self,
        bundle: Bundle,
        device: Device,
        batch: int,
        files: CompiledFiles | None = None,
        threads: int = 0,
    ) -> Plan:
        if self.records:
            try:
                return _load(bundle, device, batch, recorded=True)
            except DeviceError:
                raise
            except Exception as error:  # ONNX Runtime's exceptions have no common base class
                print(
                    f"{device.title}: steps take longer, since ONNX Runtime cannot record them "
                    f"({clean(error)})",
                    file=sys.stderr,
                )
        return _load(bundle, device, batch, recorded=False)


def _load(bundle: Bundle, device: Device, batch: int, *, recorded: bool) -> Plan:
    shapes, half = graph_shapes(bundle, batch), bundle.contract.half is not None
    graphs = {
        name: session(bundle.graph(graph, half=half), device, sizes, recorded=recorded)
        for name, (graph, sizes) in shapes.items()
    }
    plan = BoundPlan(graphs, shapes, device)
    plan.record()
    return plan
