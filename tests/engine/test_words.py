"""What the command line says to someone who sees it for the first time, and after a bad night."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import zarr

from mcdiff_batch.engine.cli.terminal.outcome import describe_failures, name_devices
from mcdiff_batch.engine.errors import Exit, FingerprintError, UsageError
from mcdiff_batch.engine.model.ladder import choose
from mcdiff_batch.engine.model.plan import Device
from mcdiff_batch.engine.output import ledger
from mcdiff_batch.engine.output.ledger import Incident
from mcdiff_batch.engine.output.places import default_archive, default_output
from mcdiff_batch.engine.run.job import resolve
from mcdiff_batch.engine.text import format_bytes, name_device, natural_order
from tests.support.crafting import CLI, command
from tests.support.running import CONTRACT, archive, break_case, bundle, cpus, fault, inline, job

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of five cases, one of them broken, a bundle and the output of a run."""
    folder = tmp_path_factory.mktemp("words")
    source = archive(folder / "my night.zarr", 5)
    break_case(source, 1)
    inline(job(source, folder / "my night.enhanced", unit_size=2))
    bundle(folder / "tiny")
    return folder


@pytest.fixture
def night(folder: Path, tmp_path: Path) -> Path:
    """A copy, with the working directory's usual clutter."""
    return shutil.copytree(folder, tmp_path / "here")


# --- run


def test_the_archive_is_an_argument_or_an_option(
    night: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(night)
    words = ("--bundle", "tiny", "--output", "new", "--dry-run")
    for named in (
        ("my night.zarr",),
        ("--input", "my night.zarr"),
        ("my night.zarr", "--input", "my night.zarr/"),
    ):
        assert command(monkeypatch, "run", *named, *words) == Exit.DONE
        assert "5 cases in 1 unit" in capsys.readouterr().out
    shutil.copytree("my night.zarr", "other.zarr")
    for named in ((), ("my night.zarr", "other.zarr"), ("other.zarr", "--input", "my night.zarr")):
        assert command(monkeypatch, "run", *named, *words) == Exit.USAGE
        assert "archive" in capsys.readouterr().err
    assert not (night / "new").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("my night.enhanced", "is the output of a run, expected an archive, such as my night.zarr"),
        ("my nigth.zarr", "does not exist; did you mean my night.zarr?"),
    ],
)
def test_a_name_that_is_no_archive_is_answered_with_the_archive(
    night: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, name: str, said: str
) -> None:
    monkeypatch.chdir(night)
    assert command(monkeypatch, "run", name) == Exit.INPUT_INVALID
    assert f"error: {name}: {said}\n" in capsys.readouterr().err


