"""Spans: every second of a device has its stage, and no number of units makes the files grow."""

import json
from collections import defaultdict
from pathlib import Path
from time import sleep
from typing import Any

import pytest

from mcdiff_batch.engine.image.frame import Image
from mcdiff_batch.engine.model.plan import Conditioning, Device
from mcdiff_batch.engine.page.write import write_report
from mcdiff_batch.engine.report import timeline, timings, unit_lines
from mcdiff_batch.engine.report.collect import collect
from mcdiff_batch.engine.report.timings import Times
from mcdiff_batch.engine.run.enhance import enhance
from mcdiff_batch.engine.run.protocol import UnitDone
from mcdiff_batch.engine.run.tracker import Tracker
from mcdiff_batch.engine.telemetry import tracefile
from mcdiff_batch.engine.telemetry.spans import Span, SpanLog, recording, span
from mcdiff_batch.engine.telemetry.timesheet import summarise_spans, union_seconds
from tests.support.fake import FakeMaker, FakePlan, InlineWorkers
from tests.support.running import archive, clean, committed, fault, inline, job

EPOCH = 1000.0


def model(stage: str, begin: float, end: float, own: float | None = None) -> Span:
    return Span(stage, "model", EPOCH + begin, EPOCH + end, end - begin if own is None else own)


def finishing(stage: str, begin: float, end: float, case: int = -1) -> Span:
    return Span(stage, "finishing", EPOCH + begin, EPOCH + end, end - begin, case)


UNIT = [
    model("start", 0, 2),
    model("load", 2, 3),
    Span("task", "feeding", EPOCH + 2.9, EPOCH + 3.6, 0.7),
    Span("read", "reading 1", EPOCH + 3.6, EPOCH + 4, 0.4, 7),
    model("wait", 3, 4),
    model("condition", 4, 5),
    model("step", 5, 7),
    model("batch", 4, 8, own=1.0),
    model("blocked", 8, 8.5),
    model("wait", 8.5, 8.6),
    finishing("idle", 3, 8),
    finishing("quality", 8, 9, case=7),
    finishing("commit", 9.5, 10),
]


def test_a_span_within_another_counts_for_itself_alone() -> None:
    log = SpanLog()
    with recording(log, "model", case=3), span("batch"), span("step"):
        pass
    step, batch = log.spans
    assert (step.stage, step.lane, step.case) == ("step", "model", 3)
    assert batch.begin <= step.begin <= step.end <= batch.end
    assert step.own + batch.own == pytest.approx(batch.end - batch.begin)


def test_where_nobody_records_nothing_is_kept() -> None:
    log = SpanLog()
    with recording(log, "model"):
        pass
    with span("step"):
        pass
    assert log.spans == []


def test_a_unit_comes_to_its_seconds_by_lane_and_stage() -> None:
    found = summarise_spans(UNIT, EPOCH)
    stages = found["lanes"]["model"]
    assert stages == pytest.approx(
        {"start": 2, "load": 1, "wait": 1.1, "condition": 1, "step": 2, "batch": 1, "blocked": 0.5}
    )
    assert (found["from"], found["to"]) == (0, 8.6)
    assert found["tail"] == pytest.approx(0.9)  # of quality from 8.6 to 9, and the commit
    assert found["batches"] == [4]
    assert found["cases"] == [5.4]  # from the begin of reading to the end of its quality


def test_an_idle_gap_has_a_cause() -> None:
    causes = {(cause, at): seconds for cause, at, seconds in summarise_spans(UNIT, EPOCH)["gaps"]}
    assert causes[("task", 3.0)] == 1  # a unit was not at hand for most of it
    assert causes[("wait", 8.5)] == pytest.approx(0.1)
    assert causes[("blocked", 8.0)] == 0.5
    assert causes[("start", 0.0)] == 2


def test_overlapping_parts_are_covered_once() -> None:
    assert union_seconds([(0, 2), (1, 3), (5, 6), (5.5, 5.6), (9, 8)]) == 4


def line(device: str, at: float, spans: list[Span], began: float = 7.0) -> dict[str, Any]:
    counts = {"done": 1, "failed": 0}
    head = {"began": began, "device": device, "at": at, "unit": 0, "counts": counts}
    return head | summarise_spans(spans, EPOCH)


