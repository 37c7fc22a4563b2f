"""Where no process or thread may be started, the message says so, and which limit to raise."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest

from mcdiff_batch.engine.errors import Exit, explain_any
from mcdiff_batch.engine.model.framing import LoadError
from mcdiff_batch.engine.run import process
from mcdiff_batch.engine.run.heartbeat import Pulse
from mcdiff_batch.engine.run.protocol import Breakdown
from mcdiff_batch.engine.run.worker import breakdown
from tests.support.crafting import CLI
from tests.support.running import archive, bundle

ADVICE = "raise their limit (ulimit -u, or that of the container)"
USER = 64123  # root has no such limit; this user may read all that root may
CAPABLE = "+dac_override"
AS_USER = f"setpriv --reuid {USER} --regid {USER} --clear-groups".split()
AS_USER += ["--inh-caps", CAPABLE, "--ambient-caps", CAPABLE]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may write to; that of pytest is for its owner only."""
    with TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.skipif(not shutil.which("setpriv"), reason="util-linux is not installed")
def test_a_run_whose_threads_cannot_start_says_which_limit_to_raise(
    open_folder: Path,
) -> None:
    source, model = archive(open_folder / "night.zarr", 2), bundle(open_folder / "model")
    program = [*CLI, "run", str(source), "--bundle", str(model)]
    words = [*AS_USER, "prlimit", "--nproc=4:4", *program, "--devices", "cpu"]
    env = os.environ | {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, env=env)
    if done.returncode == 127 or "setpriv:" in done.stderr:
        pytest.skip("this machine does not let root become another user")
    assert done.returncode in (Exit.UNEXPECTED, Exit.NO_DEVICE, Exit.FAILED_CASES)
    assert ADVICE in done.stderr + read_incidents(open_folder / "night.enhanced")


def read_incidents(output: Path) -> str:
    file = output / "incidents.jsonl"
    return file.read_text() if file.exists() else ""


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("can't start new thread"),
        BlockingIOError(11, "Resource temporarily unavailable"),  # of fork
        RuntimeError("pthread_create failed, error code: 11"),
    ],
)
def test_every_way_to_say_so_is_known(error: Exception) -> None:
    assert ADVICE in str(explain_any(error))


def test_a_worker_that_cannot_start_a_thread_says_so() -> None:
    recipe: Any = SimpleNamespace(archive="a.zarr", output="a.enhanced")
    error = LoadError(3)
    error.__cause__ = RuntimeError("can't start new thread")
    assert ADVICE in breakdown(error, recipe).detail


@pytest.mark.parametrize(
    "error",
    [
        BlockingIOError(11, "write could not complete without blocking", 5),  # a pipe is full
        BlockingIOError(11, "Resource temporarily unavailable", "a.zarr"),
        OSError(5, "Input/output error"),
    ],
)
def test_other_errors_are_something_else(error: OSError) -> None:
    assert ADVICE not in str(explain_any(error))


class Pipe:
    """That of a worker that ended without a word."""

    closed = False

    def poll(self) -> bool:
        return True

    def recv(self) -> object:
        raise EOFError

    def close(self) -> None:
        self.closed = True


def last_words(code: int | None) -> list[Any]:
    ended: Any = SimpleNamespace(exitcode=code)
    pulse: Any = SimpleNamespace(read=Pulse.read)
    pipe: Any = Pipe()
    return process.ProcessWorker(ended, pipe, pulse).messages()


@pytest.mark.parametrize("code", [255, 1, -6])
def test_a_worker_that_ends_without_a_word_near_the_limit_is_explained(
    monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(process, "room", lambda: 3)
    (found,) = last_words(code)
    assert isinstance(found, Breakdown)
    assert f"exit code {code}" in found.detail
    assert ADVICE in found.detail


@pytest.mark.parametrize(("code", "room"), [(255, 1000), (0, 3), (-9, 3), (None, 3)])
def test_other_ends_are_not_blamed_on_the_limit(
    monkeypatch: pytest.MonkeyPatch, code: int | None, room: int
) -> None:
    monkeypatch.setattr(process, "room", lambda: room)
    assert last_words(code) == []


def test_the_room_is_that_of_the_tightest_group_around_the_process(tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    (proc / "self").mkdir(parents=True)
    (proc / "self/cgroup").write_text("0::/kubepods/pod1\n")
    (groups / "kubepods/pod1").mkdir(parents=True)
    for folder, most, count in (("kubepods/pod1", "max", 5), ("kubepods", "100", 90)):
        (groups / folder / "pids.max").write_text(f"{most}\n")
        (groups / folder / "pids.current").write_text(f"{count}\n")
    assert process.room(proc, groups) == 10
