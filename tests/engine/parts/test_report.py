"""The report of a run in parts."""

import json
import os
import shutil
from pathlib import Path

from mcdiff_batch.engine.output import locks
from mcdiff_batch.engine.page.write import write_report
from mcdiff_batch.engine.report.collect import collect
from mcdiff_batch.engine.report.parts import MOST_SHOWN
from tests.support.parts import CASES, do, finish, part
from tests.support.running import fault, inline, job


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
