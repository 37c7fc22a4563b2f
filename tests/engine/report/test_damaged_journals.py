"""A line of the measurements that is damaged is left out; no damage to them ends a command."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.errors import Exit
from mcdiff_batch.engine.files import append_json
from mcdiff_batch.engine.page import write
from mcdiff_batch.engine.page.page import render
from mcdiff_batch.engine.report.collect import collect
from mcdiff_batch.engine.report.document import as_json
from mcdiff_batch.engine.telemetry.hosts import HOSTS, read_usage
from mcdiff_batch.engine.telemetry.tracefile import export_trace
from tests.support.crafting import command
from tests.support.running import archive, bundle

NUMBERS = ("NaN", "-Infinity", "1e300", "1" + "0" * 40, '"7"', "null", "[]", "true", "[" * 9999)
FIELDS = {  # a place in each file: what stands before the number
    "timings.jsonl": ('"at":', '"tail":', '"from":', r'"batches":\[', '"done":', '"encode":'),
    "telemetry.jsonl": ('"at":', '"began":', '"cpu_percent":', '"resident_mib":'),
    "spans/first.jsonl": ('"began":', '"unit":', r'\["[a-z]+","[a-z]+",'),
    "run_stats.json": ('"began": ', '"seconds": '),
}
PLACES = [(name, field) for name, fields in FIELDS.items() for field in fields]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(tmp_path_factory.mktemp("model") / "bundle")


@pytest.fixture(scope="module")
def small(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of a run by the command; its output lies beside it."""
    path = archive(tmp_path_factory.mktemp("small") / "a.zarr", 4)
    with pytest.MonkeyPatch.context() as patch:
        assert run(patch, path, path.with_suffix(".enhanced"), model) == Exit.DONE
    return path


def run(patch: pytest.MonkeyPatch, source: Path, output: Path, model: Path) -> int:
    options = ("--bundle", model, "--devices", "cpu", "--unit-size", 2)
    return command(patch, "run", source, "--output", output, *options)


def copy(source: Path, tmp_path: Path) -> Path:
    return shutil.copytree(source.with_suffix(".enhanced"), tmp_path / "a.enhanced")


def damage(path: Path, field: str, number: str) -> None:
    """Puts `number` in the place of the first one behind `field`."""
    pattern = f"({field})[-+.e0-9]+"
    text, count = re.subn(pattern, lambda x: x[1] + number, path.read_text(), count=1)
    assert count == 1
    path.write_text(text)


@pytest.mark.parametrize(("name", "field"), PLACES)
def test_a_number_that_cannot_be_one_does_not_spoil_the_report(
    small: Path, tmp_path: Path, name: str, field: str
) -> None:
    whole = (small.with_suffix(".enhanced") / "report" / name).read_text()
    out, source = copy(small, tmp_path), open_archive(small)
    for number in NUMBERS:
        (out / "report" / name).write_text(whole)
        damage(out / "report" / name, field, number)
        report = collect(out, archive=source)
        json.dumps([as_json(report), export_trace(("", out))], allow_nan=False)
        render(report, {})
        assert report.work.cases == (2 if name == "timings.jsonl" else 4)


def test_a_line_of_hosts_that_is_damaged_is_left_out(small: Path, tmp_path: Path) -> None:
    out = copy(small, tmp_path)
    for device, mean in (("host1/cpu:0", 5.0), ("host2/cpu:0", 1e300), ("host3/cpu:0", None)):
        append_json(out / HOSTS, {"began": 1.0, "device": device, "figures": {"x": [mean, 6.0]}})
    append_json(out / HOSTS, {"began": float("inf"), "device": "host4/cpu:0", "figures": {}})
    assert read_usage(out) == {"host1/cpu:0": {"x": (5.0, 6.0)}}
    assert [x.device for x in collect(out).machine.hosts] == ["host1/cpu:0"]


@pytest.mark.parametrize(
    "change",
    [{"seconds": None}, {"began": []}, {"seconds": "x"}, {"seconds": -1}, {"began": {}}, {}],
)
def test_a_run_ends_as_its_cases_did_whatever_run_stats_says(
    small: Path,
    model: Path,
    tmp_path: Path,
    change: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = copy(small, tmp_path)
    stats = out / "report/run_stats.json"
    rows = json.loads(stats.read_text())["runs"]
    stats.write_text(json.dumps({"runs": [rows[0] | change if change else [7], *rows[1:], None]}))
    assert run(monkeypatch, small, out, model) == Exit.DONE
    assert "warning" not in capsys.readouterr().err
    assert json.loads((out / "report/report.json").read_text())["work"]["cases"] == 4


def test_a_report_that_fails_in_any_way_is_a_warning_of_the_run(
    small: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("a\x1b[2Jb")

    out = copy(small, tmp_path)
    monkeypatch.setattr(write, "write_report", fail)
    assert run(monkeypatch, small, out, model) == Exit.DONE
    out_text, err = capsys.readouterr()
    assert "warning: the report is not written: unexpected KeyError" in err
    assert "\x1b" not in err
    assert "4 of 4 cases done" in out_text
