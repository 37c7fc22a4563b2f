"""The live view: a table on a terminal, lines elsewhere, JSON on request, from any shell."""

import io
import json
import os
import pty
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mcdiff_batch.engine.cli.terminal.live import table
from mcdiff_batch.engine.cli.terminal.progress import Json, Lines, show_progress
from mcdiff_batch.engine.output import locks
from mcdiff_batch.engine.run import tracker
from mcdiff_batch.engine.run.enhance import enhance
from mcdiff_batch.engine.run.tracker import DeviceProgress, Progress
from tests.support.crafting import CLI, command
from tests.support.fake import InlineWorkers
from tests.support.running import FakeMaker, archive, bundle, job

SAMPLE = {
    "began": 0.0,
    "at": 3.0,
    "cpu_percent": 182.4,
    "resident_mib": 2048.0,
    "xids": [],
    "gpus": [
        {"index": 0, "power_w": 251.0, "temperature_c": 71.0, "slowed": ["heat"]},
    ],
}
AT = Progress(
    cases=100,
    done=40,
    failed=2,
    open=0,
    computed=8,
    rate=0.5,
    incidents=1,
    elapsed=100.0,
    devices=(
        DeviceProgress(device="cuda:0", cases=30, working=96.5),
        DeviceProgress(device="cuda:1", cases=20, working=None),
    ),
    machine=SAMPLE,
)


def drawn(at: Progress | None, width: int = 80, **how: Any) -> str:
    file = io.StringIO()
    settings = {"force_terminal": True, "color_system": None} | how
    Console(file=file, width=width, **settings).print(table(at))
    return file.getvalue()


def test_the_table_shows_rate_failures_devices_and_gpus() -> None:
    text = drawn(AT)
    assert text.splitlines()[0] == "! 2 failed, 1 incident"
    assert re.search(r"all cases .* progress 50 % +48 of 100 +0.50/s +(100 s|2 min) left", text)
    assert re.search(r"GPU 0 .* busy 96 % +30 +0.30/s", text)
    assert re.search(r"GPU 1 .* first unit +20 +0.20/s", text)
    assert "1.8 cores busy, 2.0 GiB of memory" in text
    assert "GPU 0: 251 W, 71 °C, slowed by heat" in text


def test_failures_stand_out_and_their_absence_takes_no_line() -> None:
    assert drawn(AT, color_system="standard").startswith("\x1b[1;31m! 2 failed, 1 incident")
    sound = replace(AT, failed=0, incidents=0)
    assert "!" not in drawn(sound)
    assert "3 open" in drawn(replace(sound, open=3)).splitlines()[0]


def test_a_big_run_fits_into_80_columns() -> None:
    devices = tuple(
        DeviceProgress(device=f"cuda:{x}", cases=12345, working=100.0) for x in range(12)
    )
    big = replace(AT, cases=98765, done=51234, failed=12, rate=131.6, devices=devices)
    text = drawn(big)
    assert "…" not in text
    assert re.search(r"51242 of 98765 +132/s +6 min left", text)


def test_before_the_first_case_it_says_so() -> None:
    assert drawn(None).strip() == "starting the workers ..."
    waiting = replace(AT, done=0, failed=0, computed=0, rate=0.0, elapsed=7.0)
    assert "loading, 7 s" in drawn(waiting)


def test_lines_come_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    lines(replace(AT, rate=0.0))
    lines(AT)
    lines(AT)
    assert capsys.readouterr().err.splitlines() == [
        "48 of 100 cases enhanced, 2 failed, 1 incident, 0.50/s, 2 min left"
    ]


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    Json()(AT)
    Json()(replace(AT, rate=0.0))
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["handled"], first["eta"], first["devices"][0]["working"]) == (50, 100, 96.5)
    assert second["eta"] is None


def test_without_a_terminal_there_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress() as show:
        show(AT)
    assert "\x1b" not in capsys.readouterr().err


def test_a_run_reports_its_devices(tmp_path: Path) -> None:
    seen: list[Progress] = []
    source = archive(tmp_path / "a.zarr", 4)
    asked = job(source, tmp_path / "out", unit_size=2)
    enhance(asked, FakeMaker(), seen.append, InlineWorkers)
    assert [x.cases for x in seen[-1].devices] == [4]
    assert 0 <= (seen[-1].devices[0].working or 0) <= 100
    assert (seen[-1].done, seen[-1].cases) == (4, 4)
    assert tracker.read_progress(tmp_path / "out") is not None


@pytest.mark.parametrize("text", ["", "[]", '{"cases": 1', '{"cases": "many"}', "null"])
def test_a_torn_file_is_not_shown(tmp_path: Path, text: str) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / tracker.LIVE).write_text(text)
    assert tracker.read_progress(tmp_path) is None


def test_status_follows_a_run_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = archive(tmp_path / "a.zarr", 4), tmp_path / "out"
    enhance(job(source, out), FakeMaker(), workers=InlineWorkers)
    with locks.lock(out):
        watching = subprocess.Popen(
            [*CLI, "status", str(out), "--watch", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert watching.stderr is not None
        line = json.loads(watching.stderr.readline())
    said, _ = watching.communicate(timeout=120)
    assert line["cases"] == 4
    assert json.loads(said)["state"] == "complete"
    assert watching.returncode == 0
    assert command(monkeypatch, "status", out, "--watch") == 0  # none runs: it ends at once
    assert f"{out}: state complete, 4 of 4 cases done" in capsys.readouterr().out


def test_a_run_on_a_terminal_draws_its_table(tmp_path: Path) -> None:
    source = archive(tmp_path / "a.zarr", 6)
    words = ["run", "--input", str(source), "--bundle", str(bundle(tmp_path / "bundle"))]
    text, code = on_terminal([*CLI, *words])
    assert code == 0
    assert "6 of 6 cases done" in text
    assert re.search(r"CPU .*busy.* 6 ", text)


def test_a_run_prints_json_on_request(tmp_path: Path) -> None:
    source = archive(tmp_path / "a.zarr", 6)
    words = ["run", "--input", str(source), "--bundle", str(bundle(tmp_path / "bundle"))]
    call = [*CLI, *words, "--progress", "json"]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    lines = [json.loads(x) for x in done.stderr.splitlines()]
    assert lines[0]["cases"] == 6
    assert "6 of 6 cases done" in done.stdout


def on_terminal(call: list[str]) -> tuple[str, int]:
    """What a command writes to a terminal, and its exit code."""
    ours, theirs = pty.openpty()
    env = os.environ | {"COLUMNS": "110", "LINES": "40", "TERM": "xterm"}
    process: Any = subprocess.Popen(call, stdout=theirs, stderr=theirs, stdin=theirs, env=env)
    os.close(theirs)
    parts = []
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the last process has closed it
            break
        if not part:
            break
        parts.append(part)
    os.close(ours)
    return b"".join(parts).decode(), process.wait()
