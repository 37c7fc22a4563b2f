"""The devices a run computes on, as the user names them, and which kind of plan runs there."""

import re
from collections.abc import Sequence
from importlib.util import find_spec

from mcdiff_batch.engine.errors import DeviceError, UsageError
from mcdiff_batch.engine.model.plan import Device

from . import gpus
from .gpus import Gpu

CPU, TENSORRT, CUDA = "onnxruntime", "tensorrt", "onnxruntime-cuda"  # kinds of plan


def devices(text: str, found: Sequence[Gpu] | None = None) -> tuple[Device, ...]:
    """ "auto", "cpu", "cpu:2" (two devices), "cuda:0,cuda:1".  `found`: the GPUs; None: look.

    "auto" takes every GPU of the first one's kind that a plan runs on, else the CPU.  Raises
    UsageError, DeviceError.
    """
    there = gpus.gpus() if found is None else found
    if text == "auto":
        alike = [x for x in there if x.capability == there[0].capability]
        served = alike and plans_on(alike[0])
        return tuple(Device(kind="cuda", index=x.index) for x in alike) if served else _cpus(1)
    if count := re.fullmatch(r"cpu(?::([1-9]\d*))?", text):
        return _cpus(int(count[1] or 1))
    named = [re.fullmatch(r"(?:cuda|gpu):(\d+)", x) for x in text.split(",")]
    asked = tuple(Device(kind="cuda", index=int(x[1])) for x in named if x)
    if len(set(asked)) < len(named):
        raise UsageError(f"--devices {text}: expected auto, cpu, cpu:2, or such as cuda:0,cuda:1")
    _check(text, asked, there)
    return asked


def _cpus(count: int) -> tuple[Device, ...]:
    return tuple(Device(kind="cpu", index=i) for i in range(count))


def _check(text: str, asked: Sequence[Device], there: Sequence[Gpu]) -> None:
    """Raises DeviceError for a GPU that is not there, is of another kind, or has no plan."""
    known = {gpu.index: gpu for gpu in there}
    missing = [str(x) for x in asked if x.index not in known]
    if missing:
        names = ", ".join(f"cuda:{i} {gpu.name}" for i, gpu in known.items()) or "none"
        raise DeviceError(f"--devices {text}: no {', '.join(missing)} is found, there is: {names}")
    kinds = {known[x.index].capability for x in asked}
    if len(kinds) > 1:
        raise DeviceError(
            f"--devices {text}: these are of different kinds ({', '.join(map(str, kinds))}), whose "
            "results differ in bits; name GPUs of one kind"
        )
    if not plans_on(known[asked[0].index]):
        raise DeviceError(f"--devices {text}: {no_plan(known[asked[0].index])}")


def plans_on(gpu: Gpu) -> tuple[str, ...]:
    """Kinds of plan that are installed and run on a GPU, the best first."""
    serving = {TENSORRT: _tensorrt(gpu), CUDA: _cuda_provider()}
    return tuple(kind for kind, here in serving.items() if here)


def plan_of(device: Device) -> str:
    """Kind of plan that a run takes there, once `devices` has found one."""
    return CPU if device.kind == "cpu" else plans_on(gpus.gpus()[device.index])[0]


def no_plan(gpu: Gpu) -> str:
    return (
        f"nothing that is installed computes on {gpu.name} ({gpu.capability}), expected "
        "tensorrt-rtx, tensorrt or onnxruntime-gpu; see README, or `mcdiff-batch doctor`"
    )


def _tensorrt(gpu: Gpu) -> bool:
    from . import trt

    try:
        found = trt.tensorrt()
    except DeviceError:
        return False
    return find_spec("cuda") is not None and trt.serves(found, str(gpu.capability))


def _cuda_provider() -> bool:
    import onnxruntime

    from .ort import CUDA_PROVIDER

    return CUDA_PROVIDER in onnxruntime.get_available_providers()
