"""The report: true to the output, whatever state that is in, and safe whatever its data say."""

import io
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from PIL import Image

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.errors import UsageError
from mcdiff_batch.engine.image.columns import COLUMNS, LUMBAR
from mcdiff_batch.engine.image.frame import Frame, grey, place
from mcdiff_batch.engine.image.spine import read_spine
from mcdiff_batch.engine.model.framing import frame_case
from mcdiff_batch.engine.output import ledger
from mcdiff_batch.engine.output.ledger import Incident
from mcdiff_batch.engine.page import page
from mcdiff_batch.engine.page.write import write_report
from mcdiff_batch.engine.report.cases import count_bins, summarise
from mcdiff_batch.engine.report.choice import Pick, choose_cases, take_evenly
from mcdiff_batch.engine.report.collect import collect, draw_pictures
from mcdiff_batch.engine.report.document import FailedCase, Summary, as_json
from mcdiff_batch.engine.report.gallery import (
    Pictures,
    PictureSource,
    colour_labels,
    encode_png,
    find_angles,
)
from mcdiff_batch.engine.report.timings import split_sessions
from mcdiff_batch.engine.report.unit_lines import UnitLine
from tests.support.pages import (
    HOSTILE,
    Reader,
    assert_safe,
    done,
    failed,
    leaves,
    output,
    read,
    stored,
)
from tests.support.running import CONTRACT, archive, break_case, inline, job

