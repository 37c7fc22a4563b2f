"""The devices a run computes on, as the user names them, and the kinds of plan there are."""

import os
import re

from .contract import Bundle
from .errors import DeviceError, UsageError
from .plan import Device, PlanMaker

PLANS = {"cpu": "onnxruntime"}  # device kind -> plan kind; "auto" takes the first that is there


def devices(text: str) -> tuple[Device, ...]:
    """ "auto", "cpu", "cpu:2" (two devices), "cuda:0,cuda:1".  Raises UsageError, DeviceError."""
    if text == "auto":
        return devices("cpu")
    count = re.fullmatch(r"cpu(?::([1-9]\d*))?", text)
    if count:
        return tuple(Device(kind="cpu", index=i) for i in range(int(count[1] or 1)))
    named = [re.fullmatch(r"([a-z]+):(\d+)", x) for x in text.split(",") if "cpu" not in x]
    found = tuple(Device(kind=x[1], index=int(x[2])) for x in named if x)
    kinds = {device.kind for device in found}
    if len(set(found)) < len(text.split(",")) or len(kinds) > 1:
        raise UsageError(f"--devices {text}: expected auto, cpu, cpu:2, or such as cuda:0,cuda:1")
    if not kinds <= PLANS.keys():
        known = ", ".join(PLANS)
        raise DeviceError(f"--devices {text}: no plan runs there; expected one of {known}, or auto")
    return found


def maker(bundle: Bundle, chosen: tuple[Device, ...]) -> PlanMaker:
    """How each worker makes its plan; the cores are shared out evenly."""
    from . import ort

    return ort.maker(bundle, threads=max(1, cores() // len(chosen)))


def cores() -> int:
    return len(os.sched_getaffinity(0))
