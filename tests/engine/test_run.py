"""`run`, `status`, `verify` through the front door, on the fake plan and on a small real bundle."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from mcdiff_batch.engine.archive.archive import Archive, open_archive
from mcdiff_batch.engine.cli import main
from mcdiff_batch.engine.errors import CaseError, Exit, FingerprintError, SpaceError, UsageError
from mcdiff_batch.engine.output import ledger
from mcdiff_batch.engine.output.manifest import read_entries
from mcdiff_batch.engine.output.units import Unit
from mcdiff_batch.engine.run import worker
from mcdiff_batch.engine.run.enhance import enhance
from mcdiff_batch.engine.run.finisher import IO, Work
from mcdiff_batch.engine.run.heartbeat import Pulse
from mcdiff_batch.engine.run.job import resolve
from mcdiff_batch.engine.run.protocol import Task
from mcdiff_batch.engine.run.tracker import Progress
from tests.support.fake import FakeMaker, InlineWorkers
from tests.support.running import (
    CONTRACT,
    archive,
    break_case,
    bundle,
    committed,
    cpus,
    image,
    inline,
    job,
)

CASES = 10


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive(tmp_path_factory.mktemp("run") / "night.zarr", CASES)


@pytest.fixture(scope="module")
def whole(source: Path) -> Path:
    """The output of an undisturbed run, with processes."""
    output = source.parent / "whole"
    assert enhance(job(source, output), FakeMaker()).exit_code == Exit.DONE
    return output


def test_p2_every_case_is_in_the_ledger_exactly_once(whole: Path) -> None:
    assert Counter(entry.case for entry in read_entries(whole)) == Counter(range(CASES))
    assert {entry.status for entry in read_entries(whole)} == {"done"}


def test_p3_done_means_readable_and_hash_matching(whole: Path) -> None:
    import hashlib

    for entry in read_entries(whole):
        pixels = image(whole, entry.case) + image(whole, entry.case, "label")
        assert hashlib.sha256(pixels).hexdigest() == entry.pixels
    manifest = json.loads((whole / "manifest.json").read_bytes())
    found = committed(whole)
    del found["manifest.json"]
    assert manifest["files"] == found


def test_p4_a_case_depends_on_nothing_but_itself(source: Path, whole: Path) -> None:
    """Two devices and another batch: the same bytes; another selection: the same pixels."""
    two = source.parent / "two"
    enhance(job(source, two, devices=cpus(2)), FakeMaker())
    assert committed(two) == committed(whole)
    some = source.parent / "some"
    inline(job(source, some, batch_size=3, unit_size=3, cases="9,2-3"))
    for case in (2, 3, 9):
        assert image(some, case) == image(whole, case)


def test_p6_the_input_is_untouched(tmp_path: Path) -> None:
    source = archive(tmp_path / "a.zarr", 3)
    before = {path: path.stat() for path in sorted(source.rglob("*"))}
    inline(job(source, tmp_path / "out"))
    after = {path: path.stat() for path in sorted(source.rglob("*"))}
    assert {p: (s.st_mtime_ns, s.st_ino) for p, s in before.items()} == {
        p: (s.st_mtime_ns, s.st_ino) for p, s in after.items()
    }


def test_the_same_command_again_does_nothing(source: Path, whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*/zarr.json")}
    summary = enhance(job(source, whole, devices=cpus(2)), FakeMaker())
    assert summary.units == 0
    assert summary.counts["done"] == CASES
    assert before == {path: path.stat().st_mtime_ns for path in whole.rglob("*/zarr.json")}


def test_a_bad_case_is_failed_and_its_neighbours_are_as_without_it(
    tmp_path: Path, source: Path, whole: Path
) -> None:
    bad = archive(tmp_path / "bad.zarr", CASES)
    break_case(bad, 5)
    out = tmp_path / "out"
    summary = enhance(job(bad, out), FakeMaker())
    assert summary.exit_code == Exit.FAILED_CASES
    assert summary.counts == {"done": CASES - 1, "failed": 1, "skipped": 0, "open": 0}
    assert [(x.case, x.reason) for x in read_entries(out) if x.status == "failed"] == [
        (5, "corrupt")
    ]
    assert all(image(out, case) == image(whole, case) for case in range(CASES) if case != 5)
    (bad / "depths/c/5/0/0/0").write_bytes((source / "depths/c/5/0/0/0").read_bytes())
    assert inline(job(bad, out)).counts["failed"] == 1
    assert inline(job(bad, out, retry_failed=True)).counts["failed"] == 0
    assert committed(out) == committed(whole)


def test_cases_that_are_not_selected_are_skipped(source: Path, tmp_path: Path) -> None:
    summary = inline(job(source, tmp_path / "out", cases="1,9", limit=1))
    assert (summary.cases, summary.counts["done"], summary.counts["skipped"]) == (1, 1, 3)
    assert summary.exit_code == Exit.DONE
    assert ledger.list_units(tmp_path / "out") == [0]
    group = zarr.open_group(tmp_path / "out/images.zarr", mode="r")
    assert np.asarray(group["status"][:]).tolist() == [3, 1, 3, 3, *[0] * 6]  # type: ignore[index]


def test_the_input_grid_gives_images_of_the_inputs_size(source: Path, tmp_path: Path) -> None:
    inline(job(source, tmp_path / "out", grid="input", limit=2))
    group = zarr.open_group(tmp_path / "out/images.zarr", mode="r")
    assert group["enhanced"].shape == (CASES, 40, 16)  # type: ignore[union-attr]
    assert np.asarray(group["enhanced"][1]).any()  # type: ignore[index]


def test_on_error_stop_ends_after_the_unit_that_failed(tmp_path: Path) -> None:
    source = archive(tmp_path / "a.zarr", CASES)
    break_case(source, 1)
    summary = inline(job(source, tmp_path / "out", max_failures=0))
    assert ledger.list_units(tmp_path / "out") == [0]
    assert summary.exit_code == Exit.FAILED_CASES
    assert summary.unfinished == 6
    assert not (tmp_path / "out/manifest.json").exists()
    again = inline(job(source, tmp_path / "out", max_failures=0))
    assert (again.unfinished, again.counts["failed"]) == (0, 1)


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("batch_size", {"batch_size": 3}),
        ("unit_size", {"unit_size": 5}),
        ("solver", {"solver": "dpmpp_2m"}),
        ("ladder", {"steps": 7}),
        ("seed", {"seed": 1}),
        ("draws", {"draws": 3}),
        ("cases", {"limit": 2}),
        ("cases", {"cases": "0-2"}),
        ("grid", {"grid": "input"}),
        ("bundle", {"bundle": "another"}),
    ],
)
def test_a_changed_option_is_named_and_changes_nothing(
    source: Path, whole: Path, field: str, options: dict[str, object]
) -> None:
    before = committed(whole)
    with pytest.raises(FingerprintError, match=f": {field} was .* now it is"):
        enhance(replace(job(source, whole), **options), FakeMaker())  # type: ignore[arg-type]
    assert committed(whole) == before


def test_another_archive_or_library_is_another_run(tmp_path: Path, whole: Path) -> None:
    other = archive(tmp_path / "other.zarr", CASES + 1)
    with pytest.raises(FingerprintError, match="archive was"):
        resolve(job(other, whole))
    with pytest.raises(FingerprintError, match="software was"):
        resolve(job(whole.parent / "night.zarr", whole, versions={"zarr": "0"}))


def test_choices_of_the_first_run_win_when_nothing_is_said(source: Path, tmp_path: Path) -> None:
    inline(job(source, tmp_path / "out", seed=7, solver="ddim", steps=2, limit=2))
    bare = job(source, tmp_path / "out", batch_size=None, unit_size=None)
    settings = resolve(bare).settings
    assert (settings.seed, settings.batch_size, settings.unit_size) == (7, 2, 4)
    assert (len(settings.ladder), settings.cases) == (2, "0-1")


def test_steps_are_exact(source: Path, tmp_path: Path) -> None:
    ladders = {
        steps: resolve(job(source, tmp_path, steps=steps, solver="ddim")).settings.ladder
        for steps in (1, 3, 9, 1000)
    }
    assert {steps: len(ladder) for steps, ladder in ladders.items()} == {x: x for x in ladders}
    assert ladders[3] == CONTRACT.sampler.ladder
    assert ladders[1000][0] == 1000


def test_a_folder_of_something_else_is_left_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="files that no run has written"):
        enhance(job(source, tmp_path), FakeMaker())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_too_little_space_ends_the_run_before_its_start(source: Path, tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="iB are free"):
        inline(job(source, tmp_path / "out", unit_size=10**15))
    assert not (tmp_path / "out/run.json").exists()


def test_a_case_that_cannot_be_read_now_is_no_failure_of_its_data(source: Path) -> None:
    class Broken(Archive):
        def read(self, index: int) -> object:  # type: ignore[override]
            raise OSError(5, "Input/output error", "/secret/path")

    opened = open_archive(source)
    broken = Broken(**{name: getattr(opened, name) for name in Archive.__slots__})
    task = Task(unit=Unit(index=0, first=0, count=1), cases=(0,))
    from multiprocessing import get_context

    load = worker.make_loader(
        broken, inline_recipe(source), Work(task=task), Pulse(get_context("spawn"))
    )
    with pytest.raises(CaseError) as caught:
        load(0)
    assert caught.value.reason == IO
    assert "secret" not in caught.value.detail


def inline_recipe(source: Path) -> worker.Recipe:
    from mcdiff_batch.engine.run import enhance

    return enhance._recipe(resolve(job(source, source.parent / "none")))


def test_an_archive_that_changes_during_the_run_is_flagged(tmp_path: Path) -> None:
    source = archive(tmp_path / "a.zarr", 5)
    document = source / "depths/zarr.json"
    touch = lambda _: document.write_text(document.read_text() + " ")
    summary = enhance(job(source, tmp_path / "out"), FakeMaker(), touch, InlineWorkers)
    assert summary.incidents == 1
    assert '"kind":"input"' in (tmp_path / "out" / ledger.INCIDENTS).read_text()


def test_progress_counts_up_to_all_cases(source: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    enhance(job(source, tmp_path / "out"), FakeMaker(), seen.append, InlineWorkers)
    assert [x.handled for x in seen] == [0, 4, 8, 10, 10]
    assert seen[-1].eta == 0
    assert [x.state for x in seen] == [*["running"] * 4, "complete"]


# --- the command line, on ONNX Runtime


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(tmp_path_factory.mktemp("model") / "tiny")


def cli(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["mcdiff-batch", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_the_command_line_from_run_to_a_flipped_bit(
    tmp_path: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, out = archive(tmp_path / "night.zarr", 5), tmp_path / "night.enhanced"
    words = ("run", "--input", source, "--bundle", model, "--unit-size", 2)
    assert cli(monkeypatch, *words, "--dry-run") == 0
    assert "5 of 5" in capsys.readouterr().out
    assert not out.exists()
    assert cli(monkeypatch, *words) == 0
    assert "5 of 5 cases done in" in capsys.readouterr().out
    assert cli(monkeypatch, "status", out, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {
        "state": "complete", "cases": 5, "done": 5, "failed": 0, "skipped": 0, "open": 0,
        "flagged": 0, "parts": [], "archive_cases": 5, "not_selected": 0, "remedy": "",
    }  # fmt: skip
    assert cli(monkeypatch, "verify", out) == 0
    assert cli(monkeypatch, *words, "--seed", 3) == Exit.FINGERPRINT_DIFFERS
    shard = out / "images.zarr/enhanced/c/1/0/0"
    data = bytearray(shard.read_bytes())
    data[20] ^= 1
    shard.write_bytes(data)
    capsys.readouterr()
    assert cli(monkeypatch, "verify", out, "--subset", "1/2") == 0
    assert cli(monkeypatch, "verify", out) == Exit.VERIFICATION_FAILED
    assert "enhanced/c/1/0/0 was changed: case 2 (record ledger" in capsys.readouterr().out
    (out / "ledger/000001.json").unlink()
    assert cli(monkeypatch, *words) == 0
    assert cli(monkeypatch, "verify", out) == 0


COUNTING = """
import os
import sys
from mcdiff_batch.engine.cli import main

