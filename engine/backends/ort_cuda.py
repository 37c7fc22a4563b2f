"""The backend "onnxruntime-cuda": ONNX Runtime's CUDA provider, for a GPU without TensorRT."""

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime

from mcdiff_batch.engine.errors import DeviceError
from mcdiff_batch.engine.image.frame import Image, Labels
from mcdiff_batch.engine.model.contract import Bundle
from mcdiff_batch.engine.model.plan import Conditioning, Device, OnDevice, Plan, step_inputs
from mcdiff_batch.engine.model.solver import Rung
from mcdiff_batch.engine.telemetry.machine import package_version

from .backend import CompiledFiles
from .gpus import Gpu, count_as_nvml

CUDA_PROVIDER = "CUDAExecutionProvider"


def session(path: Path, device: Device) -> onnxruntime.InferenceSession:
    """Loads a graph on a GPU.

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
    provider = {"device_id": device.index, "cudnn_conv_algo_search": "DEFAULT", "use_tf32": 0}
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


@dataclass(frozen=True, slots=True)
class BoundPlan:
    """A Plan on ONNX Runtime whose tensors stay on the device between calls."""

    conditioner: onnxruntime.InferenceSession
    denoiser: onnxruntime.InferenceSession
    condition_names: tuple[str, ...]
    batch: int
    device: Device

    def condition(self, depths: Image, weights: Image, strip: Image, scan: Image) -> Conditioning:
        images = {"strip": self._put(strip), "scan": self._put(scan)}
        inputs = {"depths": depths, "weights": weights, "strip": images["strip"]}
        label, *rest = self._run(self.conditioner, inputs, ["label", *self.condition_names])
        conditions = dict(zip(self.condition_names, rest, strict=True)) | images
        return Conditioning(conditions=conditions, label=np.asarray(label, np.uint8))

    def relabel(self, images: Image, strip: Image) -> Labels:
        weights = np.ones((len(images), 1), np.float32)
        inputs = {"depths": images, "weights": weights, "strip": strip}
        return np.asarray(self._run(self.conditioner, inputs, ["label"])[0], np.uint8)

    def step(
        self, x: Image, previous: Image, rung: Rung, conditioned: Conditioning
    ) -> tuple[Image, Image]:
        assert isinstance(conditioned.conditions, dict)
        inputs = conditioned.conditions | step_inputs(rung) | {"x": x, "previous": previous}
        x_next, x0 = self._run(self.denoiser, inputs, ["x_next", "x0"])
        return cast(Image, x_next), cast(Image, x0)

    def _put(self, array: Image) -> OnDevice:
        value = onnxruntime.OrtValue.ortvalue_from_numpy(
            np.ascontiguousarray(array), self.device.kind, self.device.index
        )
        return OnDevice(value, value.numpy)

    def _run(
        self, graph: onnxruntime.InferenceSession, inputs: Mapping[str, Any], outputs: list[str]
    ) -> list[OnDevice]:
        binding = graph.io_binding()
        for name, x in inputs.items():
            tensor = x if isinstance(x, OnDevice) else self._put(x)
            binding.bind_ortvalue_input(name, tensor.handle)
        for name in outputs:
            binding.bind_output(name, self.device.kind, self.device.index)
        graph.run_with_iobinding(binding)
        return [OnDevice(x, x.numpy) for x in binding.get_outputs()]


@dataclass(frozen=True, slots=True)
class OnnxRuntimeCuda:
    """A Backend for every NVIDIA GPU; computes the float16 graphs if the bundle has them."""

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
        half = bundle.contract.half is not None
        conditioner, denoiser = (
            session(bundle.graph(name, half=half), device) for name in ("conditioner", "denoiser")
        )
        return BoundPlan(conditioner, denoiser, bundle.contract.conditions, batch, device)
