"""The backend "onnxruntime": a bundle's graphs on ONNX Runtime on the CPU, in float32.

It needs no GPU, and it is the reference that the plans of all other backends are compared with.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnxruntime

from mcdiff_batch.engine.errors import BundleError
from mcdiff_batch.engine.image.frame import Image, Labels
from mcdiff_batch.engine.model.contract import Bundle
from mcdiff_batch.engine.model.plan import Conditioning, Device, Plan, step_inputs
from mcdiff_batch.engine.model.solver import Rung
from mcdiff_batch.engine.telemetry.machine import cores, package_version

from .backend import CompiledFiles
from .gpus import Gpu

CPU = Device(kind="cpu", index=0)


def session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """Loads a graph.  A case gets the same bits at every batch size, slot and thread count.

    Raises BundleError.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    try:
        return onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common base class
        raise BundleError(f"{path}: ONNX Runtime cannot load it ({error}); export again") from error


@dataclass(frozen=True, slots=True)
class OrtPlan:
    """A Plan on the CPU.  Its conditions are a dict of arrays, which every step gets as inputs.

    The threads of `pool` share the cases of a batch and compute them side by side, which is faster
    than sharing each operator.
    """

    conditioner: onnxruntime.InferenceSession
    denoiser: onnxruntime.InferenceSession
    condition_names: tuple[str, ...]
    batch: int
    pool: ThreadPoolExecutor
    pool_size: int

    def condition(self, depths: Image, weights: Image, strip: Image, scan: Image) -> Conditioning:
        names = ["label", *self.condition_names]
        inputs = {"depths": depths, "weights": weights, "strip": strip}
        label, *rest = self._run(self.conditioner, names, inputs)
        conditions = dict(zip(names[1:], rest, strict=True)) | {"strip": strip, "scan": scan}
        return Conditioning(conditions=conditions, label=np.asarray(label, np.uint8))

    def relabel(self, images: Image, strip: Image) -> Labels:
        weights = np.ones((len(images), 1), np.float32)
        inputs = {"depths": images, "weights": weights, "strip": strip}
        return np.asarray(self._run(self.conditioner, ["label"], inputs)[0], np.uint8)

    def step(
        self, x: Image, previous: Image, rung: Rung, conditioned: Conditioning
    ) -> tuple[Image, Image]:
        assert isinstance(conditioned.conditions, dict)
        inputs = conditioned.conditions | {"x": x, "previous": previous}
        x_next, x0 = self._run(self.denoiser, ["x_next", "x0"], inputs, step_inputs(rung))
        return x_next, x0

    def _run(
        self,
        graph: onnxruntime.InferenceSession,
        outputs: Sequence[str],
        inputs: Mapping[str, Image],
        constants: Mapping[str, Image] = MappingProxyType({}),
    ) -> list[Image]:
        """Splits `inputs` [B, ...] over the threads and joins the outputs; all get `constants`."""
        count = len(next(iter(inputs.values())))
        ends = [count * i // self.pool_size for i in range(self.pool_size + 1)]
        parts = [slice(a, b) for a, b in pairwise(ends) if b > a]
        run = lambda part: graph.run(
            outputs, {name: x[part] for name, x in inputs.items()} | dict(constants)
        )
        return [np.concatenate(x) for x in zip(*self.pool.map(run, parts), strict=True)]


@dataclass(frozen=True, slots=True)
class OnnxRuntime:
    """A Backend for the CPU.

    half: loads the float16 graphs, which a CPU computes in float32, rounding after each operator.
    """

    half: bool = False

    name = "onnxruntime"
    isolated = False

    def serves(self, gpu: Gpu | None) -> bool:
        return gpu is None

    def versions(self) -> dict[str, str]:
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
        threads = threads or cores()
        pool_size = min(batch, threads)
        per_graph = 1 + threads - pool_size  # threads that are left over, for all of the pool
        conditioner, denoiser = (
            session(bundle.graph(name, half=self.half), per_graph)
            for name in ("conditioner", "denoiser")
        )
        pool = ThreadPoolExecutor(pool_size, thread_name_prefix="model")
        names = bundle.contract.conditions
        return OrtPlan(conditioner, denoiser, names, batch, pool, pool_size)


REFERENCE = OnnxRuntime()