def written(out: Path, *lines: dict[str, Any]) -> Times:
    (out / "report").mkdir(parents=True)
    (out / "report/timings.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    return timings.collect(out)


def test_what_is_accounted_for_is_a_share_of_the_wall_time(tmp_path: Path) -> None:
    lost = [x for x in UNIT if x.stage != "step"]
    whole = written(tmp_path / "whole", line("cpu:0", 10.0, UNIT), line("cpu:1", 10.0, lost))
    first, second = whole.stages
    assert first.wall_seconds == 10
    assert first.accounted_percent == 95  # 8.6 s of the model, 0.9 s of finishing after it
    assert second.accounted_percent == 75  # two seconds less are known


def test_sessions_add_up(tmp_path: Path) -> None:
    found = written(tmp_path, line("cpu:0", 10.0, UNIT), line("cpu:0", 20.0, UNIT, began=99.0))
    assert found.work.sessions == 2
    (device,) = found.stages
    assert device.wall_seconds == 30
    assert device.accounted_percent == pytest.approx(100 * 19 / 30, abs=0.01)


def test_the_timeline_puts_waits_where_they_were(tmp_path: Path) -> None:
    found = written(tmp_path, line("cpu:0", 10.0, UNIT)).timeline
    assert found is not None
    shares = found.devices[0].shares
    at = lambda cause, second: shares[cause][int(second / 10 * timeline.COLUMNS)]
    assert (at("start", 1), at("load", 2.5), at("task", 3.5), at("blocked", 8.25)) == (1, 1, 1, 1)
    assert at("work", 6) == pytest.approx(1, abs=0.01)
    assert sum(sum(x[k] for x in shares.values()) > 1.001 for k in range(timeline.COLUMNS)) == 0
    total = sum(map(sum, shares.values())) / timeline.COLUMNS * 10
    assert total == pytest.approx(8.6, abs=0.05)
    assert [x.cause for x in found.longest_waits][:2] == ["start", "load"]


def test_a_percentile_needs_enough_cases(tmp_path: Path) -> None:
    spans = [model("batch", k, k + 1) for k in range(70)]
    found = written(tmp_path, line("cpu:0", 70.0, spans)).latency.batch
    assert found.count == 70
    assert (found.p50, found.p95) == (1, 1)
    assert found.p99 is None


def test_a_run_in_processes_accounts_for_nearly_all_of_its_time(tmp_path: Path) -> None:
    source = archive(tmp_path / "a.zarr", 8)
    enhance(job(source, tmp_path / "out"), FakeMaker(delay=0.25))
    found = timings.collect(tmp_path / "out")
    (device,) = found.stages
    assert 97 <= device.accounted_percent <= 100.5  # of over 4 s: others may use the machine too
    assert {"read", "decode", "frame", "condition", "step", "relabel", "quality", "encode"} <= set(
        device.ms_per_case
    )
    assert {"write", "fsync", "commit", "wait", "idle", "start", "load", "blocked"} <= set(
        device.ms_per_case
    )
    assert device.lanes["model"]["step"] >= 8 / 2 * 3 * 0.25
    assert found.latency.case.count == 8
    assert found.latency.batch.count == 4


def test_the_time_of_a_lost_worker_is_not_accounted_for(tmp_path: Path) -> None:
    source = archive(tmp_path / "a.zarr", 4)
    kill = fault("kill", source, case=1, times=1, counter=tmp_path / "counter")
    enhance(job(source, tmp_path / "out"), FakeMaker(faults=(kill,)))
    (device,) = timings.collect(tmp_path / "out").stages
    assert device.cases == 4
    assert device.accounted_percent < 90  # the start of the first process alone is more


def test_a_copy_to_a_device_is_a_stage_of_its_own(tmp_path: Path) -> None:
    source = archive(tmp_path / "a.zarr", 2)
    plan = lambda device, batch: Copying(batch=batch)
    enhance(job(source, tmp_path / "out"), plan, workers=InlineWorkers)
    (device,) = timings.collect(tmp_path / "out").stages
    assert device.lanes["model"]["host-to-device"] >= 0.02
    assert "copy to device" in write_report(tmp_path / "out").read_text()


class Copying(FakePlan):
    """A plan with a device of its own."""

    def condition(self, depths: Image, weights: Image, strip: Image, scan: Image) -> Conditioning:
        with span("host-to-device"):
            sleep(0.02)
        return super().condition(depths, weights, strip, scan)


def test_time_is_in_no_file_that_is_compared(tmp_path: Path) -> None:
    """P1: two runs that took different time come to the same bytes."""
    source = archive(tmp_path / "a.zarr", 5)
    enhance(job(source, tmp_path / "slow"), FakeMaker(delay=0.02))
    assert committed(tmp_path / "slow") == clean(source, tmp_path / "fast")


def trace_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "report/trace.json").read_text())
    return found


