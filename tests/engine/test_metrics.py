"""`run --metrics`: a file that Prometheus' node exporter can read, however a run ends."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from mcdiff_batch.engine.cli import main
from mcdiff_batch.engine.cli.terminal.progress import keep_metrics
from mcdiff_batch.engine.errors import Drained
from mcdiff_batch.engine.run.tracker import Progress
from mcdiff_batch.engine.telemetry.metrics import MetricsFile
from tests.support.running import archive, break_case, bundle

PROMTOOL = shutil.which("promtool")
SUCCESS = "mcdiff_run_last_success_timestamp_seconds"
AT = Progress(cases=9, done=4, failed=1, open=1, computed=2, rate=0.5, incidents=3, elapsed=8.0)


def read(path: Path) -> dict[str, float]:
    """The values of a file by name, and for counts by name and status; it is valid."""
    text = path.read_text()
    if PROMTOOL:
        call = [PROMTOOL, "check", "metrics"]
        done = subprocess.run(call, input=text, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    found = {}
    for family in parse(text):
        assert (family.type, bool(family.documentation)) == ("gauge", True)
        for name, labels, value, *_ in family.samples:
            assert labels["run"] == path.stem
            found[" ".join([name, *([labels["status"]] if "status" in labels else [])])] = value
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle, an archive of 5 cases, and the same with one damaged case."""
    folder = tmp_path_factory.mktemp("metrics")
    bundle(folder / "model")
    for name in ("sound", "broken"):
        archive(folder / f"{name}.zarr", 5)
    break_case(folder / "broken.zarr", 3)
    return folder


def run(monkeypatch: pytest.MonkeyPatch, place: Path, name: str, *words: object) -> int:
    fixed = ("--bundle", place / "model", "--devices", "cpu")
    call = ["mcdiff-batch", "run", place / f"{name}.zarr", *fixed, *words]
    monkeypatch.setattr(sys, "argv", list(map(str, call)))
    with pytest.raises(SystemExit) as end:
        main()
    assert isinstance(end.value.code, int)
    return end.value.code


def test_the_time_of_the_last_success_moves_with_a_success_only(
    monkeypatch: pytest.MonkeyPatch, place: Path, tmp_path: Path
) -> None:
    file = tmp_path / "night.prom"
    assert run(monkeypatch, place, "sound", "--output", tmp_path / "a", "--metrics", file) == 0
    first = read(file)
    assert first["mcdiff_run_cases done"] == first["mcdiff_run_selected_cases"] == 5
    assert (first["mcdiff_run_exit_code"], first["mcdiff_run_active"]) == (0, 0)
    assert first["mcdiff_run_flagged_cases"] == 0
    assert first[SUCCESS] > first["mcdiff_run_start_timestamp_seconds"]
    assert first["mcdiff_build_info"] == 1
    assert file.stat().st_mode & 0o777 == 0o644

    assert run(monkeypatch, place, "broken", "--output", tmp_path / "b", "--metrics", file) == 3
    second = read(file)
    assert (second["mcdiff_run_cases failed"], second["mcdiff_run_exit_code"]) == (1, 3)
    assert second[SUCCESS] == first[SUCCESS]

    assert run(monkeypatch, place, "absent", "--metrics", file) == 4
    third = read(file)
    assert (third["mcdiff_run_exit_code"], third[SUCCESS]) == (4, first[SUCCESS])
    assert "mcdiff_run_cases done" not in third  # it never counted any

    assert run(monkeypatch, place, "sound", "--output", tmp_path / "a", "--metrics", file) == 0
    assert read(file)[SUCCESS] > first[SUCCESS]
    assert [x.name for x in tmp_path.iterdir() if x.is_file()] == ["night.prom"]


