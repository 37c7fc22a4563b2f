"""The bundle's graphs on ONNX Runtime; on the CPU this is what makes everything run with no GPU.

Its CUDA provider serves a GPU that has no TensorRT.

Tried by hand with the bundle of the second observation (Xeon with AMX, other work beside): OpenVINO
2026.4 in bfloat16 takes 0.4 of our conditioner's time and 0.9 of a step's; x0-hat is 59 to 73 dB
from float32 at eight t, where 65 is asked of a plan, and 66 dB at the one that a run looks at.

Tried by hand with the first bundle (AMD EPYC, avx512_bf16; share of our step): OpenVINO
2026.4 in bfloat16 0.72, but eps-hat was 56 dB from float32 where 65 is asked of a plan; in float32
1.15.  ncnn 1.0.20261020, whose Winograd convolutions do twice the work a second, 0.9 to 1.0, since
normalisation and activation cost it more (110 dB).  GroupNorm written out in the fewest passes
over memory 0.87 to 1.04; fixed shapes 0.98 to 1.00.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import onnxruntime

from mcdiff_batch.engine.errors import BundleError, DeviceError
from mcdiff_batch.engine.image.frame import Image, Labels
from mcdiff_batch.engine.model.contract import Bundle
from mcdiff_batch.engine.model.plan import Conditioned, Device, OnDevice, Plan, PlanMaker, numbers
from mcdiff_batch.engine.model.solver import Rung
from mcdiff_batch.engine.telemetry.machine import cores

from .gpus import count_as_nvml

CPU = Device(kind="cpu", index=0)
CUDA_PROVIDER = "CUDAExecutionProvider"


def providers(device: Device) -> list[Any]:
    """On a GPU algorithms are not chosen by timing, which would change bits from run to run.

    Nor by cuDNN's heuristics: tried by hand on an H200, they found no plan for most float16
    convolutions, and a step of 8 took 220 ms in the place of 17 (exhaustive search: 19).
    """
    if device.kind == "cpu":
        return ["CPUExecutionProvider"]
    fixed = {"device_id": device.index, "cudnn_conv_algo_search": "DEFAULT", "use_tf32": 0}
    return [(CUDA_PROVIDER, fixed)]


def session(path: Path, threads: int, device: Device = CPU) -> onnxruntime.InferenceSession:
    """On a CPU the same bits for a case whatever the batch, slot or thread count (tested).

    Raises BundleError, on a GPU ONNX Runtime's own errors, and DeviceError where that would
    compute on the CPU in its place.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.use_deterministic_compute = device.kind != "cpu"
    make = partial(onnxruntime.InferenceSession, path, options, providers(device))
    if device.kind != "cpu":
        return _on_gpu(make, device)
    try:
        return make()
    except Exception as error:  # ONNX Runtime raises its own unrelated types
        raise BundleError(f"{path}: ONNX Runtime cannot load it ({error}); export again") from error


def _on_gpu(
    make: Callable[..., onnxruntime.InferenceSession], device: Device
) -> onnxruntime.InferenceSession:
    count_as_nvml()
    onnxruntime.set_default_logger_severity(3)  # errors
    with redirect_stdout(sys.stderr):  # it prints what it does not find
        onnxruntime.preload_dlls()
    found = make(enable_fallback=0)
    if CUDA_PROVIDER not in found.get_providers():
        raise DeviceError(
            f"{device}: ONNX Runtime {onnxruntime.__version__} finds no CUDA that it can use and "
            "would compute on the CPU; pip install 'onnxruntime-gpu[cuda,cudnn]', or put the "
            "folders of libcublasLt, libcudart and libcudnn on LD_LIBRARY_PATH"
        )
    return found


