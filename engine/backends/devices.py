"""The devices that a run computes on, as the user names them, and the backend for each."""

import re
from collections.abc import Sequence

from mcdiff_batch.engine.errors import DeviceError, UsageError
from mcdiff_batch.engine.model.plan import Device

from . import gpus
from .backend import Backend
from .gpus import Gpu
from .ort import REFERENCE
from .ort_cuda import OnnxRuntimeCuda
from .plan_cache import TensorRT

BACKENDS: tuple[Backend, ...] = (  # a run uses the first that serves its devices
    TensorRT(),
    OnnxRuntimeCuda(),
    REFERENCE,
)


def backends_on(gpu: Gpu | None) -> tuple[Backend, ...]:
    """Backends that compute on a GPU, or on the CPU if that is None; the best first."""
    return tuple(x for x in BACKENDS if x.serves(gpu))


def backend_for(device: Device) -> Backend:
    """The backend that a run uses on one of the devices that `devices` returns."""
    gpu = None if device.kind == "cpu" else gpus.gpus()[device.index]
    return backends_on(gpu)[0]


def devices(text: str, available: Sequence[Gpu] | None = None) -> tuple[Device, ...]:
    """The devices that `--devices` names: "auto", "cpu", "cpu:2" (two), "cuda:0,cuda:1".

    "auto" means every GPU with the compute capability of the first one if a backend serves it,
    else the CPU.  available: the GPUs of this machine; None: asks NVIDIA's library.
    Raises UsageError, DeviceError.
    """
    if available is None:
        available = gpus.gpus()
    if text == "auto":
        alike = [x for x in available if x.capability == available[0].capability]
        use_gpus = alike and backends_on(alike[0])
        return tuple(Device(kind="cuda", index=x.index) for x in alike) if use_gpus else _cpus(1)
    if count := re.fullmatch(r"cpu(?::([1-9]\d*))?", text):
        return _cpus(int(count[1] or 1))
    names = [re.fullmatch(r"(?:cuda|gpu):(\d+)", x) for x in text.split(",")]
    wanted = tuple(Device(kind="cuda", index=int(x[1])) for x in names if x)
    if len(set(wanted)) < len(names):
        raise UsageError(
            f"--devices {text}: expected auto, cpu, cpu:2 for two workers on the CPU, or GPUs such "
            "as cuda:0,cuda:1, each once"
        )
    _check(text, wanted, available)
    return wanted


def _cpus(count: int) -> tuple[Device, ...]:
    return tuple(Device(kind="cpu", index=i) for i in range(count))


def _check(text: str, wanted: Sequence[Device], available: Sequence[Gpu]) -> None:
    """Raises DeviceError if GPUs are missing, of different kinds, or not served by a backend."""
    by_index = {gpu.index: gpu for gpu in available}
    missing = [str(x) for x in wanted if x.index not in by_index]
    if missing:
        names = ", ".join(f"cuda:{i} {gpu.name}" for i, gpu in by_index.items()) or "none"
        raise DeviceError(
            f"--devices {text}: no {', '.join(missing)} is found; the GPUs of this machine are: "
            f"{names}"
        )
    kinds = {by_index[x.index].capability for x in wanted}
    if len(kinds) > 1:
        raise DeviceError(
            f"--devices {text}: these GPUs are of different kinds ({', '.join(map(str, kinds))}) "
            "and would give results that differ in bits; name GPUs of one kind"
        )
    gpu = by_index[wanted[0].index]
    if not backends_on(gpu):
        raise DeviceError(f"--devices {text}: {no_backend(gpu)}")


def no_backend(gpu: Gpu) -> str:
    return (
        f"nothing that is installed computes on {gpu.name} ({gpu.capability}), expected "
        "tensorrt-rtx, tensorrt or onnxruntime-gpu; see README, or `mcdiff-batch doctor`"
    )
