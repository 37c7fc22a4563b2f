"""A run by several processes, parts or hosts: whatever is killed, the bytes are those of a local
run that nothing disturbed (P1)."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from mcdiff_batch.engine.errors import Exit
from mcdiff_batch.engine.output import ledger
from tests.support.many import LIMIT, Night, workers_of, workers_on
from tests.support.processes import still_running
from tests.support.running import archive, clean, committed

CASES = 16  # in units of 2
Commands = list[subprocess.Popen[str]]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive(tmp_path_factory.mktemp("many") / "night.zarr", CASES)


@pytest.fixture(scope="module")
def undisturbed(source: Path) -> dict[str, str]:
    return clean(source, source.parent / "clean", unit_size=2)


@pytest.fixture(params=["processes", "parts", pytest.param("ray", marks=pytest.mark.slow)])
def night(request: pytest.FixtureRequest, source: Path, tmp_path: Path) -> Night:
    cluster = None
    if request.param == "ray":
        cluster = request.getfixturevalue("cluster")
        cluster.keep(2)
    return Night(source=source, output=tmp_path / "out", way=request.param, cluster=cluster)


def find_workers(night: Night, commands: Commands) -> list[psutil.Process]:
    if night.cluster is None:
        return workers_of(commands)
    return [worker for _, worker in workers_on()]


def test_a_worker_or_actor_killed_in_the_middle_of_a_unit_changes_nothing(
    night: Night, undisturbed: dict[str, str]
) -> None:
    with night.begun() as commands:
        victims = [x for x, _ in workers_on()] if night.cluster else workers_of(commands)
        victims[0].kill()
        codes = [x.wait(LIMIT) for x in commands]
    assert codes == [Exit.DONE] * len(codes)
    incident = json.loads((night.journals[0] / ledger.INCIDENTS).read_text())
    assert incident["kind"] == "killed"
    if night.way == "parts":
        assert night.finish(again=False) == [Exit.DONE]
    assert committed(night.output) == undisturbed


def test_the_command_killed_takes_its_workers_along_and_can_be_given_again(
    night: Night, undisturbed: dict[str, str]
) -> None:
    """Of parts all are killed at once."""
    with night.begun() as commands:
        family = find_workers(night, commands)
        for command in commands:
            command.kill()
        assert family
        assert not still_running(family)
    assert not (night.output / "manifest.json").exists()
    assert night.finish()[-1] == Exit.DONE
    assert committed(night.output) == undisturbed


def test_a_host_or_part_of_other_bits_adds_nothing(
    night: Night, undisturbed: dict[str, str]
) -> None:
    """The run goes on with the others; a part of other bits ends at once."""
    other = {"processes": "cpu:1", "parts": "cpu:0", "ray": "host2/cpu:0"}[night.way]
    quick = replace(night, delay=0)
    first, *rest = quick.commands
    refused = {"other": [other], "after": str(night.output / ledger.INCIDENTS)}
    with quick.command(first, **({} if rest else refused)) as command:
        said = command.communicate(timeout=LIMIT)[1]
        assert command.returncode == Exit.DONE
    for part in rest:
        with quick.command(part, other=[other]) as command:
            said = command.communicate(timeout=LIMIT)[1]
            assert command.returncode == Exit.NO_DEVICE
    assert "this host computes other bits than the one that began the run" in said
    if rest:
        assert len(ledger.list_units(night.output)) == CASES // 4
        assert quick.finish()[-1] == Exit.DONE
    assert committed(night.output) == undisturbed
