"""Faults of the store, failed cases and lost objects leave no trace in an output."""

from pathlib import Path

import pytest

from mcdiff_batch.engine.cloud.files import StoreFiles
from mcdiff_batch.engine.errors import McdiffError
from mcdiff_batch.engine.output import ledger
from mcdiff_batch.engine.output.verify import find_damage
from mcdiff_batch.engine.run.enhance import enhance, repair
from tests.support.fake import FakeMaker, InlineWorkers
from tests.support.running import archive, break_case, clean, fault, inline, job
from tests.support.store_outputs import BOTH, CASES, Target
from tests.support.stores import Fault, Proxy


@BOTH
def test_p1_faults_of_the_store_leave_no_trace(
    night: Path, target: Target, proxy: Proxy, expected: dict[str, str]
) -> None:
    proxy.faults += [
        Fault(match="PUT .*/run.json", kind="lost", times=1),  # looks like a rival
        Fault(match="PUT .*/run.json", kind="409", times=1),
        Fault(match="PUT .*/ledger/000000", kind="lost", times=1),
        Fault(match="PUT .*/ledger/000001", kind="409", times=2),
        Fault(match="PUT .*/ledger/000002", kind="503", times=2),
        Fault(match="PUT .*/enhanced/c/1/", kind="503", times=2),
        Fault(match="PUT .*/label/c/1/", kind="lost", times=1),
        Fault(match="GET .*/ledger/", kind="cut", times=1),
        Fault(match="PUT .*/manifest", kind="lost", times=1),
    ]
    inline(job(night, target.root))
    assert target.promised() == expected
    assert all(x.times <= 0 for x in proxy.faults)


@BOTH
@pytest.mark.parametrize("status", ["404", "412"])
def test_what_was_deleted_while_it_is_replaced_is_not_replaced(
    target: Target, proxy: Proxy, status: str
) -> None:
    files = StoreFiles(target.url)
    files.write("run.json", b"old")
    proxy.faults.append(Fault(match="PUT .*/run.json", kind=status))
    assert not files.replace("run.json", b"old", b"new")
    files.remove("run.json")
    assert not files.replace("run.json", b"old", b"new")


@BOTH
def test_p1_a_store_that_fails_ends_the_run_and_the_next_one_goes_on(
    night: Path, target: Target, proxy: Proxy, expected: dict[str, str]
) -> None:
    proxy.faults.append(Fault(match="PUT .*/label/c/1/", kind="403"))
    with pytest.raises(McdiffError, match=r"refuses access \(403\).*committed units are safe"):
        inline(job(night, target.root))
    assert ledger.list_units(target.root) == [0]
    proxy.faults.clear()
    inline(job(night, target.root))
    assert target.promised() == expected


@BOTH
def test_an_open_case_is_closed_by_the_next_run(
    night: Path, target: Target, expected: dict[str, str]
) -> None:
    first = inline(job(night, target.root), faults=(fault("nan", night, 2),))
    assert first.counts["open"] == 1
    summary = inline(job(night, target.root))
    assert summary.counts["done"] == CASES
    assert target.promised() == expected


def test_a_failed_case_is_tried_again_after_a_repair_of_the_archive(
    target: Target, tmp_path: Path
) -> None:
    path = archive(tmp_path / "a.zarr", 5)
    broken = archive(tmp_path / "b" / "a.zarr", 5)
    break_case(broken, 1)
    assert inline(job(broken, target.root)).counts["failed"] == 1
    inline(job(path, target.root, retry_failed=True))
    assert target.promised() == clean(path, tmp_path / "near")


def test_a_lost_shard_is_found_and_done_again(
    night: Path, target: Target, expected: dict[str, str]
) -> None:
    import obstore

    inline(job(night, target.root))
    obstore.delete(target.store, f"{target.url.prefix}/images.zarr/label/c/1/0/0")
    (damage,) = find_damage(target.root)
    assert (damage.unit, str(damage)) == (
        1,
        "images.zarr/label/c/1/0/0 is missing: cases 4-7",
    )
    assert repair(job(night, target.root)) == ([damage], [])
    enhance(job(night, target.root), FakeMaker(), workers=InlineWorkers)
    assert target.promised() == expected
