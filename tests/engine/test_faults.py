"""Kills, hangs, full disks, signals: every end is documented, and the next run makes it whole."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from mcdiff_batch.engine.errors import (
    DeviceError,
    Exit,
    McdiffError,
    OutputLockedError,
    SpaceError,
)
from mcdiff_batch.engine.output import ledger, locks, runs, verify
from mcdiff_batch.engine.output.manifest import read_entries
from mcdiff_batch.engine.run.enhance import Summary, enhance
from mcdiff_batch.engine.run.pool import Limits
from tests.support import fake
from tests.support.fake import FakeMaker, InlineWorker, InlineWorkers
from tests.support.processes import (
    PATIENCE,
    find_workers,
    kill_alone,
    still_running,
    wait_for,
)
from tests.support.running import (
    PowerCut,
    archive,
    committed,
    cpus,
    cut_at,
    fault,
    image,
    inline,
    job,
)

CASES = 6  # in units of 2
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive(tmp_path_factory.mktemp("faults") / "night.zarr", CASES)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """For many runs in this process: no wait for the disk, which a cut here cannot lose."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="module")
def clean(source: Path) -> dict[str, str]:
    """What an undisturbed run comes to."""
    inline(job(source, source.parent / "clean", unit_size=2))
    return committed(source.parent / "clean")


def run(source: Path, output: Path, *faults: fake.Fault, **options: Any) -> Summary:
    """A run with processes."""
    delay = options.pop("delay", 0.0)
    asked = job(source, output, **({"unit_size": 2} | options))
    return enhance(asked, FakeMaker(faults=faults, delay=delay))


def incidents(output: Path) -> list[str]:
    path = output / ledger.INCIDENTS
    return [json.loads(x)["kind"] for x in path.read_text().splitlines()] if path.exists() else []


# --- workers


def test_p1_a_worker_that_is_lost_now_and_then_changes_nothing(
    source: Path, tmp_path: Path, clean: dict[str, str]
) -> None:
    faults = [
        fault(kind, source, case, times=1, counter=tmp_path / kind)
        for case, kind in enumerate(["kill", "exit", "error", "memory"])
    ]
    assert run(source, tmp_path / "out", *faults).exit_code == Exit.DONE
    assert committed(tmp_path / "out") == clean
    assert incidents(tmp_path / "out") == ["killed", "killed", "fault", "memory"]


class Mortal(InlineWorkers):
    """The first worker that has a task is lost."""

    lost = False

    def wait(self, workers: Sequence[InlineWorker], seconds: float) -> None:
        for worker in workers if not self.lost else ():
            if worker.tasks:
                self.lost = True
                worker.kill()
        super().wait(workers, seconds)


def test_any_kind_of_worker_may_be_lost(
    source: Path, tmp_path: Path, clean: dict[str, str]
) -> None:
    enhance(job(source, tmp_path / "out", unit_size=2), FakeMaker(), workers=Mortal)
    assert incidents(tmp_path / "out") == ["killed"]
    assert committed(tmp_path / "out") == clean


def test_a_worker_that_hangs_is_replaced(
    source: Path, tmp_path: Path, clean: dict[str, str]
) -> None:
    hang = fault("hang", source, 3, times=1, counter=tmp_path / "count")
    found = run(source, tmp_path / "out", hang, limits=Limits(patience=4))
    assert found.exit_code == Exit.DONE
    assert incidents(tmp_path / "out")[0] == "hang"
    assert committed(tmp_path / "out") == clean


def test_a_poison_case_is_left_open_and_the_rest_is_finished(
    source: Path, tmp_path: Path, clean: dict[str, str]
) -> None:
    out = tmp_path / "out"
    found = run(source, out, fault("kill", source, 3))
    assert found.exit_code == Exit.FAILED_CASES
    assert [entry.status for entry in read_entries(out)] == [*["done"] * 3, "open", *["done"] * 2]
    assert all(image(out, x) == image(source.parent / "clean", x) for x in range(CASES) if x != 3)
    assert inline(job(source, out, unit_size=2)).exit_code == Exit.DONE
    assert committed(out) == clean


