"""What the commands say of an output that is not all of its archive, or not whole: what to do."""

import json
from pathlib import Path

import pytest

from mcdiff_batch.engine.errors import Exit
from mcdiff_batch.engine.output import ledger, runs
from tests.support.crafting import command
from tests.support.running import archive, break_case, bundle, inline, job

Capture = pytest.CaptureFixture[str]
SCOPE = "this output was begun for 3 of 7 cases, and 4 are not part of it"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def words(model: Path, tmp_path: Path) -> list[object]:
    source = archive(tmp_path / "night.zarr", 7)
    return ["run", source, "--bundle", model, "--devices", "cpu", "--unit-size", 2]


def ask(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, out: Path
) -> tuple[str, dict[str, object]]:
    """What `status` says, in words and in JSON."""
    assert command(monkeypatch, "status", out) == Exit.DONE
    said = capsys.readouterr().out
    assert command(monkeypatch, "status", out, "--json") == Exit.DONE
    return said, json.loads(capsys.readouterr().out)


def test_an_output_that_was_begun_for_some_cases_says_so_whenever_it_is_asked(
    words: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    out = tmp_path / "night.enhanced"
    for more in (["--limit", 3], []):
        assert command(monkeypatch, *words, *more) == Exit.DONE
        said, told = capsys.readouterr()
        assert SCOPE in said
        first, last = told.splitlines()[1], told.splitlines()[-1]
        assert first.startswith(SCOPE)
        assert "--output" in first
        assert last.startswith("complete: 3 of 3 cases enhanced")
        assert SCOPE in last
    assert "complete: 3 of 3 cases enhanced, all before this run" in last
    assert "3 of 3 cases done, all before this run: " in said
    text, found = ask(monkeypatch, capsys, out)
    assert SCOPE in text
    assert (found["cases"], found["archive_cases"], found["not_selected"]) == (3, 7, 4)
    assert command(monkeypatch, *words, "--progress", "json") == Exit.DONE
    end = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert (end["cases"], end["archive_cases"], end["not_selected"]) == (3, 7, 4)
    page = (out / "report/index.html").read_text()
    headline = page.partition("<h1>")[2].partition("</h1>")[0]
    assert "begun for" in headline
    assert "not part of it" in headline


def test_an_output_of_all_cases_says_nothing_of_that(
    words: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert command(monkeypatch, *words) == Exit.DONE
    said, told = capsys.readouterr()
    text, found = ask(monkeypatch, capsys, tmp_path / "night.enhanced")
    assert "not part of it" not in said + told + text
    assert (found["not_selected"], found["remedy"]) == (0, "")
    assert "begun for" not in (tmp_path / "night.enhanced/report/index.html").read_text()


def test_parts_that_are_all_done_are_to_be_finished_and_a_finished_output_has_none(
    words: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    out = tmp_path / "night.enhanced"
    assert command(monkeypatch, *words, "--part", "1/2") == Exit.DONE
    assert "; when all parts are done, finish with: " in capsys.readouterr().out
    assert command(monkeypatch, *words, "--part", "2/2") == Exit.DONE
    assert "; all parts are done, finish with: " in capsys.readouterr().out
    text, found = ask(monkeypatch, capsys, out)
    head = f"{out}: all parts are done, 7 of 7 cases done; finish with: mcdiff-batch run "
    assert text.splitlines()[0] == f"{head}{tmp_path}/night.zarr --bundle BUNDLE --finish"
    assert (found["state"], str(found["remedy"])[:12]) == ("stopped", "finish with:")
    assert command(monkeypatch, *words, "--finish") == Exit.DONE
    capsys.readouterr()
    assert command(monkeypatch, *words, "--part", "1/3") == Exit.DONE
    said = capsys.readouterr().out
    assert "there is nothing to do and nothing to finish" in said
    assert "--finish" not in said
    text, found = ask(monkeypatch, capsys, out)
    assert text == f"{out}: state complete, 7 of 7 cases done\n"
    assert found["parts"] == []


def test_a_part_without_a_unit_says_why(
    words: list[object], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert command(monkeypatch, *words, "--part", "5/5") == Exit.DONE
    said = capsys.readouterr().out
    assert "(this part has no unit: 4 units of 2 cases are shared out)" in said


def test_an_output_that_has_lost_a_record_is_not_complete_and_is_to_be_repaired(
    words: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    out = tmp_path / "night.enhanced"
    assert command(monkeypatch, *words) == Exit.DONE
    (out / ledger.file_name(1)).unlink()
    capsys.readouterr()
    text, found = ask(monkeypatch, capsys, out)
    assert "state damaged, 5 of 7 cases done, 2 left; " in text
    assert "complete" not in text
    assert text.splitlines()[0].endswith(f"{tmp_path}/night.zarr --bundle BUNDLE --repair")
    assert found["state"] == "damaged"
    assert command(monkeypatch, *words, "--repair") == Exit.DONE
    capsys.readouterr()
    assert "state complete, 7 of 7 cases done\n" in ask(monkeypatch, capsys, out)[0]


def test_a_run_that_lacks_only_its_manifest_is_completed_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    out = tmp_path / "night.enhanced"
    inline(job(archive(tmp_path / "night.zarr", 4), out))
    (out / runs.MANIFEST).unlink()
    text, _ = ask(monkeypatch, capsys, out)
    assert "state stopped, 4 of 4 cases done; the same command again completes the output" in text


def test_a_run_that_one_failure_stops_says_which_option_did_it(
    words: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    break_case(tmp_path / "night.zarr", 0)
    assert command(monkeypatch, *words, "--on-error", "stop") == Exit.FAILED_CASES
    assert "stopped, because a case failed (--on-error stop)" in capsys.readouterr().out


def test_wrong_usage_is_answered_before_the_model_is_loaded(
    words: list[object], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    for more in (["--cases", "99"], ["--part", "3/2"], ["--sampler", "none"]):
        assert command(monkeypatch, *words, *more) == Exit.USAGE
        assert "loading" not in capsys.readouterr().err


def test_a_report_that_cannot_be_written_where_the_user_says_is_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    out = tmp_path / "night.enhanced"
    inline(job(archive(tmp_path / "night.zarr", 2), out))
    (out / runs.REPORT).rename(tmp_path / "moved")
    (out / runs.REPORT).write_text("a file in its place")
    assert command(monkeypatch, "report", out) == Exit.USAGE
    assert len(capsys.readouterr().err.splitlines()) == 1