def test_the_trace_keeps_to_chromes_format(tmp_path: Path) -> None:
    source = archive(tmp_path / "a.zarr", 6)
    inline(job(source, tmp_path / "out", unit_size=2))
    write_report(tmp_path / "out", archive=source)
    events = trace_of(tmp_path / "out")["traceEvents"]
    named = {(x["pid"], x["tid"]) for x in events if x["name"] == "thread_name"}
    lanes = defaultdict(list)
    for x in events:
        assert {"ph", "name", "pid", "tid"} <= x.keys()
        if x["ph"] == "X":
            assert x["dur"] >= 0
            lanes[x["pid"], x["tid"]].append((x["ts"], -x["dur"]))
    assert set(lanes) <= named
    for spans in lanes.values():
        assert_nested(spans)
    names = {x["name"] for x in events if x["ph"] == "X"}
    assert {"read", "frame", "condition", "step", "quality", "encode", "fsync", "commit"} <= names


def assert_nested(spans: list[tuple[float, float]]) -> None:
    """A viewer draws spans of a thread as a stack: each lies in the one that is open, or after."""
    open_until: list[float] = []
    for begin, minus in sorted(spans):
        while open_until and open_until[-1] <= begin + 0.2:
            open_until.pop()
        end = begin - minus
        assert not open_until or end <= open_until[-1] + 0.2  # microseconds, rounded
        open_until.append(end)


def test_queues_are_counter_tracks(tmp_path: Path) -> None:
    source = archive(tmp_path / "a.zarr", 4)
    enhance(job(source, tmp_path / "out", unit_size=2), FakeMaker())
    events = tracefile.export_trace(("", tmp_path / "out"))["traceEvents"]
    counters = [x for x in events if x["ph"] == "C"]
    assert {"batches framed", "batches computed"} <= {x["name"] for x in counters}
    assert all(x["args"][x["name"]] >= 0 for x in counters)


def test_a_long_run_keeps_its_first_and_last_units(tmp_path: Path) -> None:
    (tmp_path / tracefile.FOLDER).mkdir(parents=True)
    counts = dict.fromkeys(("done", "failed", "open", "skipped"), 0)
    tracker = Tracker(tmp_path, 1000, counts, None, lambda _: None)
    for unit in range(200):
        done = {"done": 1, "failed": 0, "open": 0, "skipped": 0}
        log = SpanLog([model("step", unit, unit + 1)])
        message = UnitDone(unit=unit, counts=done, incidents=(), log=log)
        tracker.record_unit(Device(kind="cpu", index=0), message)
    events = tracefile.export_trace(("", tmp_path))["traceEvents"]
    units = [x["args"]["unit"] for x in events if x["ph"] == "X"]
    assert units[: tracefile.FIRST] == list(range(tracefile.FIRST))
    later = units[tracefile.FIRST :]
    assert later == list(range(200 - len(later), 200))
    assert tracefile.LAST <= len(later) <= 2 * tracefile.LAST
    assert len(list(unit_lines.read_lines(tmp_path))) == 200


def test_a_unit_of_very_many_spans_loses_its_steps_first() -> None:
    spans = [model("step", k, k + 1) for k in range(2 * tracefile.MOST)]
    kept = tracefile._spans([model("load", 0, 1), *spans, model("relabel", 1, 2)], EPOCH)
    assert [x[0] for x in kept] == ["load", "relabel"]


def test_lines_that_are_none_of_ours_are_left_out(tmp_path: Path) -> None:
    source = archive(tmp_path / "a.zarr", 2)
    inline(job(source, tmp_path / "out", unit_size=2))
    before = len(tracefile.export_trace(("", tmp_path / "out"))["traceEvents"])
    for name in (f"{tracefile.FOLDER}/first.jsonl", "report/timings.jsonl"):
        with (tmp_path / "out" / name).open("a") as file:
            file.write('{"began": "x"}\n[]\n{"began": 1, "device": 0, "unit": 1, "spans": [1]}\n{"')
    assert len(tracefile.export_trace(("", tmp_path / "out"))["traceEvents"]) == before
    assert collect(tmp_path / "out").work.cases == 2