@pytest.mark.parametrize("kind", ["nan", "flat"])
def test_a_models_bad_result_is_an_incident_and_never_pixels(
    source: Path, tmp_path: Path, clean: dict[str, str], kind: str
) -> None:
    out = tmp_path / "out"
    found = inline(job(source, out, unit_size=2), faults=(fault(kind, source, 2),))
    assert found.exit_code == Exit.FAILED_CASES
    assert found.counts["open"] == 1
    assert incidents(out) == ["model"]
    assert not any(image(out, 2))
    inline(job(source, out, unit_size=2))
    assert committed(out) == clean


def test_out_of_memory_twice_names_the_batch_size(source: Path, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="--batch-size 2"):
        run(source, tmp_path / "out", fault("memory"))


def test_a_plan_that_cannot_be_made_is_no_usable_device(source: Path, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="injected load"):
        run(source, tmp_path / "out", fault("load"))


def test_one_device_goes_on_when_the_other_is_lost(
    source: Path, tmp_path: Path, clean: dict[str, str]
) -> None:
    start = fault("load", times=2, counter=tmp_path / "count")
    found = run(source, tmp_path / "out", start, devices=cpus(2))
    assert found.exit_code == Exit.DONE
    assert committed(tmp_path / "out") == clean


def test_p1_workers_killed_at_random_moments(
    source: Path, tmp_path: Path, clean: dict[str, str]
) -> None:
    done = threading.Event()

    def hunt() -> None:
        for delay in (0.9, 1.3, 0.7):
            if done.wait(delay):
                return
            for child in find_workers(os.getpid())[:1]:
                with suppress(psutil.NoSuchProcess):
                    child.kill()

    hunter = threading.Thread(target=hunt)
    hunter.start()
    run(source, tmp_path / "out", delay=0.1, devices=cpus(2))
    done.set()
    hunter.join()
    assert inline(job(source, tmp_path / "out", unit_size=2)).exit_code == Exit.DONE
    assert committed(tmp_path / "out") == clean


# --- disks


def test_a_full_disk_ends_the_run_and_room_lets_it_go_on(
    source: Path, tmp_path: Path, clean: dict[str, str]
) -> None:
    full = fault("full", source, 4, times=1, counter=tmp_path / "count")
    with pytest.raises(SpaceError, match="committed units are safe"):
        run(source, tmp_path / "out", full)
    assert not (tmp_path / "out/manifest.json").exists()
    inline(job(source, tmp_path / "out", unit_size=2))
    assert committed(tmp_path / "out") == clean


@pytest.mark.usefixtures("quick")
def test_p1_cut_at_every_fsync_and_rename_of_a_run(
    source: Path, tmp_path: Path, clean: dict[str, str]
) -> None:
    """P1, P3, P5: after each cut what is recorded is whole, and every twentieth is made complete.

    Columns are many and alike: once all units are done, every ninth step.
    """
    step = 1
    while cut_short(source, tmp_path / f"out{step}", step):
        output = tmp_path / f"out{step}"
        if (output / runs.CONFIG).exists():  # before, there is no run yet
            assert list(verify.find_damage(output)) == []
        if step % 20 == 1:
            inline(job(source, output, unit_size=2))
            assert committed(output) == clean
        step += 9 if len(ledger.list_units(output)) == 3 else 1
    assert step > 100
    assert committed(tmp_path / f"out{step}") == clean


def cut_short(source: Path, output: Path, step: int) -> bool:
    """Whether a fresh run came to its `step`-th write, and was cut there."""
    try:
        with cut_at(step):
            inline(job(source, output, unit_size=2))
    except PowerCut:
        return True
    return False


