"""An output in a store that several machines write to at one time."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from mcdiff_batch.engine.cloud.workspace import send
from mcdiff_batch.engine.model.plan import Device
from mcdiff_batch.engine.output import durable, ledger, locks, runs, shards
from mcdiff_batch.engine.output.units import Part
from mcdiff_batch.engine.output.verify import find_damage
from mcdiff_batch.engine.run.enhance import enhance
from tests.support.fake import FakeMaker, InlineWorker, InlineWorkers
from tests.support.running import inline, job
from tests.support.store_outputs import BOTH, CASES, WAIT, Target
from tests.support.stores import Fault, Proxy


def test_parts_on_several_machines_make_one_output_and_one_report(
    night: Path,
    target: Target,
    expected: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number in (2, 1):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"machine {number}"))
        part, root = Part(number=number, count=2), target.root
        inline(job(night, root, part=part))
        send(locks.part_folder(root, part))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a third machine"))
    root = target.root
    assert [str(x) for x in locks.find_parts(root)] == ["1/2", "2/2"]
    assert enhance(job(night, root, finish=True), None).counts["done"] == CASES
    assert target.promised() == expected


def test_the_report_knows_the_runs_of_all_machines(
    night: Path, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for machine in ("one", "two", "one"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / machine))
        root = target.root
        inline(job(night, root, limit=None))
        send(root)
    runs = json.loads(target.files()["report/run_stats.json"])["runs"]
    assert len(runs) == 3


@BOTH
def test_two_runs_at_once_waste_work_and_do_no_harm(
    night: Path,
    target: Target,
    expected: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two machines: neither sees the other's lock.  The second is through while the first is at
    its first unit."""
    here = target.root
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
        there = target.root
    assert here != there

    class Rival(InlineWorkers):
        def start(self, device: Device, *, alone: bool) -> InlineWorker:
            with monkeypatch.context() as elsewhere:
                elsewhere.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
                assert inline(job(night, there)).counts["done"] == CASES
            return super().start(device, alone=alone)

    summary = enhance(job(night, here), FakeMaker(), workers=Rival)
    assert summary.counts["done"] == CASES
    assert target.promised() == expected


def test_a_finished_record_is_never_replaced_by_one_with_open_cases(
    night: Path, target: Target, expected: dict[str, str]
) -> None:
    inline(job(night, target.root))
    root = target.root
    durable.files(root).remove("manifest.json")
    whole = ledger.read(root, 0)
    poor = replace(
        whole, cases=(ledger.Entry(case=0, status=ledger.OPEN), *whole.cases[1:]), shards={}
    )
    assert runs.commit(root, poor, {"enhanced": None, "label": None}) == whole.head
    inline(job(night, root))
    assert target.promised() == expected


def test_a_rival_that_finishes_a_unit_first_is_not_overwritten(
    night: Path, target: Target, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow run is about to write a record with an open case when another one writes its own."""
    root = target.root
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
        other = target.root
        inline(job(night, other, limit=4))
    good, files = ledger.read(root, 0), durable.files(root)
    images = {x: files.read(shards.shard_name(x, 0)) for x in good.shards}
    for name in ("manifest.json", ledger.file_name(0)):
        files.remove(name)
    poor = replace(good, cases=(ledger.Entry(case=0, status=ledger.OPEN), *good.cases[1:]))
    proxy.log.clear()
    proxy.faults.append(late := Fault(match="PUT .*/ledger/000000", kind="late", times=1))
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(runs.commit, root, poor, images)
        proxy.wait_for("PUT .*/ledger/")
        files.write(ledger.file_name(0), ledger.encode(good))  # the other run's
        late.gate.set()
        assert slow.result(WAIT) == good.head
    assert ledger.read(root, 0) == good


def test_no_record_stands_over_shards_that_another_machine_wrote(
    night: Path, target: Target, proxy: Proxy
) -> None:
    """Two machines do one unit, and the one with an open case is late with a shard."""
    root = target.root
    inline(job(night, root))
    good, files = ledger.read(root, 0), durable.files(root)
    images = {x: files.read(shards.shard_name(x, 0)) for x in good.shards}
    other: dict[str, bytes | None] = {x: data + b"open" for x, data in images.items()}
    poor = replace(
        good,
        cases=(ledger.Entry(case=0, status=ledger.OPEN), *good.cases[1:]),
        shards=shards.describe(other),
    )
    for name in ("manifest.json", ledger.file_name(0)):
        files.remove(name)
    proxy.log.clear()
    proxy.faults.append(late := Fault(match="PUT .*/c/0/0/0", kind="late", times=1))
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(runs.commit, root, poor, other)
        proxy.wait_for("PUT .*/c/0/0/0")
        runs.commit(root, good, images)
        late.gate.set()
        slow.result(WAIT)
    assert list(find_damage(root)) == []
    inline(job(night, root))
    assert ledger.read(root, 0) == good
    assert list(find_damage(root)) == []


@pytest.mark.parametrize("late", ["ledger/000000", "manifest"])
def test_a_manifest_is_never_left_over_a_record_that_another_run_has_replaced(
    night: Path, target: Target, proxy: Proxy, late: str
) -> None:
    """Two machines: one replaces a record while the other writes the manifest; either is late."""
    root = target.root
    inline(job(night, root))
    files, old = durable.files(root), ledger.read(root, 0)
    images = {x: files.read(shards.shard_name(x, 0)) for x in old.shards}
    new = replace(old, cases=(replace(old.cases[0], flags=("look",)), *old.cases[1:]))
    files.remove("manifest.json")
    proxy.log.clear()
    proxy.faults.append(held := Fault(match=f"PUT .*/{late}", kind="late", times=1))
    commit = lambda: runs.commit(root, new, images)
    finish = lambda: inline(job(night, root))
    first, second = (commit, finish) if late.startswith("ledger") else (finish, commit)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(first)
        proxy.wait_for(f"PUT .*/{late}")
        second()
        held.gate.set()
        slow.result(WAIT)
    assert ledger.read(root, 0) == new
    assert list(find_damage(root)) == []
    inline(job(night, root))
    assert list(find_damage(root)) == []
    assert files.exists("manifest.json")


def test_who_begins_on_an_output_does_not_disturb_those_that_run_there(target: Target) -> None:
    """The address of a folder in the cache is there at any moment."""
    address = target.root / ".store"
    with ThreadPoolExecutor(1) as pool:
        begun = pool.submit(lambda: [target.root for _ in range(20)])
        while not begun.done():
            assert address.read_text() == str(target.url)