@dataclass(frozen=True, slots=True)
class OrtPlan:
    """Plan on ONNX Runtime.  Conditions stay a dict of arrays, fed to every step as they are.

    A batch is dealt out to the threads of `pool`, which compute cases side by side: two cores take
    0.85 of the time of a step, and 0.89 of that of the conditioner, that they take together at one
    operator after another (AMD EPYC, batch 4, in turn, by hand).
    """

    conditioner: onnxruntime.InferenceSession
    denoiser: onnxruntime.InferenceSession
    condition_names: tuple[str, ...]
    batch: int
    pool: ThreadPoolExecutor
    hands: int  # threads of `pool`

    def condition(self, depths: Image, weights: Image, strip: Image, scan: Image) -> Conditioned:
        names = ["label", *self.condition_names]
        feed = {"depths": depths, "weights": weights, "strip": strip}
        label, *rest = self._run(self.conditioner, names, feed)
        held = dict(zip(names[1:], rest, strict=True)) | {"strip": strip, "scan": scan}
        return Conditioned(conditions=held, label=np.asarray(label, np.uint8))

    def relabel(self, images: Image, strip: Image) -> Labels:
        weights = np.ones((len(images), 1), np.float32)
        feed = {"depths": images, "weights": weights, "strip": strip}
        return np.asarray(self._run(self.conditioner, ["label"], feed)[0], np.uint8)

    def step(
        self, x: Image, previous: Image, rung: Rung, conditioned: Conditioned
    ) -> tuple[Image, Image]:
        assert isinstance(conditioned.conditions, dict)
        feed = conditioned.conditions | {"x": x, "previous": previous}
        after, x0 = self._run(self.denoiser, ["x_next", "x0"], feed, numbers(rung))
        return after, x0

    def _run(
        self,
        which: onnxruntime.InferenceSession,
        outputs: Sequence[str],
        cases: Mapping[str, Image],
        shared: Mapping[str, Image] = MappingProxyType({}),
    ) -> list[Image]:
        """`cases` [B, ...] dealt out, outputs put together again."""
        count = len(next(iter(cases.values())))
        ends = [count * i // self.hands for i in range(self.hands + 1)]
        dealt = [slice(a, b) for a, b in pairwise(ends) if b > a]
        run = lambda part: which.run(outputs, {k: x[part] for k, x in cases.items()} | dict(shared))
        return [np.concatenate(x) for x in zip(*self.pool.map(run, dealt), strict=True)]


@dataclass(frozen=True, slots=True)
class BoundPlan:
    """Plan on ONNX Runtime whose tensors stay on its device between calls."""

    conditioner: onnxruntime.InferenceSession
    denoiser: onnxruntime.InferenceSession
    condition_names: tuple[str, ...]
    batch: int
    device: Device

    def condition(self, depths: Image, weights: Image, strip: Image, scan: Image) -> Conditioned:
        images = {"strip": self._put(strip), "scan": self._put(scan)}
        feed = {"depths": depths, "weights": weights, "strip": images["strip"]}
        label, *rest = self._run(self.conditioner, feed, ["label", *self.condition_names])
        held = dict(zip(self.condition_names, rest, strict=True)) | images
        return Conditioned(conditions=held, label=np.asarray(label, np.uint8))

    def relabel(self, images: Image, strip: Image) -> Labels:
        weights = np.ones((len(images), 1), np.float32)
        feed = {"depths": images, "weights": weights, "strip": strip}
        return np.asarray(self._run(self.conditioner, feed, ["label"])[0], np.uint8)

    def step(
        self, x: Image, previous: Image, rung: Rung, conditioned: Conditioned
    ) -> tuple[Image, Image]:
        assert isinstance(conditioned.conditions, dict)
        feed = conditioned.conditions | numbers(rung) | {"x": x, "previous": previous}
        after, x0 = self._run(self.denoiser, feed, ["x_next", "x0"])
        return cast(Image, after), cast(Image, x0)

    def _put(self, array: Image) -> OnDevice:
        value = onnxruntime.OrtValue.ortvalue_from_numpy(
            np.ascontiguousarray(array), self.device.kind, self.device.index
        )
        return OnDevice(value, value.numpy)

    def _run(
        self, which: onnxruntime.InferenceSession, feed: Mapping[str, Any], outputs: list[str]
    ) -> list[OnDevice]:
        binding = which.io_binding()
        for name, x in feed.items():
            held = x if isinstance(x, OnDevice) else self._put(x)
            binding.bind_ortvalue_input(name, held.handle)
        for name in outputs:
            binding.bind_output(name, self.device.kind, self.device.index)
        which.run_with_iobinding(binding)
        return [OnDevice(x, x.numpy) for x in binding.get_outputs()]


def load(
    bundle: Bundle, device: Device, batch: int, *, threads: int = 0, half: bool = False
) -> Plan:
    """`threads`: of a CPU; 0: one for each core.  `half`: the float16 graphs.  A CPU computes them
    in float32 and rounds between operators."""
    graphs = [bundle.graph(name, half=half) for name in ("conditioner", "denoiser")]
    threads = threads or cores()
    hands = min(batch, threads)
    spare = threads - hands  # for all hands at once
    conditioner, denoiser = (session(path, 1 + spare, device) for path in graphs)
    names = bundle.contract.conditions
    if device.kind == "cpu":
        pool = ThreadPoolExecutor(hands, thread_name_prefix="model")
        return OrtPlan(conditioner, denoiser, names, batch, pool, hands)
    return BoundPlan(conditioner, denoiser, names, batch, device)


def maker(bundle: Bundle, threads: int) -> PlanMaker:
    """A picklable recipe for `load`, to be called inside a worker."""
    return partial(load, bundle, threads=threads)
