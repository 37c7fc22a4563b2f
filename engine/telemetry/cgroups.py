"""What a container may use: the CPU quota and the memory limit of its control groups, v1 and v2.

https://docs.kernel.org/admin-guide/cgroup-v2.html and .../cgroup-v1/index.html.  The limits of
all groups around a process hold, so the lowest counts.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc/self")
UNIFIED = ""  # the name of the controllers of v2, which share one hierarchy


def cpu_quota(proc: Path = PROC) -> float | None:
    """Cores that the control groups of a process allow, such as 1.5; None without a limit."""
    quotas = [_quota_v2(x) for x in _groups(proc, UNIFIED)]
    quotas += [_quota_v1(x) for x in _groups(proc, "cpu")]
    return min((x for x in quotas if x is not None), default=None)


def memory_limit(proc: Path = PROC) -> int | None:
    """Bytes that the control groups of a process allow; None without a limit."""
    limits = [_number(x / "memory.max") for x in _groups(proc, UNIFIED)]
    limits += [_number(x / "memory.limit_in_bytes") for x in _groups(proc, "memory")]
    return min((x for x in limits if x is not None and x < 1 << 60), default=None)


def _quota_v2(group: Path) -> float | None:
    """cpu.max: "150000 100000", or "max 100000" without a limit."""
    quota, _, period = _read(group / "cpu.max").partition(" ")
    return _ratio(quota, period)


def _quota_v1(group: Path) -> float | None:
    """The quota is -1 without a limit."""
    return _ratio(_read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us"))


def _ratio(quota: str, period: str) -> float | None:
    with suppress(ValueError, ZeroDivisionError):
        cores = int(quota) / int(period)
        return cores if cores > 0 else None
    return None


def _number(path: Path) -> int | None:
    with suppress(ValueError):
        return int(_read(path))
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="surrogateescape").strip()
    except OSError:
        return ""


def _groups(proc: Path, controller: str) -> Iterator[Path]:
    """The folder of the process's group in a controller's hierarchy, and those around it."""
    for line in _read(proc / "cgroup").split("\n"):
        _, names, path = (*line.split(":", 2), "", "")[:3]
        if controller in names.split(","):
            for root, mount in _mounts(proc, controller):
                yield from _upwards(mount, path.removeprefix(root.rstrip("/")).strip("/"))


def _mounts(proc: Path, controller: str) -> Iterator[tuple[str, Path]]:
    """Where a hierarchy is mounted, and which of its groups is the root there."""
    for line in _read(proc / "mountinfo").split("\n"):
        fields, _, kind = line.partition(" - ")
        system, _, options = [*kind.split(), "", "", ""][:3]
        wanted = system == "cgroup2" if controller == UNIFIED else system == "cgroup"
        places = [_unescape(x) for x in fields.split(" ")[3:5]]
        if wanted and (controller == UNIFIED or controller in options.split(",")) and places[1:]:
            yield places[0], Path(places[1])


def _unescape(path: str) -> str:
    """A path of mountinfo, in which a space is written as \\040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    folder = mount / path
    yield folder
    while folder != mount and folder != folder.parent:
        folder = folder.parent
        yield folder
