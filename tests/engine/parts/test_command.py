"""`run --part k/n` and `run --finish`, with other options and on other machines."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mcdiff_batch.engine.errors import Exit, McdiffError
from mcdiff_batch.engine.output import locks, runs, verify
from mcdiff_batch.engine.run.enhance import repair
from tests.support.crafting import command
from tests.support.parts import finish, part
from tests.support.running import archive, break_case, committed, inline, job


def test_a_part_repairs_and_retries_its_own_units_only(tmp_path: Path) -> None:
    path, out = archive(tmp_path / "night.zarr", 8), tmp_path / "out"
    whole = archive(tmp_path / "whole.zarr", 8)
    for case in (1, 3):  # of units 0 and 1
        break_case(path, case)
    inline(job(path, out, unit_size=2))
    shutil.rmtree(path)
    shutil.copytree(whole, path)  # the archive was repaired
    for unit in (2, 3):
        (out / f"images.zarr/label/c/{unit}/0/0").write_bytes(b"")
    asked = job(path, out, unit_size=2, part=part(1, 2), retry_failed=True)
    mended, _ = repair(asked)
    assert {x.unit for x in mended} == {2}
    assert inline(asked).units == 2  # 0 to try again, and 2
    assert {x.unit for x in verify.find_damage(out)} == {3}
    other = replace(asked, part=part(2, 2))
    repair(other)
    assert inline(other).units == 2
    assert finish(path, out) == Exit.DONE
    inline(job(whole, tmp_path / "fresh", unit_size=2))
    assert committed(out) == committed(tmp_path / "fresh")


def test_a_part_of_a_finished_run_leaves_it_finished(
    source: Path, tmp_path: Path, clean: dict[str, str]
) -> None:
    out = tmp_path / "out"
    inline(job(source, out, unit_size=2))
    found = inline(job(source, out, unit_size=2, part=part(2, 4)))
    assert (found.exit_code, found.units, found.counts["done"]) == (Exit.DONE, 0, 2)
    assert committed(out) == clean


def test_the_command_says_what_is_left_and_what_finishes_the_run(
    begun: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, words = begun / "night.enhanced", [begun / "night.zarr", "--bundle", begun / "bundle"]
    assert command(monkeypatch, "run", *words, "--part", "1/3", "--devices", "cpu") == Exit.DONE
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("part 1/3: 4 of 4 cases done, all before this run: ")
    assert last.startswith(
        "parts of 3: 1 done, 2 stopped, 3 never started; when all parts are done"
    )
    assert last.endswith(f"run {begun}/night.zarr --bundle {begun}/bundle --finish")
    assert command(monkeypatch, "status", out) == 0
    assert "parts of 3: 1 done, 2 stopped, 3 never started" in capsys.readouterr().out
    with locks.lock(out, part(3, 3)):
        assert command(monkeypatch, "status", out, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["state"] == "running"
    assert found["parts"] == [
        {"part": "1/3", "state": "done", "units_left": 0},
        {"part": "2/3", "state": "stopped", "units_left": 2},
        {"part": "3/3", "state": "running", "units_left": 1},
    ]
    assert command(monkeypatch, "run", *words, "--finish") == Exit.FAILED_CASES
    said = capsys.readouterr().out
    assert "5 left for the next run" in said
    assert "parts of 3: 1 done, 2-3 stopped; do what is left, then again: mcdiff-batch" in said
    assert not (out / runs.MANIFEST).exists()


def test_a_dry_run_of_a_part_counts_its_cases_and_writes_nothing(
    begun: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in begun.rglob("*")}
    words = [begun / "night.zarr", "--bundle", begun / "bundle", "--devices", "cpu", "--dry-run"]
    assert command(monkeypatch, "run", *words, "--part", "2/3") == Exit.DONE
    said = capsys.readouterr().out
    assert "part        2/3 (3 cases)" in said
    assert "to do       3 cases in 2 units" in said
    assert {path: path.stat().st_mtime_ns for path in begun.rglob("*")} == before


@pytest.mark.parametrize("also", ["--part=1/2", "--repair", "--retry-failed"])
def test_a_finish_that_should_also_work_is_refused(
    begun: Path, monkeypatch: pytest.MonkeyPatch, also: str
) -> None:
    words = [begun / "night.zarr", "--bundle", begun / "bundle", "--finish", also]
    assert command(monkeypatch, "run", *words) == Exit.USAGE


def test_a_finish_of_nothing_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(McdiffError, match="contains no run to finish") as ended:
        finish(source, tmp_path / "out")
    assert ended.value.exit_code == Exit.USAGE


def test_who_finishes_need_not_have_the_devices_of_the_parts(
    begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parts ran on GPUs; the finish runs on a machine without any."""
    folder = Path(shutil.copytree(begun, tmp_path / "copy"))
    out = folder / "night.enhanced"
    words = [folder / "night.zarr", "--bundle", folder / "bundle"]
    for text in ("2/3", "3/3"):
        assert command(monkeypatch, "run", *words, "--devices=cpu", "--part", text) == Exit.DONE
    settings = json.loads((out / runs.CONFIG).read_bytes())
    settings["settings"] |= {"device_kind": "cuda", "plan": "tensorrt"}
    settings["settings"]["software"]["tensorrt"] = "10.15"
    (out / runs.CONFIG).write_text(json.dumps(settings))
    assert command(monkeypatch, "run", *words, "--finish") == Exit.DONE
    assert (out / runs.MANIFEST).exists()
