"""Parts at one time: each has a lock, and none undoes the work of another."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from mcdiff_batch.engine.errors import Exit, OutputLockedError
from mcdiff_batch.engine.output import durable, locks, verify
from tests.support.parts import (
    do,
    finish,
    kill,
    lose_locks,
    part,
    started,
    wait_for_units,
    wait_until_running,
)
from tests.support.processes import find_family
from tests.support.running import PowerCut, committed, cut_at, inline, job


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "LOCK_WAIT", 0.1)


@pytest.mark.usefixtures("impatient")
def test_a_run_waits_for_no_part_and_says_which_one_is_there(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    do(source, out, 1, 3)
    with locks.lock(out, part(2, 3)), locks.lock(out, part(3, 3)):
        assert locks.is_running(out)
        for asked in (job(source, out, unit_size=2), job(source, out, unit_size=2, finish=True)):
            with pytest.raises(OutputLockedError, match="parts 2/3, 3/3 are running here"):
                inline(asked)
        with pytest.raises(OutputLockedError, match="part 2/3 is being done by another process"):
            do(source, out, 2, 3)
        with pytest.raises(OutputLockedError, match=r"part 2/3 .* use --part k/3"):
            do(source, out, 1, 2)
        assert do(source, out, 1, 3)
    with locks.lock(out), pytest.raises(OutputLockedError, match="another run is writing here"):
        do(source, out, 2, 3)
    assert not locks.is_running(out)


@pytest.mark.usefixtures("impatient")
def test_p1_parts_at_once_with_their_own_processes_killed_and_started_again(
    source: Path, tmp_path: Path, clean: dict[str, str]
) -> None:
    out = tmp_path / "out"
    with (
        started(source, out, "1/2", delay=0.2) as one,
        started(source, out, "2/2", delay=0.2) as two,
    ):
        wait_until_running(out, part(1, 2))
        wait_until_running(out, part(2, 2))
        wait_for_units(out, 1)
        for again in (
            job(source, out, unit_size=2, part=part(1, 2)),
            job(source, out, unit_size=2),
        ):
            with pytest.raises(OutputLockedError, match="1/2"):
                inline(again)
        kill(one)
        kill(two)
    assert finish(source, out) == Exit.FAILED_CASES  # some units are left
    with started(source, out, "1/2") as one, started(source, out, "2/2") as two:
        assert (one.wait(), two.wait()) == (Exit.DONE, Exit.DONE)
    assert finish(source, out) == Exit.DONE
    assert committed(out) == clean
    assert list((out / durable.SCRATCH).glob("*")) == []


@pytest.mark.parametrize("late", ["", "nan"])
def test_a_straggler_that_was_given_up_does_no_harm(
    source: Path, tmp_path: Path, clean: dict[str, str], late: str
) -> None:
    """It stands still in the middle of a unit; others do its units and finish the run, and then it
    goes on, to the same results or to open cases."""
    out = tmp_path / "out"
    with started(source, out, "1/2", delay=0.15, fault=late) as straggler:
        wait_until_running(out, part(1, 2))
        wait_for_units(out, 1)
        family = find_family(straggler)
        straggler.send_signal(signal.SIGSTOP)
        for process in family:
            process.suspend()
        lose_locks(out)
        do(source, out, 1, 2)
        do(source, out, 2, 2)
        assert finish(source, out) == Exit.DONE
        assert committed(out) == clean
        for process in family:
            process.resume()
        straggler.send_signal(signal.SIGCONT)
        straggler.wait()
    assert committed(out) == clean
    assert list(verify.find_damage(out)) == []


def test_p1_a_finish_that_is_cut_at_any_write_is_made_again(
    source: Path, tmp_path: Path, clean: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    begun, cuts = tmp_path / "begun", 0
    for number in (1, 2):
        do(source, begun, number, 2)
    for step in range(1, 1000, 29):
        out = Path(shutil.copytree(begun, tmp_path / f"out{step}"))
        try:
            with cut_at(step):
                finish(source, out)
        except PowerCut:
            cuts += 1
            assert finish(source, out) == Exit.DONE
        assert committed(out) == clean
        shutil.rmtree(out)
        if cuts <= step // 29:
            break
    assert cuts > 3