def count(event, args):
    if event == "open" and str(args[0]).endswith("night.zarr/case_id/c/0"):
        with open(os.environ["OPENS"], "a") as file:
            print(os.getpid(), file=file)

sys.addaudithook(count)  # in workers too: they import this file
if __name__ == "__main__":
    main()
"""


def test_a_process_opens_the_archive_once(tmp_path: Path, model: Path) -> None:
    """The parent does so again at the end, to see whether the archive was changed."""
    source, script, opens = archive(tmp_path / "night.zarr", 4), tmp_path / "a.py", tmp_path / "n"
    zarr.open_group(source).create_array("case_id", data=np.arange(4), chunks=(4,))
    script.write_text(COUNTING)
    words = [sys.executable, script, "run", "--input", source, "--bundle", model, "--show-ids"]
    subprocess.run([*words, "--devices", "cpu"], env=os.environ | {"OPENS": str(opens)}, check=True)
    assert sorted(Counter(opens.read_text().split()).values()) == [1, 2]


def test_bad_words_and_bad_inputs_have_their_exit_codes(
    tmp_path: Path, source: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ("--output", tmp_path / "out")
    good = ("run", "--input", source, "--bundle", model, *out)
    assert cli(monkeypatch, "run") == Exit.USAGE
    assert cli(monkeypatch, *good, "--cases", "99") == Exit.USAGE
    assert cli(monkeypatch, *good, "--sampler", "magic") == Exit.USAGE
    assert cli(monkeypatch, *good, "--devices", "cpu:0") == Exit.USAGE
    assert cli(monkeypatch, *good, "--devices", "cuda:0") == Exit.NO_DEVICE
    assert cli(monkeypatch, "run", "--input", tmp_path / "no", "--bundle", model) == 4
    assert cli(monkeypatch, "run", "--input", source, "--bundle", tmp_path, *out) == 4
    assert cli(monkeypatch, "verify", tmp_path) == Exit.USAGE
    assert cli(monkeypatch, "status", tmp_path / "no") == Exit.USAGE
    assert not (tmp_path / "out").exists()