def test_the_first_line_comes_before_anything_slow_and_warnings_come_with_it(night: Path) -> None:
    source = night / "my night.zarr"
    zarr.open_group(source).attrs["mcdiff"] = {"schema": 1}
    words = ["run", source, "--bundle", night / "tiny", "--output", night / "new"]
    process = subprocess.Popen(  # without a buffer, in which `communicate` would lose lines
        [*CLI, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    )
    assert process.stderr is not None
    assert process.stderr.readline() == b"loading the model ...\n"
    assert not (night / "new").exists()
    said, told = (x.decode() for x in process.communicate(timeout=120))
    assert process.returncode == Exit.FAILED_CASES
    assert "4 of 5 cases done, 1 failed" in said
    warnings = [x for x in told.splitlines() if x.startswith("warning: ")]
    assert any("pixel" in x for x in warnings), told


def test_warnings_do_not_spoil_a_stream_of_json(night: Path) -> None:
    source = night / "my night.zarr"
    zarr.open_group(source).attrs["mcdiff"] = {"schema": 1}
    words = ["run", source, "--bundle", night / "tiny", "--output", night / "new"]
    done = subprocess.run([*CLI, *words, "--progress", "json"], capture_output=True, text=True)
    lines = [json.loads(x) for x in done.stderr.splitlines()]
    assert "warning" in lines[0]
    assert lines[-1]["exit_code"] == done.returncode == Exit.FAILED_CASES


def test_a_dry_run_beside_a_run_says_what_is_left_and_writes_nothing(
    night: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    source, out, model = night / "my night.zarr", night / "part.enhanced", night / "tiny"
    words = ("run", source, "--output", out, "--bundle", model)
    assert command(monkeypatch, *words, "--unit-size", 2) == Exit.FAILED_CASES
    (out / "ledger/000002.json").unlink()
    before = {x: x.stat().st_mtime_ns for x in out.rglob("*")}
    capsys.readouterr()
    assert command(monkeypatch, *words, "--dry-run") == Exit.DONE
    said = capsys.readouterr().out
    assert "finished    4 cases\n" in said
    assert "to do       1 case in 1 unit\n" in said
    assert "disk space  up to less than 1 KiB" in said or "KiB" in said
    assert command(monkeypatch, *words, "--retry-failed", "--dry-run") == Exit.DONE
    assert "to do       3 cases in 2 units\n" in capsys.readouterr().out
    assert command(monkeypatch, *words, "--seed", 9, "--dry-run") == Exit.FINGERPRINT_DIFFERS
    assert {x: x.stat().st_mtime_ns for x in out.rglob("*")} == before
    assert command(monkeypatch, *words) == Exit.FAILED_CASES
    capsys.readouterr()
    assert command(monkeypatch, *words, "--dry-run") == Exit.DONE
    said = capsys.readouterr().out
    assert "to do       nothing\n" in said
    assert "disk space  none\n" in said


def test_a_ladder_that_differs_is_told_by_its_length(folder: Path) -> None:
    asked = job(folder / "my night.zarr", folder / "my night.enhanced", unit_size=2, steps=12)
    message = r"ladder was \d+ steps? \(.*\) when this output was begun, now it is 12 steps \("
    with pytest.raises(FingerprintError, match=message):
        resolve(asked)


def test_ladders_are_listed_in_the_order_of_their_numbers() -> None:
    from dataclasses import replace

    fitted = [
        replace(CONTRACT.sampler, solver="fitted", nfe=n, ladder=tuple(range(n, 0, -1)))
        for n in (16, 4, 100, 8)
    ]
    model = replace(CONTRACT, ladders=tuple(fitted))
    with pytest.raises(UsageError, match="only of: 4, 8, 16, 100;"):
        choose(model, CONTRACT.sampler.temperature, "fitted", 5)


def test_cases_that_count_down_are_turned_round(
    night: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    words = ("run", night / "my night.zarr", "--bundle", night / "tiny", "--output", night / "o")
    assert command(monkeypatch, *words, "--cases", "4-2") == Exit.USAGE
    assert "'4-2' counts down; write 2-4" in capsys.readouterr().err


# --- cases that are not done


def test_the_reason_of_an_open_case_is_on_the_terminal(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    source, out = folder / "my night.zarr", tmp_path / "out"
    inline(job(source, out, unit_size=2), faults=(fault("nan", source, 3),))
    lines = describe_failures(out)
    assert lines[0].startswith("case 1: failed corrupt: chunk 1.0.0.0 of depths")
    assert lines[1] == (
        "case 3: open: model, the model's result holds NaN or infinity; the next run tries it again"
    )
    assert command(monkeypatch, "status", out) == Exit.DONE
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"{out}: ")
    assert "3 of 5 cases done, 1 failed, 1 left" in said[0]
    assert said[1:] == lines


def test_a_unit_that_was_left_has_its_reason_too(folder: Path, tmp_path: Path) -> None:
    out = shutil.copytree(folder / "my night.enhanced", tmp_path / "out")
    (out / "ledger/000002.json").unlink()
    hang = Incident(kind="hang", detail="no sign of life for 300 s\x1b[31m", unit=2)
    ledger.append_incident(out, hang)
    assert describe_failures(out)[-1] == (
        "unit 2 is left: hang, no sign of life for 300 s\\x1b[31m; the next run tries it again"
    )


def test_done_never_counts_a_case_that_failed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    out = folder / "my night.enhanced"
    assert command(monkeypatch, "status", out) == Exit.DONE
    assert f"{out}: state complete, 4 of 5 cases done, 1 failed\n" in capsys.readouterr().out


# --- names of runs


@pytest.mark.parametrize("words", [("status",), ("verify",), ("report",)])
def test_what_is_no_run_is_answered_with_the_run_that_was_meant(
    night: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(night)
    meant = {
        "my night.zarr": "my night.enhanced",
        "my night": "my night.enhanced",
        "my nigth.enhanced": "my night.enhanced",
        "my night.enhanced/ledger": "my night.enhanced",
        ".": "my night.enhanced",
    }
    for name, run in meant.items():
        assert command(monkeypatch, *words, name) == Exit.USAGE
        (line,) = capsys.readouterr().err.splitlines()
        assert line.endswith(f"; did you mean {run}?"), line
    assert command(monkeypatch, *words, "tiny") == Exit.USAGE
    assert "expected the --output of `mcdiff-batch run`" in capsys.readouterr().err


def test_a_report_is_of_its_own_archive(
    night: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    out, other = night / "my night.enhanced", archive(night / "other.zarr", 4)
    assert command(monkeypatch, "report", out, "--input", night / "none.zarr") == 4
    assert command(monkeypatch, "report", out, "--input", other) == Exit.USAGE
    assert "is not the archive of" in capsys.readouterr().err
    moved = (night / "my night.zarr").rename(night / "moved.zarr")
    assert command(monkeypatch, "report", out, "--input", moved) == Exit.DONE


@pytest.mark.parametrize(
    ("name", "output"),
    [("a.zarr", "a.enhanced"), ("a.ZARR", "a.enhanced"), ("a b", "a b.enhanced"), ("a.v2", None)],
)
def test_an_archive_and_its_output_find_each_other(
    tmp_path: Path, name: str, output: str | None
) -> None:
    path = archive(tmp_path / name, 1)
    assert default_output(path) == tmp_path / (output or f"{name}.enhanced")
    assert default_archive(default_output(path)) == path


# --- numbers and devices


def test_sizes_are_never_zero() -> None:
    sizes = (0, 1, 1024, 5000, 1 << 20, 35 << 20, 3 << 29, 1 << 50)
    assert [format_bytes(x) for x in sizes] == [
        *("less than 1 KiB", "less than 1 KiB", "1 KiB", "5 KiB", "1 MiB", "35 MiB"),
        *("1.5 GiB", "1048576.0 GiB"),
    ]


def test_devices_have_plain_names_in_the_order_of_their_numbers() -> None:
    names = sorted(["cuda:10", "cuda:2", "cpu:1", "cpu:0"], key=natural_order)
    assert [name_device(x) for x in names] == ["CPU", "CPU worker 2", "GPU 2", "GPU 10"]
    assert name_devices(cpus(1)) == "CPU"
    assert name_devices(cpus(3)) == "CPU, 3 workers"
    assert name_devices((Device(kind="cuda", index=9),)).startswith("GPU 9 (")
