"""`run --part k/n` and `run --finish`: a run in parts, on one machine or several."""

import json
import os
import shutil
import signal
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import click
import pytest

from mcdiff_batch.engine.cli import run as cli
from mcdiff_batch.engine.cli.job import make_job
from mcdiff_batch.engine.cli.run import run
from mcdiff_batch.engine.errors import (
    Exit,
    FingerprintError,
    McdiffError,
    OutputLockedError,
    UsageError,
)
from mcdiff_batch.engine.model.contract import load_bundle
from mcdiff_batch.engine.output import durable, ledger, locks, runs, shards, verify
from mcdiff_batch.engine.output.ledger import Entry, Record
from mcdiff_batch.engine.output.units import parse_part
from mcdiff_batch.engine.page.write import write_report
from mcdiff_batch.engine.report.collect import collect
from mcdiff_batch.engine.report.parts import MOST_SHOWN, read_parts
from mcdiff_batch.engine.run.enhance import repair
from tests.support.crafting import command
from tests.support.parts import (
    find_family,
    kill,
    lose_locks,
    part,
    started,
    wait_for_units,
    wait_until_running,
)
from tests.support.running import (
    PowerCut,
    archive,
    break_case,
    bundle,
    committed,
    cut_at,
    fault,
    image,
    inline,
    job,
)

CASES = 9  # in units of 2: 0 to 4, the last of one case


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive(tmp_path_factory.mktemp("parts") / "night.zarr", CASES)


@pytest.fixture(scope="module")
def clean(source: Path) -> dict[str, str]:
    """What an undisturbed run without parts comes to."""
    inline(job(source, source.parent / "clean", unit_size=2))
    return committed(source.parent / "clean")


def do(source: Path, out: Path, number: int, count: int, **options: object) -> object:
    return inline(job(source, out, unit_size=2, part=part(number, count), **options))


def finish(source: Path, out: Path) -> Exit:
    return inline(job(source, out, unit_size=2, finish=True)).exit_code


# --- what a run in parts comes to


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


# --- who may write at one time


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


# --- one unit, several writers


def make_record(opened: bool) -> tuple[Record, dict[str, bytes | None]]:
    """What two processes make of one unit: whole, or with an open case."""
    images: dict[str, bytes | None] = {"enhanced": b"short" if opened else b"whole, and longer"}
    status = ledger.OPEN if opened else ledger.DONE
    record = Record(
        unit=3,
        first=6,
        count=2,
        shards=shards.describe(images),
        cases=(Entry(case=6, status="done"), Entry(case=7, status=status)),
    )
    return record, images


def commit(root: Path, opened: bool) -> bool:
    """Whether the output then has an open case."""
    record, images = make_record(opened)
    return bool(runs.commit(root, record, images).counts[ledger.OPEN])


def test_a_record_with_open_cases_never_replaces_one_without_in_any_race(tmp_path: Path) -> None:
    with ProcessPoolExecutor(6, mp_context=get_context("fork")) as pool:
        for turn in range(12):
            root = tmp_path / str(turn)
            root.mkdir()
            kinds = [True, True, turn % 2 == 0, False, True, True]
            found = list(pool.map(commit, [root] * len(kinds), kinds))
            assert not found[3]
            assert ledger.read(root, 3) == make_record(opened=False)[0]
            assert (root / shards.shard_name("enhanced", 3)).read_bytes() == b"whole, and longer"


def test_nothing_is_committed_once_there_is_a_manifest(tmp_path: Path) -> None:
    assert commit(tmp_path, opened=True)
    durable.write(tmp_path, runs.MANIFEST, b"{}")
    assert commit(tmp_path, opened=False)  # the open case stays
    durable.remove(tmp_path, runs.MANIFEST)
    assert not commit(tmp_path, opened=False)


def test_an_image_that_is_done_is_never_given_up_when_the_archive_loses_its_case(
    tmp_path: Path,
) -> None:
    """`--retry-failed` does a whole unit again, and a case of it can be lost meanwhile."""
    path, out = archive(tmp_path / "night.zarr", 2), tmp_path / "out"
    sound = [(path / f"depths/c/{case}/0/0/0").read_bytes() for case in (0, 1)]
    break_case(path, 1)
    assert inline(job(path, out, unit_size=2)).counts["failed"] == 1
    before = image(out, 0)
    (path / "depths/c/1/0/0/0").write_bytes(sound[1])
    break_case(path, 0)
    for _ in range(2):
        again = inline(job(path, out, unit_size=2, retry_failed=True))
        assert (again.counts["done"], again.counts["failed"]) == (1, 1)
        assert image(out, 0) == before
        assert list(verify.find_damage(out)) == []
    (path / "depths/c/0/0/0/0").write_bytes(sound[0])
    assert inline(job(path, out, unit_size=2, retry_failed=True)).counts["done"] == 2
    assert image(out, 0) == before


