"""The devices that a run computes on, as the user names them, and the backend for each."""

import re
from collections.abc import Iterable, Sequence

from mcdiff_batch.engine.errors import DeviceError, UsageError
from mcdiff_batch.engine.model.plan import Device
from mcdiff_batch.engine.text import clean

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
MOST_WORKERS = 1024  # on the CPU
MOST_ON_A_GPU = 8  # workers; each has its own copy of the plan


def backends_on(gpu: Gpu | None) -> tuple[Backend, ...]:
    """Backends that compute on a GPU, or on the CPU if that is None; the best first."""
    return tuple(x for x in BACKENDS if x.serves(gpu))


def backend_for(device: Device) -> Backend:
    """The backend that a run uses on one of the devices that `devices` returns."""
    gpu = None if device.kind == "cpu" else gpus.gpus()[device.index]
    return backends_on(gpu)[0]


def devices(text: str, available: Sequence[Gpu] | None = None) -> tuple[Device, ...]:
    """The devices that `--devices` names: "auto", "cpu", "cpu:2" (two), "gpu", "cuda:0,cuda:1".

    "gpu" or "cuda" means every GPU with the compute capability of the first one; so does "auto" if
    a backend serves it, else the CPU.  A GPU that is named twice gets two workers.
    available: the GPUs of this machine; None: asks NVIDIA's library.
    Raises UsageError, DeviceError.
    """
    if available is None:
        available = gpus.gpus()
    names = [name.strip() for name in text.lower().split(",")]
    alike = [x for x in available if x.capability == available[0].capability]
    if names == ["auto"]:
        return _cuda(alike) if alike and backends_on(alike[0]) else _cpus(1)
    if len(names) == 1 and re.fullmatch(r"cpu(:[0-9]+)?", names[0]):
        return _cpus(_count(text, names[0]))
    wanted = _cuda(alike) if names in (["gpu"], ["cuda"]) else _parse(text, names)
    _check(text, wanted, available)
    return wanted


def _cuda(chosen: Iterable[Gpu]) -> tuple[Device, ...]:
    return tuple(Device(kind="cuda", index=x.index) for x in chosen)


def _cpus(count: int) -> tuple[Device, ...]:
    return tuple(Device(kind="cpu", index=i) for i in range(count))


def _count(text: str, name: str) -> int:
    """How many workers "cpu" or "cpu:2" asks for."""
    count = int(name.partition(":")[2][:9] or 1)
    if not 1 <= count <= MOST_WORKERS:
        raise UsageError(
            f"--devices {clean(text)}: the number behind cpu says how many workers share the CPU, "
            f"1 to {MOST_WORKERS}; cpu alone is one"
        )
    return count


def _parse(text: str, names: Sequence[str]) -> tuple[Device, ...]:
    """The workers on the GPUs of a list such as "cuda:0,cuda:1"."""
    head = f"--devices {clean(text)}: "
    indices = []
    for name in names:
        match = re.fullmatch(r"(?:cuda|gpu):([0-9]{1,9})", name)
        if match is None:
            raise UsageError(f"{head}{_describe_mistake(name, names)}")
        indices.append(int(match[1]))
    most = max(indices, key=indices.count)
    if indices.count(most) > MOST_ON_A_GPU:
        raise UsageError(
            f"{head}cuda:{most} is named {indices.count(most)} times; a GPU gets as many workers "
            f"as it has mentions, at most {MOST_ON_A_GPU}"
        )
    earlier = lambda position: indices[:position].count(indices[position])
    return tuple(
        Device(kind="cuda", index=x, worker=earlier(position)) for position, x in enumerate(indices)
    )


def _describe_mistake(name: str, names: Sequence[str]) -> str:
    if all(x.isdecimal() for x in names):
        return f"did you mean {clean(','.join(f'cuda:{x}' for x in names))}?"
    if re.fullmatch(r"cpu(:[0-9]+)?", name):
        return "the CPU cannot share a run with another device; write cpu:2 for two workers on it"
    if name in ("auto", "gpu", "cuda"):
        return f"{name} stands alone; name each GPU, such as cuda:0,cuda:1"
    return (
        f"{clean(repr(name))} is no device; expected auto, cpu, cpu:2 for two workers on the CPU, "
        "gpu, or GPUs such as cuda:0,cuda:1"
    )


def _check(text: str, wanted: Sequence[Device], available: Sequence[Gpu]) -> None:
    """Raises DeviceError if GPUs are missing, of different kinds, or not served by a backend."""
    head = f"--devices {clean(text)}: "
    by_index = {gpu.index: gpu for gpu in available}
    if not wanted:
        raise DeviceError(f"{head}no GPU is found; see `mcdiff-batch doctor`")
    missing = dict.fromkeys(f"cuda:{x.index}" for x in wanted if x.index not in by_index)
    if missing:
        names = ", ".join(f"cuda:{i} {gpu.name}" for i, gpu in by_index.items()) or "none"
        raise DeviceError(
            f"{head}no {', '.join(missing)} is found; the GPUs of this machine are: {names}"
        )
    kinds = {by_index[x.index].capability for x in wanted}
    if len(kinds) > 1:
        raise DeviceError(
            f"{head}these GPUs are of different kinds ({', '.join(map(str, kinds))}) "
            "and would give results that differ in bits; name GPUs of one kind"
        )
    gpu = by_index[wanted[0].index]
    if not backends_on(gpu):
        raise DeviceError(f"{head}{no_backend(gpu)}")


def no_backend(gpu: Gpu) -> str:
    return (
        f"nothing that is installed computes on {gpu.name} ({gpu.capability}), expected "
        "tensorrt-rtx, tensorrt or onnxruntime-gpu; see README, or `mcdiff-batch doctor`"
    )
