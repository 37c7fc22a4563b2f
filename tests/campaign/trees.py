"""Real process trees of the real command: signals, kills, system calls and clocks."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from mcdiff_batch.engine.errors import Exit
from tests.support.running import archive, bundle

from .clock import DAY
from .night import ARCHIVE, OUTPUT
from .promises import broken_promises
from .scene import Scene, committed_files, read_tree
from .schedule import Result, Schedule, number_all

CASES = 4
COMMAND = Path(sys.executable).with_name("mcdiff-batch")
FAKETIME = "libfaketime.so.1"
PATIENCE = 240.0  # s
LINGER = 60.0  # s that a process may live after the command has ended
VICTIMS = ("parent", "worker", "group", "parent by SIGTERM", "parent by SIGINT twice")
INJECTED = ("fsync", "rename", "mkdir", "write")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A scene for the real command."""

    scene: Scene
    bundle: Path
    files: int  # of an undisturbed output


def make_stage(folder: Path) -> Stage:
    model = bundle(folder / "bundle")
    source = read_tree(archive(folder / "real.zarr", CASES))
    scene = Scene(name="real", options={}, source=source, output={})
    with scene.stage() as place:
        assert _start(place, model).wait(PATIENCE) == Exit.DONE
        output = read_tree(place / OUTPUT)
    whole = committed_files(output)
    scene = Scene(name="real", options={}, source=source, output={}, whole=whole)
    return Stage(scene=scene, bundle=model, files=len(output))


def _start(
    folder: Path, model: Path, before: Sequence[str] = (), **environment: str
) -> subprocess.Popen[bytes]:
    """The command, as the leader of a session; `before` is what runs it."""
    words = [COMMAND, "run", "--input", folder / ARCHIVE, "--output", folder / OUTPUT]
    words += ["--bundle", model, "--devices", "cpu:2", "--unit-size", "1", "--batch-size", "1"]
    with (folder / "stderr").open("ab") as errors:
        return subprocess.Popen(
            [*before, *map(str, words)],
            env=os.environ | {"OMP_NUM_THREADS": "1", "HOME": str(folder)} | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )


