"""`run --on ray` ends with one line of its own when the head of the cluster is lost."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from mcdiff_batch.engine.cluster.nodes import Nodes
from mcdiff_batch.engine.errors import Exit
from tests.support import many
from tests.support.clusters import RayCluster
from tests.support.many import LIMIT, Night, workers_on
from tests.support.processes import wait_for
from tests.support.running import archive, clean, committed, inline, job

CASES = 6
IMPATIENT = """
from mcdiff_batch.engine import start
from mcdiff_batch.engine.cluster import nodes, session
from tests.support.many import main
nodes.SURVEY_PERIOD, nodes.HEAD_PATIENCE, session.LEAVE_TIME = 0.5, 5, 1.0
if __name__ == "__main__":
    start.run(main)
"""


@contextmanager
def hung(cluster: RayCluster) -> Iterator[None]:
    """The head does not answer until the end of the block."""
    head = psutil.Process(cluster.cluster.head_node.all_processes["gcs_server"][0].process.pid)
    head.suspend()
    try:
        yield
    finally:
        head.resume()


@pytest.mark.slow
def test_a_head_that_does_not_answer_ends_the_command_with_one_line_and_loses_nothing(
    tmp_path: Path, cluster: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray itself would end it after a minute, with a line of its own, or hang."""
    cluster.keep(1)
    source = archive(tmp_path / "night.zarr", CASES)
    night = Night(source=source, output=tmp_path / "out", way="ray", cluster=cluster, delay=3.0)
    monkeypatch.setattr(many, "SCRIPT", IMPATIENT)
    with night.begun() as (command,), hung(cluster):
        said = command.communicate(timeout=LIMIT)[1]
    assert command.returncode == Exit.NO_DEVICE, said
    (line,) = said.splitlines()
    assert "the head of the cluster does not answer any more" in line
    assert "run the same command again" in line
    wait_for(lambda: not workers_on())
    inline(job(source, night.output, unit_size=2, canary=many.CANARY))
    assert committed(night.output) == clean(source, tmp_path / "clean", unit_size=2)


class Ray:
    """Answers, answers late, or does not answer."""

    def __init__(self) -> None:
        self.answers: list[Any] = []

    def nodes(self) -> list[dict[str, Any]]:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        found: list[dict[str, Any]] = answer
        return found


def test_a_head_is_lost_only_after_many_questions_in_a_row_without_an_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mcdiff_batch.engine.cluster import nodes

    ray, silence = Ray(), ConnectionError()
    monkeypatch.setattr(nodes, "load_ray", lambda: ray)
    found = Nodes("cpu", per_host=1, per_gpu=1)
    ray.answers = [silence] * (nodes.HEAD_PATIENCE - 1) + [[]] + [silence] * nodes.HEAD_PATIENCE
    seen = []
    while ray.answers:
        found.survey(20)
        seen.append(found.head_lost)
    assert seen == [False] * (len(seen) - 1) + [True]


def test_the_end_of_the_program_does_not_wait_for_what_hangs() -> None:
    """A library in C++ would crash or wait when Python takes its modules down."""
    code = """
import sys, time, threading
from mcdiff_batch.engine import start
def program():
    stuck = threading.Thread(target=time.sleep, args=(600,))
    stuck.start()
    start.leave_hanging(stuck)
    print("said")
    sys.exit(7)
start.run(program)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=os.environ
    )
    assert (done.returncode, done.stdout) == (7, "said\n")
