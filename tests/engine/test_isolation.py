"""A process tells nobody of its work, and runs no code of the folder that the user stands in."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.crafting import CLI
from tests.support.running import archive, bundle

DETECTED = ("CI", "GITHUB_ACTIONS", "TF_BUILD", "GITLAB_CI", "JENKINS_URL", "BUILD_ID")
LISTENER = """
import os, socket, sys
def hear(event, args):
    inside = event == "socket.__new__" and args[1] in (socket.AF_UNIX, -1)
    if event.startswith("socket.") and not inside:
        with open(os.environ["HEARD"], "a") as file:
            print(event, args[1:], file=file)
sys.addaudithook(hear)
"""
PLANTED = ("pickle", "json", "random", "tempfile", "numpy", "onnxruntime", "zarr", "click")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A run that lacks only its output."""
    folder = tmp_path_factory.mktemp("isolation")
    source, model = archive(folder / "night.zarr", 3), bundle(folder / "model")
    return ["run", str(source), "--bundle", str(model), "--unit-size", "2", "--devices", "cpu:2"]


def stranger(home: Path, **more: str) -> dict[str, str]:
    """The environment of a user who has never been here, and asks libraries to talk."""
    home.mkdir()
    kept = {k: v for k, v in os.environ.items() if k not in DETECTED and not k.startswith("XDG_")}
    asked = {"ORT_DISABLE_TELEMETRY": "0", "DO_NOT_TRACK": "0", "PYTHONSAFEPATH": ""}
    return kept | asked | {"HOME": str(home)} | more


def test_a_run_leaves_home_empty_and_opens_no_socket(words: list[str], tmp_path: Path) -> None:
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(LISTENER)
    path = os.pathsep.join([str(hook), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    env = stranger(tmp_path / "home", HEARD=str(tmp_path / "heard"), PYTHONPATH=path)
    call = [*CLI, *words, "--output", str(tmp_path / "out")]
    subprocess.run(call, env=env, check=True, cwd=tmp_path)
    assert list((tmp_path / "home").rglob("*")) == []
    assert not (tmp_path / "heard").exists()


def test_the_listener_of_the_test_above_hears_a_socket(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(LISTENER)
    env = stranger(tmp_path / "home", HEARD=str(tmp_path / "heard"), PYTHONPATH=str(tmp_path))
    talk = "import socket; socket.socket(); socket.getaddrinfo('127.0.0.1', 80)"
    subprocess.run([sys.executable, "-c", talk], env=env, check=True)
    assert "socket.getaddrinfo" in (tmp_path / "heard").read_text()


def test_no_library_opens_a_socket_below_python(words: list[str], tmp_path: Path) -> None:
    trace = ["strace", "-f", "-qq", "-e", "trace=socket,connect,sendto", "-o", tmp_path / "calls"]
    if (
        not shutil.which("strace")
        or subprocess.run([*trace, "true"], capture_output=True).returncode
    ):
        pytest.skip("strace is not installed, or may not trace")
    env = stranger(tmp_path / "home")
    for call in ([*words, "--output", str(tmp_path / "out")], ["doctor", *words[2:4]]):
        subprocess.run([*trace, *CLI, *call], env=env, check=True, capture_output=True)
        assert re.findall(r".*AF_INET.*", (tmp_path / "calls").read_text()) == []
    assert list((tmp_path / "home").rglob("*")) == []


@pytest.mark.parametrize("folder", ["engine", "train", "export", "bench"])
def test_every_folder_silences_libraries_before_it_imports_them(
    folder: str, tmp_path: Path
) -> None:
    said = f"import os, mcdiff_batch.{folder}; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    env = stranger(tmp_path / "home")
    call = [sys.executable, "-c", said]
    assert subprocess.run(call, env=env, capture_output=True, text=True).stdout == "1\n"


def plant(folder: Path, names: tuple[str, ...]) -> Path:
    """Modules of these names, which leave a mark when they are executed."""
    folder.mkdir()
    mark = f"open({str(folder / 'RAN')!r}, 'a').write(__name__ + ' ')\nraise ImportError('planted')"
    for name in names:
        (folder / f"{name}.py").write_text(mark)
    for package in ("scipy", "multiprocessing"):
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text(mark)
    return folder


def test_p11_no_process_runs_code_of_the_working_directory(
    words: list[str], tmp_path: Path
) -> None:
    """Of a run with two workers, of the pool of `phantom`, and of their resource trackers."""
    here = plant(tmp_path / "here", (*PLANTED, "sitecustomize", "usercustomize"))
    env = stranger(tmp_path / "home")
    phantom = ["phantom", "--cases", "2", "--workers", "2", "--output", str(tmp_path / "p.zarr")]
    for call in ([*words, "--output", str(tmp_path / "out")], phantom):
        subprocess.run([*CLI, *call], env=env, cwd=here, check=True)
    assert not (here / "RAN").exists()


def test_p11_an_empty_entry_of_pythonpath_is_not_the_working_directory(
    words: list[str], tmp_path: Path
) -> None:
    """Python itself reads it before the program can; the program and its processes do not."""
    here = plant(tmp_path / "here", PLANTED)
    env = stranger(tmp_path / "home", PYTHONPATH=f":{os.environ.get('PYTHONPATH', '')}:")
    call = [*CLI, *words, "--output", str(tmp_path / "out")]
    subprocess.run(call, env=env, cwd=here, check=True)
    assert not (here / "RAN").exists()


def test_a_folder_that_the_user_names_in_pythonpath_stays(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("print('mine')")
    said = "import mcdiff_batch.engine, mine"
    path = f":{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    env = stranger(tmp_path / "home", PYTHONPATH=path)
    done = subprocess.run(
        [sys.executable, "-c", said], env=env, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == "mine\n"


def test_a_working_directory_that_was_deleted_is_no_obstacle(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    code = f"import os; os.rmdir({str(gone)!r}); import mcdiff_batch.engine"
    subprocess.run([sys.executable, "-c", code], cwd=gone, check=True)