def test_an_io_error_while_writing_stops_the_run(source: Path, tmp_path: Path) -> None:
    broken = lambda: OSError(5, "Input/output error")
    with cut_at(70, broken), pytest.raises(McdiffError, match="repair the disk") as ended:
        inline(job(source, tmp_path / "out", unit_size=2))
    assert ended.value.exit_code == Exit.UNEXPECTED
    assert list(verify.find_damage(tmp_path / "out")) == []


# --- locks


def test_p7_a_second_run_changes_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LOCK_WAIT", 0.3)
    out = tmp_path / "out"
    inline(job(source, out, unit_size=2, limit=2))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with locks.lock(out):
        assert locks.is_running(out)
        with pytest.raises(OutputLockedError, match="another run"):
            inline(job(source, out, unit_size=2))
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert not locks.is_running(out)


# --- the parent, in a process of its own

SCRIPT = """
import signal
import sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it
sys.path.insert(0, sys.argv[1])
from mcdiff_batch.engine.errors import McdiffError
from mcdiff_batch.engine.run.pool import Limits
from tests.support.running import FakeMaker, Fault, enhance, job
if __name__ == "__main__":
    asked = job(Path(sys.argv[2]), Path(sys.argv[3]), unit_size=2,
                limits=Limits(grace=float(sys.argv[5])))
    begun = Fault(kind="nothing", counter=Path(sys.argv[6]))
    try:
        sys.exit(enhance(asked, FakeMaker(delay=float(sys.argv[4]), faults=(begun,))).exit_code)
    except McdiffError as error:
        sys.exit(error.exit_code)
"""


@contextmanager
def parent(
    source: Path, output: Path, delay: float, grace: float = 30
) -> Iterator[subprocess.Popen[bytes]]:
    script = output.parent / "parent.py"
    script.write_text(SCRIPT)
    words = [sys.executable, script, ROOT, source, output, str(delay), str(grace), begun(output)]
    process = subprocess.Popen(words)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def begun(output: Path) -> Path:
    """A file with a byte for every case that a worker has begun."""
    return output.parent / "begun"


def computing(process: subprocess.Popen[bytes], output: Path) -> None:
    wait_for(lambda: begun(output).exists())
    assert process.poll() is None


@pytest.mark.parametrize("moment", [1.2, 2.0])
def test_p1_the_parent_killed_at_a_random_moment(
    source: Path, tmp_path: Path, clean: dict[str, str], moment: float
) -> None:
    """P9: its workers go with it.  P7: the lock it leaves is recognised as stale."""
    out = tmp_path / "out"
    with parent(source, out, delay=0.05) as process:
        time.sleep(moment)
        assert not still_running(kill_alone(process))
    assert inline(job(source, out, unit_size=2)).exit_code == Exit.DONE
    assert committed(out) == clean


def test_a_signal_drains_the_run(source: Path, tmp_path: Path, clean: dict[str, str]) -> None:
    out = tmp_path / "out"
    with parent(source, out, delay=0.5) as process:
        computing(process, out)
        family = find_workers(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == Exit.DRAINED
        assert not still_running(family)
    assert ledger.list_units(out)  # units under way were finished
    assert len(ledger.list_units(out)) < 3
    inline(job(source, out, unit_size=2))
    assert committed(out) == clean


def test_a_second_signal_ends_it_at_once(source: Path, tmp_path: Path) -> None:
    with parent(source, tmp_path / "out", delay=600, grace=600) as process:
        computing(process, tmp_path / "out")
        process.send_signal(signal.SIGINT)
        time.sleep(0.6)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == Exit.DRAINED


def test_units_that_do_not_end_within_the_grace_are_given_up(source: Path, tmp_path: Path) -> None:
    with parent(source, tmp_path / "out", delay=600, grace=1) as process:
        computing(process, tmp_path / "out")
        process.send_signal(signal.SIGHUP)
        assert process.wait(PATIENCE) == Exit.DRAINED
