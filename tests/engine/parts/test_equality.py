"""A run in parts comes to what a run without parts comes to."""

from pathlib import Path

import pytest

from mcdiff_batch.engine.errors import Exit
from mcdiff_batch.engine.output import ledger, runs
from mcdiff_batch.engine.report.parts import read_parts
from tests.support.parts import do, finish, part
from tests.support.running import archive, break_case, committed, fault, inline, job


@pytest.mark.parametrize("order", [[1], [2, 1], [3, 1, 2], [7, 6, 5, 4, 3, 2, 1]])
def test_p1_parts_in_any_order_and_a_finish_equal_a_run_without_parts(
    source: Path, tmp_path: Path, clean: dict[str, str], order: list[int]
) -> None:
    out = tmp_path / "out"
    for number in order:
        found = inline(job(source, out, unit_size=2, part=part(number, len(order))))
        assert found.exit_code == Exit.DONE
        assert not (out / runs.MANIFEST).exists()
        assert not (out / "images.zarr/status").exists()
    assert finish(source, out) == Exit.DONE
    assert committed(out) == clean
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert finish(source, out) == Exit.DONE  # does nothing twice
    changed = {x for x in before if x.exists() and x.stat().st_mtime_ns != before[x]}
    assert {x.relative_to(out).parts[0] for x in changed} <= {"report"}


def test_p1_a_plain_run_takes_what_parts_have_left(
    source: Path, tmp_path: Path, clean: dict[str, str]
) -> None:
    out = tmp_path / "out"
    do(source, out, 2, 3)
    assert len(ledger.list_units(out)) == 2
    found = inline(job(source, out, unit_size=2))
    assert (found.exit_code, found.units) == (Exit.DONE, 3)
    assert committed(out) == clean


def test_another_division_than_before_does_what_is_left(
    source: Path, tmp_path: Path, clean: dict[str, str]
) -> None:
    out = tmp_path / "out"
    for one in ((1, 2), (1, 3), (2, 3), (3, 3)):
        do(source, out, *one)
    assert finish(source, out) == Exit.DONE
    assert committed(out) == clean


def test_a_part_without_units_is_done_at_once(source: Path, tmp_path: Path) -> None:
    found = inline(job(source, tmp_path / "out", unit_size=2, part=part(40, 50)))
    assert (found.exit_code, found.cases, found.units) == (Exit.DONE, 0, 0)


def test_a_part_whose_cases_failed_is_done_and_the_finish_says_so(tmp_path: Path) -> None:
    path, out = archive(tmp_path / "night.zarr", 4), tmp_path / "out"
    break_case(path, 1)
    assert inline(job(path, out, unit_size=2, part=part(1, 2))).exit_code == Exit.DONE
    assert inline(job(path, out, unit_size=2, part=part(2, 2))).exit_code == Exit.DONE
    assert finish(path, out) == Exit.FAILED_CASES
    assert (out / runs.MANIFEST).exists()


def test_a_part_with_open_cases_ends_with_3_and_does_them_the_next_time(
    source: Path, tmp_path: Path, clean: dict[str, str]
) -> None:
    out = tmp_path / "out"
    asked = job(source, out, unit_size=2, part=part(1, 2))
    assert inline(asked, faults=(fault("nan", source, 5),)).exit_code == Exit.FAILED_CASES
    do(source, out, 2, 2)
    assert [x.state for x in read_parts(out)] == ["stopped", "done"]
    assert inline(asked).exit_code == Exit.DONE
    assert finish(source, out) == Exit.DONE
    assert committed(out) == clean
