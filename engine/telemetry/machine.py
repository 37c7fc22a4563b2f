"""Describes the machine and the installed versions, for every file of results."""

import math
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .cgroups import cpu_quota, memory_limit

PACKAGES = ("mcdiff-batch", "numpy", "onnxruntime", "scipy", "zarr")


def machine(also: tuple[str, ...] = ()) -> dict[str, object]:
    """CPU, cores, memory in GiB, and the versions of the packages that compute and of `also`.

    Memory is what a container may use, if this is one; `usable_cores` likewise.
    """
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "usable_cores": cores(),
        "memory_gib": round(min(size, memory_limit() or size) / 2**30, 1),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": {name: package_version(name) for name in (*PACKAGES, *also)},
    }


def package_version(name: str) -> str:
    """The version of `name`, or of `name`-gpu, which installs the same modules in its place."""
    try:
        return version(name)
    except PackageNotFoundError:
        return version(f"{name}-gpu")


def _cpu() -> str:
    """The CPU's name, family and model, as far as the machine shows them."""
    facts = {}
    for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        facts[key.strip()] = value.strip()
    name = facts.get("model name", platform.processor()).replace("(R)", "")
    return f"{name} (family {facts.get('cpu family', '?')}, model {facts.get('model', '?')})"


def cores() -> int:
    """How many cores this process may use: its affinity, and the CPU quota of its container."""
    allowed = len(os.sched_getaffinity(0))
    return max(1, min(allowed, math.ceil(cpu_quota() or allowed)))