CASES = 10
CANARY = "Jane-Doe-1970"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Case 4 is damaged; ids are names; the spacing is unknown, so that CNR is measured."""
    path = archive(tmp_path_factory.mktemp("report") / "night.zarr", CASES)
    names = np.array([f"{CANARY}-{k}{HOSTILE}" for k in range(CASES)], object)
    group = zarr.open_group(path)
    group.attrs["mcdiff"] = {"schema": 1}
    group.create_array("case_id", shape=(CASES,), chunks=(CASES,), dtype="string")[...] = names
    break_case(path, 4)
    return path


@pytest.fixture(scope="module")
def night(source: Path) -> Path:
    """The output of a whole run, with its report."""
    output = source.parent / "night.enhanced"
    inline(job(source, output, unit_size=2))
    write_report(output)
    return output


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


def test_before_is_what_the_model_was_given(source: Path, night: Path) -> None:
    case = frame_case(open_archive(source).read(0), CONTRACT)
    shown = draw_pictures(night, collect(night))[0]
    expected = grey(case.depths[case.optimal], case.strip)
    top, left = case.placement.top, case.placement.left
    inner = expected[top : top + case.placement.height, left : left + case.placement.width]
    assert shown.before is not None
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(shown.before))), inner)


def test_results_on_the_inputs_grid_are_shown_on_the_frame(source: Path) -> None:
    target = source.parent / "grid.enhanced"
    inline(job(source, target, grid="input"))
    shown = draw_pictures(target, collect(target, archive=source), source)[0]
    assert shown.before is not None
    assert shown.after is not None
    sizes = {Image.open(io.BytesIO(x)).size for x in (shown.before, shown.after)}
    assert sizes == {(13, 32)}


def test_without_the_archive_the_results_are_shown_and_the_rest_is_said(
    night: Path, tmp_path: Path
) -> None:
    alone = shutil.copytree(night, tmp_path / "moved.enhanced")
    text = read(write_report(alone)).text
    assert "archive is not where it was" in text
    shown = draw_pictures(alone, collect(alone))[0]
    assert shown.before is None
    assert shown.after is not None


def test_an_archive_that_changed_is_not_shown(night: Path, tmp_path: Path) -> None:
    other = archive(tmp_path / "other.zarr", 3)
    assert collect(night, archive=other).gallery.before == "changed"


def test_a_damaged_result_is_left_out(night: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(night, tmp_path / "broken.enhanced")
    for shard in (broken / "images.zarr/enhanced/c").rglob("0"):
        if shard.is_file():
            shard.write_bytes(b"no shard")
    assert all(x.after is None for x in draw_pictures(broken, collect(broken)).values())
    assert_safe(read(write_report(broken)))


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


def test_flagged_cases_come_first() -> None:
    gain = np.array([-1.0, -3, 1, np.nan, *[2.0] * 96])
    agreement = np.array([0.9, 0.98, 0.1, np.nan, *[0.97] * 5, *[0.99] * 91])
    flagged = np.zeros(100, int)
    flagged[[50, 4, 60]] = 1, 1, 2
    worst = choose_cases(list(range(100)), gain, agreement, flagged.tolist())
    assert [x.case for x in worst[:9]] == [60, 4, 50, 2, 0, 5, 6, 7, 1]
    assert [x.flag for x in worst[:9]] == [*["gate"] * 3, *["agreement"] * 5, "cnr"]
    assert worst[9] == Pick(case=3)
    assert len(worst) == len({x.case for x in worst}) == 24


def test_failed_cases_are_no_cards(night: Path) -> None:
    shown = {x["case"] for x in stored(night)["gallery"]["cases"]}
    assert shown == set(range(CASES)) - {4}
    assert [x["case"] for x in stored(night)["failures"]["rows"]] == [4]


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


def test_few_values_are_kept_one_by_one() -> None:
    few, many = (count_bins(after=np.arange(n, dtype=float)) for n in (19, 20))
    assert few is not None
    assert many is not None
    assert few.points == {"after": list(range(19))}
    assert (few.edges[0], few.edges[-1]) == (0, 18)
    assert many.points is None


def test_no_gpu_on_a_machine_without_one_is_no_error(night: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(night, tmp_path / "cpu.enhanced")
    with (copy / "report/telemetry.jsonl").open("a") as file:
        file.write('{"gpu_names": [], "notes": ["no GPU is watched: NVML is absent"]}\n')
    assert collect(copy).machine.notes == []
    lines = (copy / "report/timings.jsonl").read_text().replace('"cpu:0"', '"cuda:0"')
    (copy / "report/timings.jsonl").write_text(lines)
    assert "no GPU is watched: NVML is absent" in collect(copy).machine.notes


def test_the_lines_of_an_angle_are_those_of_the_most_tilted_levels() -> None:
    labels = np.zeros((128, 64), np.uint8)
    labels[20:30, 10:54] = labels[55:65, 10:54] = 3
    for column in range(10, 54):
        labels[90 + column // 2 : 100 + column // 2, column] = 3  # 27 degrees, clockwise
    degrees = read_spine(labels, (1.0, 1.0)).lumbar_deg
    where = place((256, 128), Frame(height=128, width=64))
    (angle,) = find_angles(labels, (1.0, 1.0), where, done(0, **{LUMBAR.after: degrees}))
    flat, steep = sorted(angle.lines, key=lambda x: x.y2)
    assert angle.degrees == degrees == pytest.approx(27, abs=3)
    assert (flat.y1 + flat.y2) / 2 == pytest.approx(25, abs=1)
    tilts = [math.degrees(math.atan2(x.y2 - x.y1, x.x2 - x.x1)) for x in (flat, steep)]
    assert tilts[1] - tilts[0] == pytest.approx(degrees)
    assert (steep.x1 + steep.x2) / 2 == pytest.approx(32, abs=1)


def test_an_angle_that_the_ledger_does_not_have_is_not_drawn() -> None:
    labels = np.zeros((128, 64), np.uint8)
    labels[20:30, 10:54] = labels[55:65, 10:54] = 3
    where = place((256, 128), Frame(height=128, width=64))
    for entry in (done(0), done(0, **{LUMBAR.after: 12.0}), done(0, **{LUMBAR.after: None})):
        assert not list(find_angles(labels, (1.0, 1.0), where, entry))
    assert list(find_angles(labels, (1.0, 1.0), where, done(0, **{LUMBAR.after: 0.0})))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    entries = [failed(k, detail="x" * 200) if k % 10 == 3 else done(k) for k in range(10_000)]
    made = output(tmp_path_factory.mktemp("large") / "large", entries, 10_000)
    (made / "report").mkdir()
    with (made / "report/timings.jsonl").open("w") as file:
        for unit in range(312):
            file.write(json.dumps(timed(unit)) + "\n")
    return made


def timed(unit: int) -> dict[str, Any]:
    """A line of a unit of 32 cases in 64 s, of one of four devices."""
    begin, rng = unit // 4 * 64.0, np.random.default_rng(unit)
    gaps = [["wait", begin + 4 * k, 1 + k / 16] for k in range(16)]
    model = {"wait": 23.5, "step": 40.5}
    return {
        "began": 1.0,
        "device": f"cuda:{unit % 4}",
        "unit": unit,
        "at": begin + 64,
        "counts": {"done": 32, "failed": 0},
        "lanes": {"model": model, "reading": {"read": 9.0}, "finishing": {"encode": 2.0}},
        "from": begin,
        "to": begin + 64,
        "tail": 0.0,
        "gaps": gaps,
        "batches": rng.uniform(4, 8, 4).tolist(),
        "cases": rng.uniform(10, 90, 32).tolist(),
    }


def test_ten_thousand_cases_take_less_than_10_mb(large: Path) -> None:
    report = collect(large)
    noise = np.random.default_rng(0).integers(0, 256, (512, 128), np.uint8)
    grain = encode_png(noise), encode_png(colour_labels(noise % 4))
    worst = Pictures(before=grain[0], after=grain[0], labels=grain[1])
    shown = page.render(report, {x.case: worst for x in report.gallery.cases})
    assert len(shown.encode()) < 10e6
    assert report.latency.case.count == 312 * 32
    assert report.timeline is not None
    assert len(report.timeline.devices) == 4
    assert report.stages[0].accounted_percent == 100
    assert report.failures.total == 1000
    assert len(report.failures.rows) == 200
    assert "Not all are listed" in Reader(shown).text


def test_a_damaged_record_is_counted_and_its_cases_are_open(large: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(large, tmp_path / "copy")
    (copy / ledger.file_name(3)).write_text("{")
    report = collect(copy)
    assert report.cases.damaged_records == 1
    assert report.cases.open == 500
    assert report.outcome.state == "stopped"


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="contains no run"):
        write_report(tmp_path)


def test_a_run_that_began_again_is_a_session_of_its_own() -> None:
    begun = ((7.0, 1.0), (7.0, 2.0), (90.0, 3.0))
    lines = [UnitLine(began=x, at=at, device="cpu:0", cases=1, lanes={}) for x, at in begun]
    assert [len(x) for x in split_sessions(lines)] == [2, 1]


def test_nothing_measured_is_no_distribution() -> None:
    nothing = np.array([np.nan, np.nan])
    assert summarise(nothing) == Summary(cases=0)
    assert count_bins(after=nothing) is None
    flat = count_bins(after=np.array([0.5, 0.5]))
    assert flat is not None
    assert flat.after is not None
    assert sum(flat.after) == 2


def test_an_even_choice_takes_both_ends() -> None:
    assert take_evenly(list(range(100)), 3) == [0, 50, 99]
    assert take_evenly([5], 3) == [5]


def test_a_missing_image_is_no_picture(tmp_path: Path) -> None:
    source = PictureSource(out=tmp_path, frame=CONTRACT.frame, archive=None)
    shown = source.draw(done(0))
    assert shown == Pictures(marks=shown.marks)
    assert shown.marks is not None
    assert math.isnan(shown.marks.mm)
