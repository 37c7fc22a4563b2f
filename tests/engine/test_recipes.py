"""Recipes for schedulers: valid, and their exit codes become what they should."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from mcdiff_batch.engine.errors import Exit

RECIPES = Path(__file__).parents[2] / "engine/run/recipes"
ANALYZE = shutil.which("systemd-analyze")
LIMIT = 120.0  # s


def test_the_manifest_is_what_kubernetes_takes() -> None:
    validate = pytest.importorskip("kubernetes_validate")
    jobs = list(yaml.safe_load_all((RECIPES / "kubernetes.yaml").read_text()))
    assert len(jobs) == 2
    for job in jobs:
        validate.validate(job, validate.latest_version(), strict=True)


def test_the_manifest_gives_each_pod_the_number_of_parts() -> None:
    parts, _ = yaml.safe_load_all((RECIPES / "kubernetes.yaml").read_text())
    (container,) = parts["spec"]["template"]["spec"]["containers"]
    assert container["env"] == [
        {"name": "JOB_COMPLETIONS", "value": str(parts["spec"]["completions"])}
    ]
    assert container["args"][-2:] == ["--part", "auto"]
    rules = parts["spec"]["podFailurePolicy"]["rules"]
    (fails,) = (x["onExitCodes"]["values"] for x in rules if x["action"] == "FailIndex")
    assert Exit.DRAINED not in fails
    assert {Exit.USAGE, Exit.INPUT_INVALID, Exit.FINGERPRINT_DIFFERS} < set(fails)


@pytest.mark.skipif(ANALYZE is None, reason="systemd is not installed")
@pytest.mark.parametrize("unit", ["mcdiff.service", "mcdiff.timer"])
def test_systemd_has_nothing_to_say_about_the_units(unit: str) -> None:
    assert ANALYZE is not None
    words = [ANALYZE, "verify", "--man=no", RECIPES / unit]
    found = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT)
    assert (found.returncode, found.stderr) == (0, "")


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def task(tmp_path: Path) -> dict[str, str]:
    """The environment of a task of an array, with a scheduler that notes what it is asked."""
    program(tmp_path, "scontrol", f'echo "$@" >> {tmp_path}/asked')
    paths = f"{tmp_path}:{os.environ['PATH']}"
    return os.environ | {"PATH": paths, "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}


@pytest.mark.parametrize("code", [Exit.DONE, Exit.FAILED_CASES, Exit.USAGE, Exit.DRAINED])
def test_a_part_that_was_drained_is_requeued_and_no_other(
    tmp_path: Path, task: dict[str, str], code: Exit
) -> None:
    program(tmp_path, "mcdiff-batch", f'echo "$@" > {tmp_path}/words; exit {int(code)}')
    words = ["bash", RECIPES / "slurm.sbatch", "a b.zarr", "--seed", "1"]
    assert subprocess.run(words, env=task, timeout=LIMIT).returncode == code
    assert (tmp_path / "words").read_text() == "run a b.zarr --seed 1 --part auto\n"
    asked = (tmp_path / "asked").read_text() if (tmp_path / "asked").exists() else ""
    assert asked == ("requeue 7_3\n" if code == Exit.DRAINED else "")


def test_the_signal_before_the_time_limit_reaches_the_run(
    tmp_path: Path, task: dict[str, str]
) -> None:
    """The shell gets it, waits until the run has drained, and passes its exit code on."""
    drain = f"trap 'sleep 0.5; echo drained > {tmp_path}/end; exit 75' TERM"
    program(tmp_path, "mcdiff-batch", f"{drain}; touch {tmp_path}/begun; sleep 120 & wait")
    command = subprocess.Popen(["bash", RECIPES / "slurm.sbatch", "a.zarr"], env=task)
    try:
        end = time.monotonic() + LIMIT
        while not (tmp_path / "begun").exists():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.02)
        command.send_signal(signal.SIGTERM)
        assert command.wait(LIMIT) == Exit.DRAINED
        assert (tmp_path / "end").exists()
        assert (tmp_path / "asked").read_text() == "requeue 7_3\n"
    finally:
        command.kill()
