"""The report: true to the output, whatever state that is in, and safe whatever its data say."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import zarr

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.errors import UsageError
from mcdiff_batch.engine.image.columns import COLUMNS
from mcdiff_batch.engine.output import ledger
from mcdiff_batch.engine.output.ledger import Incident
from mcdiff_batch.engine.page.write import write_report
from mcdiff_batch.engine.report.collect import collect
from mcdiff_batch.engine.report.document import FailedCase, as_json
from mcdiff_batch.engine.report.timings import split_sessions
from mcdiff_batch.engine.report.unit_lines import UnitLine
from tests.support.pages import (
    CANARY,
    CASES,
    assert_safe,
    done,
    failed,
    leaves,
    output,
    read,
    stored,
)
from tests.support.running import archive, inline, job


def test_a_whole_run_is_told_in_one_sentence(night: Path) -> None:
    found = read(night / "report/index.html")
    assert "9 of 10 cases are enhanced, 1 failed." in found.text
    assert stored(night)["outcome"] == {"state": "failures", "exit_code": 3, "ended": "COMPLETED"}
    assert_safe(found)


def test_every_figure_of_the_page_is_in_report_json(night: Path) -> None:
    known = {str(x) for x in leaves(stored(night)) if isinstance(x, int | float)}
    found = read(night / "report/index.html")
    assert len(found.figures) > 40
    assert set(found.figures) <= known


def test_the_schema_has_a_version_and_its_parts(night: Path) -> None:
    data = stored(night)
    assert data["schema"] == 3
    assert sorted(data) == [
        "cases", "failures", "flagged", "gallery", "incidents", "latency", "machine", "outcome",
        "provenance", "quality", "schema", "stages", "throughput", "timeline", "version",
        "warnings", "work", "written_at",
    ]  # fmt: skip
    (device,) = data["stages"]
    assert sorted(device) == [
        "accounted_percent", "cases", "device", "lanes", "ms_per_case", "waiting_percent",
        "wall_seconds",
    ]  # fmt: skip
    assert sorted(data["timeline"]) == ["devices", "longest_waits", "seconds"]
    assert sorted(data["latency"]["batch"]) == [
        "count", "histogram", "max", "p50", "p90", "p95", "p99",
    ]  # fmt: skip
    assert sorted(data["machine"]) == [
        "cpu_percent", "gpus", "hosts", "notes", "resident_mib", "samples", "seconds", "xids",
    ]  # fmt: skip
    assert data["cases"]["done"] + data["cases"]["failed"] == CASES
    assert data["quality"]["cnr_log10"]["gain"]["cases"] == CASES - 1
    assert sum(data["quality"]["cnr_log10"]["histogram"]["after"]) == CASES - 1


def test_every_column_is_in_report_json_and_on_the_page_where_it_was_measured(night: Path) -> None:
    quality, text = stored(night)["quality"], read(night / "report/index.html").text
    assert set(quality) == {column.name for column in COLUMNS}
    for column in (x for x in COLUMNS if quality[x.name]["after"]["cases"]):
        assert column.title in text


def test_a_field_that_has_its_default_is_left_out_of_the_json() -> None:
    row = FailedCase(case=1, status="failed", reason="corrupt", detail="")
    assert as_json([row]) == [{"case": 1, "status": "failed", "reason": "corrupt", "detail": ""}]
    assert as_json({"row": replace(row, id="a")})["row"]["id"] == "a"


def test_names_appear_only_when_asked_for_and_paths_never(night: Path) -> None:
    for name in ("index.html", "report.json"):
        text = (night / "report" / name).read_text()
        assert CANARY not in text
        assert "night" not in text
    named = read(write_report(night, show_ids=True))
    assert_safe(named)
    assert f"{CANARY}-4<script>" in named.text
    write_report(night)


def test_an_unfinished_output_says_what_is_left(source: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.enhanced"
    inline(job(source, half, unit_size=2, max_failures=0))
    shutil.rmtree(half / "ledger")
    (half / "ledger").mkdir()
    (half / "manifest.json").unlink(missing_ok=True)
    (half / "report/timings.jsonl").write_text('{"at": 1, "torn')
    (half / "report/run_stats.json").unlink()
    text = read(write_report(half)).text
    assert "0 of 10 cases are enhanced, 10 still open." in text
    assert "not finished" in text
    assert "Run the same command again" in text


def test_a_failure_and_what_to_do_about_it_are_in_report_json(night: Path) -> None:
    (problem,) = stored(night)["failures"]["problems"]
    assert (problem["kind"], problem["total"]) == ("corrupt", 1)
    assert problem["command"] == "mcdiff-batch run --input ARCHIVE --retry-failed"


def test_a_run_says_when_it_began_and_ended_and_a_killed_one_when_it_began(
    night: Path, tmp_path: Path
) -> None:
    work = collect(night).work
    assert work.started_at
    assert work.finished_at
    assert work.started_at <= work.finished_at
    killed = shutil.copytree(night, tmp_path / "killed.enhanced")
    (killed / "report/run_stats.json").unlink()
    work = collect(killed).work
    assert (work.started_at, work.finished_at) == (collect(night).work.started_at, None)


def test_a_run_again_with_nothing_to_do_does_not_move_the_end(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "twice.enhanced"
    inline(job(source, target))
    stats = target / "report/run_stats.json"
    stats.write_text(stats.read_text().replace('"finished_at": "20', '"finished_at": "19'))
    inline(job(source, target))
    assert str(collect(target).work.finished_at).startswith("19")


def test_an_open_case_has_the_reason_of_its_last_incident(tmp_path: Path) -> None:
    entries = [replace(failed(k, ""), status="open") for k in range(3)]
    made = output(tmp_path / "open", [*entries, done(3)], 6)
    for detail in ("slow", "gone"):
        ledger.append_incident(made, Incident(kind="read", detail=detail, unit=0, case=1))
    ledger.append_incident(made, Incident(kind="killed", detail="by 9", unit=0))
    report = collect(made)
    assert [x.detail for x in report.failures.rows] == [
        "killed: by 9",
        "read: gone",
        "killed: by 9",
    ]
    (problem,) = report.failures.problems
    assert (problem.kind, problem.total) == ("open", report.cases.open) == ("open", 5)
    assert {x.kind for x in report.incidents.problems} == {"read", "killed"}


def test_warnings_about_the_archive_are_in_the_report(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zarr", 2)
    zarr.open_group(path).attrs["mcdiff"] = {"schema": 1}  # no spacing
    inline(job(path, tmp_path / "a.enhanced"))
    write_report(tmp_path / "a.enhanced")
    assert stored(tmp_path / "a.enhanced")["warnings"] == list(open_archive(path).warnings) != []


def test_a_host_is_named_only_when_asked_for(night: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "ward-7<b>")
    assert collect(night).host is None
    assert collect(night, show_host=True).host == "ward-7<b>"


def test_no_gpu_on_a_machine_without_one_is_no_error(night: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(night, tmp_path / "cpu.enhanced")
    with (copy / "report/telemetry.jsonl").open("a") as file:
        file.write('{"gpu_names": [], "notes": ["no GPU is watched: NVML is absent"]}\n')
    assert collect(copy).machine.notes == []
    lines = (copy / "report/timings.jsonl").read_text().replace('"cpu:0"', '"cuda:0"')
    (copy / "report/timings.jsonl").write_text(lines)
    assert "no GPU is watched: NVML is absent" in collect(copy).machine.notes


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="contains no run"):
        write_report(tmp_path)


def test_a_run_that_began_again_is_a_session_of_its_own() -> None:
    begun = ((7.0, 1.0), (7.0, 2.0), (90.0, 3.0))
    lines = [UnitLine(began=x, at=at, device="cpu:0", cases=1, lanes={}) for x, at in begun]
    assert [len(x) for x in split_sessions(lines)] == [2, 1]
