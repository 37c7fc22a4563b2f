"""What a container may use: quotas and limits of control groups, next to affinity."""

import json
import os
from pathlib import Path

import pytest

from mcdiff_batch.engine.telemetry import machine
from mcdiff_batch.engine.telemetry.cgroups import cpu_quota, memory_limit
from tests.support.crafting import command
from tests.support.running import bundle


def container(root: Path, groups: str, mounts: dict[str, str], files: dict[str, str]) -> Path:
    """A /proc/self and the file systems of control groups.  mounts: options by "root mount"."""
    proc = root / "proc"
    proc.mkdir()
    (proc / "cgroup").write_text(groups)
    lines = []
    for number, (place, options) in enumerate(mounts.items()):
        base, mount = place.split()
        kind = "cgroup2" if options == "v2" else "cgroup"
        lines.append(f"{number} 1 0:{number} {base} {root}{mount} rw - {kind} {kind} rw,{options}")
    (proc / "mountinfo").write_text("\n".join(lines))
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    return proc


V2 = {"/ /cg": "v2"}
V1 = {"/ /cpu": "cpu,cpuacct", "/ /memory": "memory"}
CASES = {
    "none": ("0::/\n", V2, {}, None, None),
    "v2, no limit": (
        "0::/a\n", V2, {"cg/a/cpu.max": "max 100000", "cg/a/memory.max": "max"}, None, None,
    ),
    "v2": ("0::/a/b\n", V2, {"cg/a/b/cpu.max": "150000 100000"}, 1.5, None),
    "v2, the group around it is narrower": (
        "0::/a/b\n",
        V2,
        {"cg/a/b/cpu.max": "400000 100000", "cg/a/cpu.max": "50000 100000",
         "cg/a/memory.max": "1073741824", "cg/a/b/memory.max": "max"},
        0.5,
        1 << 30,
    ),
    "v2, its own root in a container": ("0::/\n", V2, {"cg/cpu.max": "200000 100000"}, 2.0, None),
    "v1": (
        "3:cpu,cpuacct:/docker/x\n2:memory:/docker/x\n",
        V1,
        {"cpu/docker/x/cpu.cfs_quota_us": "300000", "cpu/docker/x/cpu.cfs_period_us": "100000",
         "memory/docker/x/memory.limit_in_bytes": "2147483648"},
        3.0,
        2 << 30,
    ),
    "v1, seen from inside": (
        "3:cpu,cpuacct:/docker/x\n",
        {"/docker/x /cpu": "cpu,cpuacct"},
        {"cpu/cpu.cfs_quota_us": "250000", "cpu/cpu.cfs_period_us": "100000"},
        2.5,
        None,
    ),
    "v1, no limit": (
        "3:cpu:/\n4:memory:/\n",
        V1 | {"/ /cpu": "cpu"},
        {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000",
         "memory/memory.limit_in_bytes": "9223372036854771712"},
        None,
        None,
    ),
    "a space in the names": (
        "0::/my pod/b\n",
        {r"/my\040pod /c\040g\011\134x": "v2"},
        {"c g\t\\x/b/cpu.max": "150000 100000", "c g\t\\x/memory.max": "4096"},
        1.5,
        4096,
    ),
    "damaged": ("nonsense\n0::/a\n", V2, {"cg/a/cpu.max": "a lot"}, None, None),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_lowest_limit_of_all_groups_around_a_process_counts(tmp_path: Path, name: str) -> None:
    groups, mounts, files, cores, memory = CASES[name]
    proc = container(tmp_path, groups, mounts, files)
    assert cpu_quota(proc) == cores
    assert memory_limit(proc) == memory


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    assert memory_limit(tmp_path) is None


@pytest.mark.parametrize(("quota", "threads"), [(None, 8), (0.3, 1), (1.5, 2), (64.0, 8)])
def test_a_plan_has_a_thread_for_each_core_that_the_quota_allows(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(machine, "cpu_quota", lambda: quota)
    assert machine.cores() == threads


def test_doctor_says_how_many_cores_a_run_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(machine, "cpu_quota", lambda: 1.0)
    monkeypatch.setattr(machine, "memory_limit", lambda: 3 << 30)
    assert command(monkeypatch, "doctor", "--bundle", bundle(tmp_path / "model"), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["machine"]["usable_cores"], found["machine"]["memory_gib"]) == (1, 3.0)
    assert "on 1 core of 4, by affinity or CPU quota" in found["because"]
