"""Whatever goes wrong in a command becomes one line and an exit code, without data (P9, P10)."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mcdiff_batch.engine.errors import Exit
from mcdiff_batch.engine.model.contract import load_bundle, write_contract
from mcdiff_batch.engine.output import places
from tests.support.crafting import CLI, MAIN, command
from tests.support.processes import still_running
from tests.support.running import archive, bundle

ID = "patient Müller"
SIGNALS_WHEN = """
import atexit, os, signal, sys, time

def hear(event, args):
    if moments and event == moments[0][0] and moments[0][1] in str(args):
        del moments[0]
        sys.setprofile(wait) if after else send(signal.SIGTERM)

def wait(frame, *_):
    if frame.f_code is not hear.__code__:
        send(signal.SIGTERM)

def repeat(frame, *_):
    if not moments and frame.f_code.co_name == again:
        send(signal.SIGINT)

def send(number):
    sys.setprofile(None)
    os.kill(os.getpid(), number)
    time.sleep(0.3)  # the main thread goes on, if this is another

moments, after, again = {moments}, {after}, {again!r}
for number in (signal.SIGINT, signal.SIGTERM):  # which a background job of a shell may ignore
    signal.signal(number, signal.SIG_DFL)
atexit.register(lambda: moments and os._exit(99))  # they never came
sys.addaudithook(hear)
if again:
    sys.setprofile(repeat)  # in the main thread
"""


def broken(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Makes `status` fail in a way that nobody foresaw."""

    def fail(_: Path) -> Path:
        raise error

    monkeypatch.setattr(places, "find_run", fail)


@pytest.mark.parametrize("error", [KeyError(ID), ValueError(ID), RecursionError(ID), OSError(ID)])
def test_an_unexpected_error_is_one_line_without_data(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    broken(monkeypatch, error)
    assert command(monkeypatch, "status", "x") == Exit.UNEXPECTED
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: unexpected {type(error).__name__} in test_last_resort.py, line")
    assert "please report it" in line
    assert ID not in line


def test_the_traceback_can_be_had(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken(monkeypatch, KeyError(ID))
    monkeypatch.setenv("MCDIFF_DEBUG", "1")
    assert command(monkeypatch, "status", "x") == Exit.UNEXPECTED
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert f"KeyError: '{ID}'" in said


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x"), Exit.NO_SPACE, "/x: No space"),
        (OSError(errno.EMFILE, "Too many open files", "/x"), Exit.UNEXPECTED, "ulimit -n"),
        (OSError(errno.ESTALE, "Stale file handle", "/x"), Exit.UNEXPECTED, "mount it again"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), Exit.USAGE, "/x: cannot be"),
        (OSError(errno.EIO, "Input/output error", b"/\xff"), Exit.UNEXPECTED, r"/\\xff: cannot"),
        (MemoryError(), Exit.UNEXPECTED, "out of memory"),
        (KeyboardInterrupt(), Exit.DRAINED, ""),
    ],
)
def test_an_error_of_the_system_has_its_line_and_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: Exit,
    said: str,
) -> None:
    broken(monkeypatch, error)
    assert command(monkeypatch, "status", "x") == code
    text = capsys.readouterr().err
    assert said.replace(r"\\", "\\") in text
    assert "Traceback" not in text
    assert len(text.strip().splitlines()) <= 1


