"""A signal ends the program with 75 and no traceback, also while it reads its modules."""

import os
import signal
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from time import monotonic, sleep

import pytest

from tests.support.running import archive

# sends itself a signal when a module is looked for; as Ctrl-C would come in that moment
SIGNALLED = """
import os, signal, sys
name, number = sys.argv.pop(1), int(sys.argv.pop(1))
class Finder:
    @staticmethod
    def find_spec(wanted, *_):
        if wanted == name:
            os.kill(os.getpid(), number)
sys.meta_path.insert(0, Finder)
from mcdiff_batch.engine.start import main
main()
"""
IN_CALLBACK = SIGNALLED.replace(
    "            os.kill(os.getpid(), number)",
    """            import weakref
            class Thing: pass
            thing = Thing()
            kept = weakref.ref(thing, lambda _: os.kill(os.getpid(), number))
            del thing""",
)
MODULES = (
    *("mcdiff_batch.engine.cli", "click", "mcdiff_batch.engine.cli.config"),
    *("mcdiff_batch.engine.archive.audit", "numpy", "numpy.linalg", "numcodecs"),
)


def background() -> None:
    """Undoes what a shell does to a job in the background, and nohup to any."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive(tmp_path_factory.mktemp("signals") / "night.zarr", 2)


def check(
    source: Path, module: str, number: int, before: object = background, code: str = SIGNALLED
) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", code, module, str(int(number)), "check", str(source)]
    return subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=before,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("module", MODULES)
def test_ctrl_c_while_a_module_is_read_shows_nothing_and_is_75(source: Path, module: str) -> None:
    done = check(source, module, signal.SIGINT)
    assert done.returncode == 75
    assert done.stdout.strip() == done.stderr.strip() == ""


def test_ctrl_c_within_a_callback_of_python_is_not_lost(tmp_path: Path) -> None:
    source = archive(tmp_path / "long.zarr", 1000)  # not done before the signal comes again
    done = check(source, "mcdiff_batch.engine.archive.audit", signal.SIGINT, code=IN_CALLBACK)
    assert done.returncode == 75
    assert done.stderr.strip() == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_end_it_in_the_same_way(source: Path, number: signal.Signals) -> None:
    done = check(source, "click", number)
    assert done.returncode == 75
    assert done.stderr.strip() == ""


def test_a_signal_that_nohup_ignores_stays_ignored(source: Path) -> None:
    ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    done = check(source, "click", signal.SIGHUP, ignore)
    assert done.returncode == 0, done.stderr


def test_the_installed_program_begins_there() -> None:
    (script,) = entry_points(group="console_scripts", name="mcdiff-batch")
    assert script.value == "mcdiff_batch.engine.start:main"


def test_ctrl_c_in_a_terminal_does_not_reach_the_process_that_decodes(tmp_path: Path) -> None:
    """It goes to all processes of the command; Python would show a traceback in each."""
    code = """
import os, signal, sys, time
from multiprocessing import get_context
from mcdiff_batch.engine.signals import blocking
if __name__ == "__main__":
    with blocking(signal.SIGINT):
        child = get_context("spawn").Process(target=time.sleep, args=(1,), daemon=True)
        child.start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.killpg(0, signal.SIGINT)  # while Python starts in the child
    child.join(30)
    sys.exit(child.exitcode)
"""
    script = tmp_path / "parent.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=60,
        start_new_session=True,
        preexec_fn=background,
        env=os.environ,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c_ends_a_command_and_its_pool_of_processes_without_a_traceback(
    tmp_path: Path,
) -> None:
    words = ["phantom", "--output", "a.zarr", "--cases", "5000", "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from mcdiff_batch.engine.start import main; main()", *words],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=background,
    )
    end = monotonic() + 60
    while not any(tmp_path.glob(".a.zarr.*/a.zarr/depths/c/0")) and monotonic() < end:
        sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the command
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75
    assert said.strip() == ""
    assert not list(tmp_path.iterdir())