def _family(session: int) -> list[psutil.Process]:
    """All processes of a session."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def _close(command: subprocess.Popen[bytes]) -> Iterator[str]:
    """Waits for the end of the command and of its whole session (P9)."""
    try:
        command.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        yield f"P9: the command runs for more than {PATIENCE:g} s"
    end = time.monotonic() + LINGER
    while (left := _family(command.pid)) and time.monotonic() < end:
        time.sleep(0.05)
    for process in left:
        yield f"P9: process {process.pid} is left"
        with suppress(psutil.NoSuchProcess):
            process.kill()
    command.wait()


def _finish(folder: Path, stage: Stage) -> Iterator[str]:
    command = _start(folder, stage.bundle)
    yield from _close(command)
    if command.returncode != Exit.DONE:
        error = (folder / "stderr").read_text(errors="replace")[-500:]
        yield f"P1: the last night ended with exit code {command.returncode}: {error}"
    yield from broken_promises(folder, stage.scene, finished=True)


# --- kills and signals


def tree_kills(stage: Stage, seed: int, count: int) -> list[Schedule]:
    """A process of the tree, or all of it, is ended when the output has some number of files."""
    return number_all("process trees", _kills(stage, seed, count))


def _kills(stage: Stage, seed: int, count: int) -> Iterator[tuple[str, Callable[[], Result]]]:
    dice = random.Random(f"trees {seed}")
    for number in range(count):
        victim = VICTIMS[number % len(VICTIMS)]
        files = dice.randrange(stage.files)
        text = f"{victim} ended when the output has {files} files and folders"
        yield text, lambda x=(stage, victim, files): _play_kill(*x)


def _play_kill(stage: Stage, victim: str, files: int) -> Result:
    with stage.scene.stage() as folder:
        command = _start(folder, stage.bundle)
        _await_files(command, folder / OUTPUT, files)
        _end(command, victim)
        broken = [*_close(command)]
        code = command.returncode
        broken += broken_promises(folder, stage.scene, finished=code == Exit.DONE)
        if code not in {*Exit, -signal.SIGKILL}:
            broken.append(f"P9: exit code {code}")
        broken += _finish(folder, stage)
    return Result(how="killed" if code < 0 else f"exit {code}", broken=tuple(broken))


def _await_files(command: subprocess.Popen[bytes], output: Path, files: int) -> None:
    while command.poll() is None and sum(len(x[1] + x[2]) for x in os.walk(output)) < files:
        time.sleep(0.001)


def _end(command: subprocess.Popen[bytes], victim: str) -> None:
    workers = [x for x in _family(command.pid) if _is_worker(x)]
    if command.poll() is not None:
        return
    match victim:
        case "parent":
            command.kill()
        case "worker":
            for worker in workers[:1]:
                worker.kill()
        case "group":
            os.killpg(command.pid, signal.SIGKILL)
        case "parent by SIGTERM":
            command.terminate()
        case "parent by SIGINT twice":
            command.send_signal(signal.SIGINT)
            time.sleep(0.3)
            command.send_signal(signal.SIGINT)


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # it has just ended
        return False


# --- system calls, in any process of the tree


def tree_calls(stage: Stage, seed: int, count: int) -> list[Schedule]:
    """A system call of any process of the tree fails, or kills its process, under strace."""
    found = _injections(stage, seed, count) if shutil.which("strace") else iter(())
    return number_all("system calls of trees", found)


def _injections(stage: Stage, seed: int, count: int) -> Iterator[tuple[str, Callable[[], Result]]]:
    dice = random.Random(f"injections {seed}")
    for number in range(count):
        call = INJECTED[number % len(INJECTED)]
        way = dice.choice(("error=EIO", "error=ENOSPC", "error=EDQUOT", "signal=KILL"))
        if call == "write":  # mostly to pipes, which never fail so; Python's tracker would hang
            way = "signal=KILL"
        when = dice.randrange(1, 13)
        inject = f"{call}:{way}:when={when}"
        yield inject, lambda x=(stage, call, inject): _play_injection(*x)


def _play_injection(stage: Stage, call: str, inject: str) -> Result:
    with stage.scene.stage() as folder:
        strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", str(folder / "trace")]
        words = [*strace, "-e", f"trace={call}", "-e", f"inject={inject}"]
        command = _start(folder, stage.bundle, words)
        broken = [*_close(command)]
        touched = "INJECTED" in (folder / "trace").read_text() or command.returncode < 0
        code = command.returncode
        broken += broken_promises(folder, stage.scene, finished=code == Exit.DONE)
        broken += _finish(folder, stage)
    how = "killed" if code < 0 else f"exit {code}"
    return Result(how=how if touched else "passed untouched", broken=tuple(broken))


# --- clocks


def tree_clocks(stage: Stage, seed: int, count: int) -> list[Schedule]:
    """The clocks of all processes jump (libfaketime); the monotonic one only ahead, as in sleep."""
    found = _clocks(stage, seed, count) if faketime() else iter(())
    return number_all("clocks of trees", found)


def faketime() -> Path | None:
    """The library that fakes clocks, if it is installed."""
    found = sorted(Path("/usr/lib").glob(f"*/faketime/{FAKETIME}"))
    return found[0] if found else None


def _clocks(stage: Stage, seed: int, count: int) -> Iterator[tuple[str, Callable[[], Result]]]:
    dice = random.Random(f"clocks {seed}")
    for _ in range(count):
        days = dice.choice((1, 1, -1, 400, -400))
        files = dice.randrange(stage.files)
        text = f"clocks jump by {days:+d} days when the output has {files} files and folders"
        yield text, lambda x=(stage, days, files): _play_clock(*x)


def _play_clock(stage: Stage, days: int, files: int) -> Result:
    with stage.scene.stage() as folder:
        offset = folder / "offset"
        offset.write_text("+0")
        command = _start(
            folder,
            stage.bundle,
            LD_PRELOAD=str(faketime()),
            FAKETIME_TIMESTAMP_FILE=str(offset),
            FAKETIME_NO_CACHE="1",
            FAKETIME_DONT_FAKE_MONOTONIC=str(int(days < 0)),
        )
        _await_files(command, folder / OUTPUT, files)
        offset.write_text(f"{days * DAY:+.0f}")
        broken = [*_close(command)]
        code = command.returncode
        broken += broken_promises(folder, stage.scene, finished=code == Exit.DONE)
        if code != Exit.DONE:
            broken.append(f"P12: exit code {code}: {(folder / 'stderr').read_text()[-300:]}")
        broken += _finish(folder, stage)
    return Result(how=f"exit {code}", broken=tuple(broken))