def begin(root: Path, text: str) -> bool:
    return durable.create(root, "run.json", text.encode() * 9999)


@pytest.mark.parametrize("links", [True, False])
def test_one_of_many_creates_a_file_and_nobody_sees_half_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(path: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    with ProcessPoolExecutor(6 if links else 1, mp_context=get_context("fork")) as pool:
        for turn in range(8):
            root = tmp_path / str(turn)
            won = list(pool.map(begin, [root] * 6, "abcdef"))
            assert sum(won) == 1
            assert (root / "run.json").read_bytes() == "abcdef"[won.index(True)].encode() * 9999
            assert begin(root, "abcdef"[won.index(True)])  # the answer may have been lost
            assert list((root / durable.SCRATCH).iterdir()) == []


# --- settings


def test_automatic_choices_of_the_part_that_began_hold_for_the_others(
    source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = replace(job(source, out, part=part(1, 2)), unit_size=3, batch_size=1)
    inline(first)
    second = replace(first, part=part(2, 2), unit_size=None, batch_size=None)
    assert inline(second).units == 1  # of units 0 to 2, unit 1
    with pytest.raises(FingerprintError, match="unit_size was 3"):
        inline(replace(second, unit_size=4))
    assert inline(replace(second, part=None, finish=True)).exit_code == Exit.DONE


def test_a_part_that_begins_at_the_same_moment_takes_over_the_choices_of_the_other(
    begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Part 1 has prepared its plan for a new output when part 2 begins it with other settings."""
    shutil.copytree(begun / "night.zarr", tmp_path / "night.zarr")
    words = [tmp_path / "night.zarr", "--bundle", begun / "bundle", "--devices", "cpu"]
    chosen = ["--part=2/2", "--batch-size=1", "--unit-size=3"]
    model = load_bundle(begun / "bundle")
    with click.Context(run, info_name="run") as context:
        run.parse_args(context, [*map(str, words), "--part", "1/2"])
        asked = make_job(words[0], tmp_path / "night.enhanced", model, context.params)
    rival = lambda: command(monkeypatch, "run", *words, *chosen)
    found, _ = cli._process(asked, model, "processes", rival, lambda at: None, print)
    assert (found.exit_code, found.units) == (Exit.DONE, 2)  # of units 0 to 2 of three cases
    assert command(monkeypatch, "run", *words[:3], "--finish") == Exit.DONE
    asked = replace(asked, unit_size=4, output=tmp_path / "other.enhanced")
    rival = lambda: command(monkeypatch, "run", *words, *chosen, "--output", asked.output)
    with pytest.raises(FingerprintError, match="unit_size was 3"):
        cli._process(asked, model, "processes", rival, lambda at: None, print)


AUTO = {
    "2/3": {"ID": "2", "MIN": "1", "MAX": "3", "STEP": "1", "COUNT": "3"},
    "1/8": {"ID": "0", "MIN": "0", "MAX": "7", "STEP": "1", "COUNT": "8"},
    "4/4": {"ID": "17", "MIN": "5", "MAX": "17", "STEP": "4", "COUNT": "4"},
    "1/1": {"ID": "6", "MIN": "6", "MAX": "6", "STEP": "1", "COUNT": "1"},
}


@pytest.mark.parametrize("expected", AUTO)
def test_a_task_of_a_slurm_array_knows_its_part(expected: str) -> None:
    environment = {f"SLURM_ARRAY_TASK_{x}": y for x, y in AUTO[expected].items()}
    assert str(parse_part("auto", environment)) == expected


def test_a_pod_of_an_indexed_job_knows_its_part() -> None:
    environment = {"JOB_COMPLETION_INDEX": "0", "JOB_COMPLETIONS": "5"}
    assert str(parse_part("auto", environment)) == "1/5"
    assert str(parse_part("auto", environment | {"JOB_COMPLETION_INDEX": "4"})) == "5/5"


@pytest.mark.parametrize(
    ("words", "environment", "said"),
    [
        *(
            (x, {}, "expected k/n with k from 1 to n")
            for x in ("0/3", "4/3", "a/b", "1", "1/", "-1/2", "٣/٤")
        ),
        *(
            (x, {}, "expected k/n with k from 1 to n")
            for x in ("1/2/3", "", "1/0", "1/9999999999", "AUTO")
        ),
        ("auto", {}, "neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX"),
        ("auto", {"JOB_COMPLETION_INDEX": "0"}, "JOB_COMPLETIONS is not set"),
        ("auto", {"JOB_COMPLETION_INDEX": "5", "JOB_COMPLETIONS": "5"}, "expected 0 to 4"),
        ("auto", {"JOB_COMPLETION_INDEX": "x", "JOB_COMPLETIONS": "5"}, "is not a number"),
        ("auto", {"SLURM_ARRAY_TASK_ID": "1"}, "SLURM_ARRAY_TASK_MIN is not set"),
    ],
)
def test_a_part_that_nobody_can_know_is_refused(
    words: str, environment: dict[str, str], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        parse_part(words, environment)


def test_a_slurm_array_with_gaps_is_refused_by_all_its_tasks() -> None:
    values = {"MIN": "1", "MAX": "7", "STEP": "1", "COUNT": "3"}  # --array=1,2,7
    for task in "127":
        environment = {f"SLURM_ARRAY_TASK_{x}": y for x, y in (values | {"ID": task}).items()}
        with pytest.raises(UsageError, match=r"not evenly spaced.*--array=1-8"):
            parse_part("auto", environment)


# --- options


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


@pytest.fixture(scope="module")
def begun(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by the command, of which part 1 of 3 is done; 2 was killed, and 3 never started."""
    folder = tmp_path_factory.mktemp("begun")
    shutil.copytree(source, folder / "night.zarr")
    bundle(folder / "bundle")
    with pytest.MonkeyPatch.context() as patch:
        words = (folder / "night.zarr", "--bundle", folder / "bundle", "--devices", "cpu")
        assert command(patch, "run", *words, "--unit-size", 2, "--part", "1/3") == Exit.DONE
    with locks.lock(folder / "night.enhanced", part(2, 3)):
        pass
    return folder


def test_the_command_says_what_is_left_and_what_finishes_the_run(
    begun: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, words = begun / "night.enhanced", [begun / "night.zarr", "--bundle", begun / "bundle"]
    assert command(monkeypatch, "run", *words, "--part", "1/3", "--devices", "cpu") == Exit.DONE
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("part 1/3: 4 of 4 cases done in ")
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


# --- the report


def test_the_report_merges_the_parts_and_names_no_machine(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for number in (1, 2):
        asked = job(source, out, unit_size=2, part=part(number, 2))
        inline(asked, faults=(fault("nan", source, 2 * number - 1),))
        inline(asked)
    finish(source, out)
    found = collect(out, archive=source)
    assert (found.work.cases, found.cases.done) == (CASES + 2, CASES)  # two units were done twice
    assert [x.device for x in found.stages] == ["part1/cpu:0", "part2/cpu:0"]
    assert found.incidents.total == 2
    assert found.outcome.state == "complete"
    page = write_report(out, archive=source).read_text()
    assert "CPU of part 1" in page
    trace = json.loads((out / "report/trace.json").read_bytes())["traceEvents"]
    names = {x["args"]["name"] for x in trace if x["name"] == "process_name"}
    assert names == {"machine", "part1/cpu:0", "part2/cpu:0"}
    hidden = os.uname().nodename
    assert all(hidden not in x.read_text() for x in out.rglob("*.json*") if x.is_file())


def test_parts_at_one_time_are_side_by_side_in_the_report(source: Path, tmp_path: Path) -> None:
    """Two parts of 10 s that began 4 s after each other took 14 s together, not 20 s."""
    out = tmp_path / "out"
    for number, began in ((1, 1000.0), (2, 1004.0)):
        do(source, out, number, 2)
        report = locks.part_folder(out, part(number, 2)) / "report"
        lines = [json.loads(x) for x in (report / "timings.jsonl").read_text().splitlines()]
        text = "".join(json.dumps(x | {"began": began, "at": 5.0}) + "\n" for x in lines)
        (report / "timings.jsonl").write_text(text)
        ended = {"began": began, "seconds": 10.0, "ended": "COMPLETED", "finished_at": "now"}
        (report / "run_stats.json").write_text(json.dumps({"runs": [ended]}))
    found = collect(out, archive=source)
    assert (found.work.seconds, found.work.sessions, found.work.resumed) == (14.0, 1, 0)
    assert found.work.cases == CASES


def test_p8_the_report_of_very_many_parts_stays_small(source: Path, tmp_path: Path) -> None:
    count, out = MOST_SHOWN + 8, tmp_path / "out"
    do(source, out, 1, count)
    first = locks.part_folder(out, part(1, count))
    for number in range(2, count + 1):
        shutil.copytree(first, locks.part_folder(out, part(number, count)))
    found = collect(out, archive=source)
    assert len(found.stages) == MOST_SHOWN
    assert found.work.cases == 2 * count  # of all parts
