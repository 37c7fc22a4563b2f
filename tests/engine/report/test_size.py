"""The report of ten thousand cases, of few and of none."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcdiff_batch.engine.output import ledger
from mcdiff_batch.engine.page import page
from mcdiff_batch.engine.report.cases import count_bins, summarise
from mcdiff_batch.engine.report.collect import collect
from mcdiff_batch.engine.report.document import Summary
from mcdiff_batch.engine.report.gallery import Pictures, colour_labels, encode_png
from tests.support.pages import Reader, done, failed, output


def test_few_values_are_kept_one_by_one() -> None:
    few, many = (count_bins(after=np.arange(n, dtype=float)) for n in (19, 20))
    assert few is not None
    assert many is not None
    assert few.points == {"after": list(range(19))}
    assert (few.edges[0], few.edges[-1]) == (0, 18)
    assert many.points is None


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


def test_nothing_measured_is_no_distribution() -> None:
    nothing = np.array([np.nan, np.nan])
    assert summarise(nothing) == Summary(cases=0)
    assert count_bins(after=nothing) is None
    flat = count_bins(after=np.array([0.5, 0.5]))
    assert flat is not None
    assert flat.after is not None
    assert sum(flat.after) == 2