def test_while_a_run_works_its_counts_are_there_and_the_last_exit_code_stays(
    tmp_path: Path,
) -> None:
    file = tmp_path / "night.prom"
    MetricsFile(file).write({"run_exit_code": 3})
    shown: list[Progress] = []
    during: list[dict[str, float]] = []

    def work() -> None:
        with keep_metrics(file, shown.append, print) as keep:
            during.append(read(file))
            keep.last = 0  # some seconds later
            keep(AT)
            during.append(read(file))
            raise Drained("stopped on a signal")

    with pytest.raises(Drained):
        work()
    assert [x["mcdiff_run_active"] for x in during] == [1, 1]
    counts = {"done": 4, "failed": 1, "open": 1, "left": 3}
    assert {x: during[1][f"mcdiff_run_cases {x}"] for x in counts} == counts
    assert during[1]["mcdiff_run_cases_per_second"] == 0.5
    assert (during[1]["mcdiff_run_exit_code"], during[1]["mcdiff_run_incidents"]) == (3, 3)
    assert SUCCESS not in during[1]
    assert shown == [AT]
    after = read(file)
    assert (after["mcdiff_run_exit_code"], after["mcdiff_run_active"]) == (75, 0)
    assert SUCCESS not in after


BAD = ["missing/x.prom", "night.txt", "sound.zarr/x.prom", "folder.prom", "link.prom"]
BAD += ["other.prom", "file/x.prom", f"{'x' * 250}.prom"]


@pytest.mark.parametrize("name", BAD, ids=lambda x: x[:20])
def test_a_place_that_cannot_be_used_is_refused_before_the_run_begins(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: Path,
    tmp_path: Path,
    name: str,
) -> None:
    (tmp_path / "folder.prom").mkdir()
    (tmp_path / "link.prom").symlink_to(tmp_path / "elsewhere.prom")
    (tmp_path / "other.prom").write_text("# TYPE apt_upgrades gauge\napt_upgrades 3\n")
    (tmp_path / "file").write_text("")
    file = (place if name.startswith("sound") else tmp_path) / name
    before = sorted(tmp_path.rglob("*"))
    words = ("--output", tmp_path / "out", "--metrics", file, "--progress", "json")
    assert run(monkeypatch, place, "sound", *words) == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert str(file) in last
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "other.prom").read_text().endswith("apt_upgrades 3\n")
    assert not (place / "sound.zarr/x.prom").exists()


def test_a_place_that_is_lost_does_not_end_the_run_and_is_said_once(tmp_path: Path) -> None:
    folder, warnings = tmp_path / "collector", list[str]()
    folder.mkdir()
    file = folder / "night.prom"
    with keep_metrics(file, lambda _: None, warnings.append) as keep:
        shutil.rmtree(folder)
        for _ in range(3):
            keep.last = 0
            keep(AT)
        assert len(warnings) == 1
        assert "the run goes on" in warnings[0]
        folder.mkdir()
    assert read(file)["mcdiff_run_exit_code"] == 0
    assert len(warnings) == 1


def test_a_dry_run_writes_no_metrics(
    monkeypatch: pytest.MonkeyPatch, place: Path, tmp_path: Path
) -> None:
    words = ("--output", tmp_path / "out", "--metrics", tmp_path / "night.prom", "--dry-run")
    assert run(monkeypatch, place, "sound", *words) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ['a"b\\c', "a\nb", "été", "a{run}"])
def test_a_label_is_escaped(tmp_path: Path, name: str) -> None:
    file = tmp_path / f"{name}.prom"
    MetricsFile(file).write({"run_exit_code": 3})
    MetricsFile(file).write({})
    assert read(file)["mcdiff_run_exit_code"] == 3


def test_what_an_earlier_file_holds_is_not_trusted(tmp_path: Path) -> None:
    file = tmp_path / "night.prom"
    head = "# TYPE mcdiff_run_active gauge\n"
    rows = ("nan", "1e999", "x", "1" * 5000, "9 9")
    lines = "".join(f'{SUCCESS}{{run="night"}} {x}\n' for x in rows)
    file.write_bytes((head + lines).encode() + b"\xff\x00" + b"mcdiff_" * 20000)
    with keep_metrics(file, lambda _: None, print):
        assert SUCCESS not in read(file)
    assert read(file)[SUCCESS] > 0


def test_the_exit_code_of_the_file_is_that_of_the_last_line_of_json(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: Path,
    tmp_path: Path,
) -> None:
    words = ("--output", tmp_path / "out", "--metrics", tmp_path / "x.prom", "--progress", "json")
    assert run(monkeypatch, place, "broken", *words) == 3
    last = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert read(tmp_path / "x.prom")["mcdiff_run_exit_code"] == last["exit_code"] == 3
