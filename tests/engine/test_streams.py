"""A lost log, a reader that is gone, a closed descriptor: the work goes on and ends right."""

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mcdiff_batch.engine.errors import Exit
from tests.support.crafting import CLI
from tests.support.running import archive, break_case, bundle

FULL = Path("/dev/full")  # a disk without space


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(tmp_path_factory.mktemp("streams") / "model")


@pytest.fixture
def words(model: Path, tmp_path: Path) -> list[str]:
    source = archive(tmp_path / "night.zarr", 3)
    return ["run", str(source), "--bundle", str(model), "--unit-size", "1"]


def call(words: list[str], **options: Any) -> "subprocess.CompletedProcess[str]":
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "timeout": 120}
    return subprocess.run([*CLI, *words], **(given | options))


def test_a_full_disk_under_stderr_or_stdout_does_not_end_a_run(
    words: list[str], tmp_path: Path
) -> None:
    with FULL.open("w") as full:
        deaf = call([*words, "--output", str(tmp_path / "a"), "--progress", "json"], stderr=full)
        mute = call([*words, "--output", str(tmp_path / "b")], stdout=full)
        both = call([*words, "--output", str(tmp_path / "c")], stdout=full, stderr=full)
    assert (deaf.returncode, mute.returncode, both.returncode) == (0, 0, 0)
    assert "3 of 3 cases done" in deaf.stdout
    assert deaf.stdout.count("stderr could not be written (No space left") == 1
    assert mute.stderr.count("stdout could not be written (No space left") == 1
    assert all((tmp_path / x / "manifest.json").is_file() for x in "abc")


def test_a_full_disk_does_not_hide_an_exit_code(words: list[str], tmp_path: Path) -> None:
    break_case(tmp_path / "night.zarr", 1)
    with FULL.open("w") as full:
        assert call(words, stdout=full, stderr=full).returncode == Exit.FAILED_CASES
        bad = call(["run", str(tmp_path / "none.zarr")], stdout=full, stderr=full)
    assert bad.returncode == Exit.INPUT_INVALID


def test_an_answer_that_is_lost_is_a_failure(words: list[str], tmp_path: Path) -> None:
    call(words)
    with FULL.open("w") as full:
        done = call(["status", str(tmp_path / "night.enhanced"), "--json"], stdout=full)
    assert done.returncode == Exit.UNEXPECTED
    assert done.stderr == "warning: stdout could not be written (No space left on device); messages are missing\n"  # fmt: skip  # noqa: E501


def test_a_reader_that_has_gone_is_no_error(words: list[str], tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    assert call(words, stdout=theirs, stderr=theirs).returncode == Exit.DONE
    answer = call(["status", str(tmp_path / "night.enhanced")], stdout=theirs)
    assert (answer.returncode, answer.stderr) == (Exit.DONE, "")
    os.close(theirs)


def test_a_reader_that_does_not_read_is_left_behind(words: list[str], tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    with suppress(BlockingIOError):
        while os.write(theirs, bytes(4096)):
            pass
    os.set_blocking(theirs, True)
    done = call([*words, "--progress", "json"], stderr=theirs)
    os.close(ours)
    os.close(theirs)
    assert done.returncode == Exit.DONE
    assert "stderr could not be written (nobody reads it)" in done.stdout


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_closed_descriptors_are_not_given_to_files(
    words: list[str], tmp_path: Path, closed: str
) -> None:
    """Else what a library prints would be written into them."""
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh", *CLI, *words]
    assert subprocess.run(shell, capture_output=True, timeout=120).returncode == 0
    assert (tmp_path / "night.enhanced/.lock").read_bytes() == b""
    assert call(["verify", str(tmp_path / "night.enhanced")]).returncode == 0


def test_characters_that_the_terminal_lacks_are_escaped(model: Path, tmp_path: Path) -> None:
    source = archive(tmp_path / "Wirbelsäule • 日本.zarr", 2)
    env = os.environ | {"PYTHONIOENCODING": "ascii:strict", "LC_ALL": "C", "PYTHONUTF8": "0"}
    out = str(tmp_path / "Wirbelsäule • 日本.enhanced")
    for words in (["run", str(source), "--bundle", str(model)], ["status", out], ["verify", out]):
        done = call(words, env=env)
        assert done.returncode == Exit.DONE, done.stderr
        assert "Wirbels" in done.stdout


# --- the end of the stream of progress


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(x) for x in text.splitlines() if x.startswith("{")]


def test_json_ends_with_the_end_state_of_a_short_run(words: list[str], tmp_path: Path) -> None:
    break_case(tmp_path / "night.zarr", 2)
    last = json_lines(call([*words, "--progress", "json"]).stderr)[-1]
    found = {name: last[name] for name in ("state", "exit_code", "done", "failed", "handled")}
    assert found == {"state": "failures", "exit_code": 3, "done": 2, "failed": 1, "handled": 3}


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--cases", "77"], Exit.USAGE, "out of range"),
        (["--devices", "cuda:7"], Exit.NO_DEVICE, "cuda:7"),
        (["--output", "/dev/null/x"], Exit.USAGE, "/dev/null"),
    ],
)
def test_json_ends_with_the_error_of_a_run_that_cannot_begin(
    words: list[str], more: list[str], code: Exit, said: str
) -> None:
    done = call([*words, *more, "--progress", "json"])
    last = json_lines(done.stderr)[-1]
    assert (done.returncode, last["state"], last["exit_code"]) == (code, "stopped", code)
    assert said in last["error"]


def test_lines_end_with_the_end_state(words: list[str]) -> None:
    assert "complete: 3 of 3 cases enhanced in" in call(words).stderr.splitlines()[-1]


def test_a_run_that_is_stopped_says_so_in_every_way(model: Path, tmp_path: Path) -> None:
    """`status --watch` of another shell hears it too."""
    source, out = archive(tmp_path / "night.zarr", 400), tmp_path / "night.enhanced"
    words = ["run", str(source), "--bundle", str(model), "--unit-size", "1", "--steps", "1000"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    run = subprocess.Popen([*CLI, *words, "--progress", "json"], **pipes)
    end = time.monotonic() + 120
    while not list((out / "ledger").glob("*.json")) and time.monotonic() < end:
        time.sleep(0.05)
    watch = subprocess.Popen([*CLI, "status", str(out), "--watch", "--json"], **pipes)
    assert watch.stderr is not None
    heard = watch.stderr.readline()
    run.send_signal(signal.SIGTERM)
    assert json_lines(run.communicate(timeout=120)[1])[-1]["state"] == "stopped"
    assert run.returncode == Exit.DRAINED
    answer, progress = watch.communicate(timeout=120)
    assert json.loads(heard)["state"] == "running"
    assert json_lines(progress)[-1]["exit_code"] == Exit.DRAINED
    assert json.loads(answer)["state"] == "stopped"
