"""What a figure was measured on: hardware and versions, for every results file."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("mcdiff-batch", "numpy", "onnxruntime", "scipy", "zarr")


def machine(also: tuple[str, ...] = ()) -> dict[str, object]:
    """CPU, cores, memory in GiB, and the versions of what computes, `also` included."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(pages / 2**30, 1),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": {name: package_version(name) for name in (*PACKAGES, *also)},
    }


def package_version(name: str) -> str:
    """onnxruntime-gpu installs what onnxruntime does, in its place."""
    try:
        return version(name)
    except PackageNotFoundError:
        return version(f"{name}-gpu")


def _cpu() -> str:
    """The model's name, or family and model where the machine hides it."""
    facts = {}
    for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        facts[key.strip()] = value.strip()
    name = facts.get("model name", platform.processor()).replace("(R)", "")
    return f"{name} (family {facts.get('cpu family', '?')}, model {facts.get('model', '?')})"


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))