def test_places_that_cannot_be_used_are_errors_of_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For every command that writes: below a file, at a device, too long a name, no such disk."""
    source, model = archive(tmp_path / "a.zarr", 1), bundle(tmp_path / "model")
    (tmp_path / "file").write_text("mine")
    bad = (tmp_path / "file/x/y", Path("/dev/null"), tmp_path / ("n" * 300), Path("/proc/self/x"))
    for output in bad:
        for words in (
            ["run", source, "--bundle", model],
            ["phantom", "--cases", 1, "--workers", 1],
            ["import", tmp_path],
        ):
            assert command(monkeypatch, *words, "--output", output) in (2, 4)
            said = capsys.readouterr().err
            assert "Traceback" not in said
            assert "unexpected" not in said
    assert (tmp_path / "file").read_text() == "mine"


def test_too_few_open_files_are_named(tmp_path: Path) -> None:
    source, model = archive(tmp_path / "a.zarr", 1), bundle(tmp_path / "model")
    shell = ["sh", "-c", 'ulimit -n 12; exec "$@"', "sh", *CLI]
    done = subprocess.run(
        [*shell, "run", str(source), "--bundle", str(model)], capture_output=True, text=True
    )
    assert done.returncode == Exit.UNEXPECTED
    assert "ulimit -n" in done.stderr or "Too many open files" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGTERM, 1), (signal.SIGTERM, 2), (signal.SIGHUP, 2)]
)
def test_p9_a_signal_ends_any_command_with_75_and_leaves_nothing(
    tmp_path: Path, number: signal.Signals, workers: int
) -> None:
    words = ["phantom", "--cases", "500", "--output", str(tmp_path / "p.zarr")]
    words += ["--workers", str(workers)]
    default = lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it
    process = subprocess.Popen([*CLI, *words], preexec_fn=default, stderr=subprocess.PIPE)
    end = time.monotonic() + 60
    while not list(tmp_path.iterdir()) and time.monotonic() < end:
        time.sleep(0.02)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == Exit.DRAINED, os.fsdecode(said)
    assert b"Traceback" not in said
    assert list(tmp_path.iterdir()) == []
    assert not still_running(family)


def signalled(
    folder: Path, words: str, *moments: tuple[str, str], after: bool = False, again: str = ""
) -> subprocess.CompletedProcess[str]:
    """Runs a command that sends itself signals, one moment after the other.

    moments: an event of Python's audit and a part of its arguments.  after: when what it tells of
    is done, in the function that does it.  again: a function that another signal comes in.
    """
    head = SIGNALS_WHEN.format(moments=list(moments), after=after, again=again)
    return subprocess.run(
        [sys.executable, "-c", head + MAIN, *words.split()],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
    )


PHANTOM = "phantom --cases 3 --workers 1 --output p.zarr"
STUDIES = "phantom --cases 1 --workers 1 --dicom studies"
IN_THREAD = ("open", "depths/c/1/")  # of zarr, which writes a chunk


@pytest.mark.parametrize(
    "moments",
    [
        [("socket.__new__", "")],  # zarr begins its thread
        [("open", ".partial/lock")],  # of the folder of the incomplete archive
        [("open", "zarr.json")],  # a thread of zarr writes
        [IN_THREAD],
        [IN_THREAD, ("shutil.rmtree", ".p.zarr.")],  # Ctrl-C again
    ],
)
def test_p9_signals_at_the_worst_moments_leave_nothing(
    tmp_path: Path, moments: list[tuple[str, str]]
) -> None:
    done = signalled(tmp_path, PHANTOM, *moments)
    assert done.returncode == Exit.DRAINED, done.stderr
    assert done.stderr.strip() == ""
    assert list(tmp_path.iterdir()) == []


def test_p9_a_signal_just_before_the_folder_is_deleted_does_not_keep_it(tmp_path: Path) -> None:
    """A terminal that closes, or systemd, sends several at once."""
    done = signalled(tmp_path, PHANTOM, IN_THREAD, again="deferring")
    assert (done.returncode, done.stderr.strip()) == (Exit.DRAINED, "")
    assert list(tmp_path.iterdir()) == []


def test_p9_a_signal_between_two_steps_of_zarr_shows_no_warning(tmp_path: Path) -> None:
    done = signalled(tmp_path, PHANTOM, again="sync")
    assert (done.returncode, done.stderr.strip()) == (Exit.DRAINED, "")


@pytest.mark.parametrize("moment", [("os.rename", "'p.zarr'"), ("shutil.rmtree", ".p.zarr.")])
def test_p9_a_signal_when_all_is_done_comes_too_late(
    tmp_path: Path, moment: tuple[str, str]
) -> None:
    """Stopped with 75, the same command again would find that the archive exists."""
    done = signalled(tmp_path, "phantom --cases 1 --workers 1 --output p.zarr", moment, after=True)
    assert (done.returncode, done.stderr.strip()) == (Exit.DONE, "")
    assert [x.name for x in tmp_path.iterdir()] == ["p.zarr"]


def test_p9_a_signal_after_an_import_of_dicom_leaves_its_map(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    assert subprocess.run([*CLI, *STUDIES.split()], cwd=tmp_path).returncode == Exit.DONE
    words = "import --dicom studies --output a.zarr"
    done = signalled(tmp_path, words, ("os.rename", "'a.zarr'"), after=True)
    assert done.returncode == Exit.DONE, done.stderr
    names = {x.name for x in tmp_path.iterdir()}
    assert names - {"studies"} == {"a.zarr", "a.zarr.dicom.json"}


def test_p9_a_signal_while_a_text_is_replaced_leaves_it_as_it_was(tmp_path: Path) -> None:
    model = bundle(tmp_path / "model")
    done = signalled(tmp_path, "card model", ("os.rename", "card.tmp"))
    assert (done.returncode, done.stderr.strip()) == (Exit.DRAINED, "")
    assert sorted(x.suffix for x in model.iterdir()) == [".json", ".onnx", ".onnx"]


def test_p9_a_signal_while_metrics_are_written_leaves_no_file(tmp_path: Path) -> None:
    archive(tmp_path / "a.zarr", 1)
    bundle(tmp_path / "model")
    words = "run a.zarr --bundle model --metrics night.prom"
    done = signalled(tmp_path, words, ("os.rename", ".night.prom."))
    assert (done.returncode, done.stderr.strip()) == (Exit.DRAINED, "")
    assert sorted(x.name for x in tmp_path.iterdir()) == ["a.zarr", "model"]


def test_a_contract_on_a_full_disk_is_as_it_was(tmp_path: Path) -> None:
    """`gate` writes its thresholds into it."""
    model = bundle(tmp_path / "model")
    before = {x.name: x.read_bytes() for x in model.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            write_contract(load_bundle(model).contract, model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {x.name: x.read_bytes() for x in model.iterdir()} == before


def test_p9_a_signal_after_the_last_word_does_not_change_the_exit_code() -> None:
    late = """
import os, signal, threading
def send():
    threading.main_thread().join()
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=send).start()
"""
    words = [sys.executable, "-c", late + MAIN, "--version"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (Exit.DONE, "")
    assert done.stdout.startswith("mcdiff-batch")
