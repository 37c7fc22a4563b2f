"""Workers that are processes of this machine."""

import os
import resource
import signal
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from time import sleep
from typing import Any

from mcdiff_batch.engine.errors import RAISE_LIMIT
from mcdiff_batch.engine.model.plan import Device, PlanMaker
from mcdiff_batch.engine.signals import SIGNALS, blocking

from . import worker
from .heartbeat import Pulse
from .protocol import Breakdown, Message, PulseReading, Recipe, Task

DUMP_TIME = 0.25  # s that a process has to write its stacks
NEEDED = 64  # threads that a worker may start; with room for fewer, that may be what ended it


class ProcessWorker:
    """A Worker.  The parent holds one end of a pipe and sees the process's pulse."""

    def __init__(self, process: SpawnProcess, pipe: Connection, pulse: Pulse) -> None:
        self.process, self.pipe, self.shared = process, pipe, pulse
        self.explained = False  # it has said why it ends, or it was killed

    def send(self, task: Task | None) -> None:
        with suppress(OSError):  # it has ended, which `exit_code` will show
            self.pipe.send(task)

    def dismiss(self) -> None:
        self.shared.drain()
        self.send(None)

    def kill(self, *, dump: bool = False) -> None:
        if dump and self.process.pid is not None:
            os.kill(self.process.pid, signal.SIGUSR1)
            sleep(DUMP_TIME)
        self.explained = True
        self.process.kill()

    def messages(self) -> list[Message]:
        found: list[Message] = []
        try:
            while not self.pipe.closed and self.pipe.poll():
                found.append(self.pipe.recv())
        except (EOFError, OSError):  # the last message was sent, or cut short
            self.pipe.close()
        self.explained = self.explained or any(isinstance(x, Breakdown) for x in found)
        if not self.explained and self.process.exitcode not in (None, 0, -signal.SIGKILL):
            self.explained = True
            found += _explain(self.process.exitcode)
        return found

    @property
    def pulse(self) -> PulseReading:
        return self.shared.read()

    @property
    def exit_code(self) -> int | None:
        return self.process.exitcode

    @property
    def host_lost(self) -> bool:
        return False

    def close(self) -> None:
        self.pipe.close()
        if self.process.exitcode is not None:
            self.process.close()

    @property
    def events(self) -> list[Any]:
        """What becomes ready when the process says something or ends."""
        return [self.process.sentinel, *([] if self.pipe.closed else [self.pipe])]


class Processes:
    """Workers that are processes of this machine, each started afresh."""

    def __init__(self, recipe: Recipe, maker: PlanMaker, lock: object) -> None:
        self.recipe, self.maker, self.lock = recipe, maker, lock
        self.context = get_context("spawn")

    def start(self, device: Device, *, alone: bool) -> ProcessWorker:
        """The process blocks the signals that the parent heeds."""
        pulse = Pulse(self.context)
        ours, theirs = self.context.Pipe()
        args = (self.recipe, self.maker, device, alone, theirs, pulse, os.getpid(), self.lock)
        process = self.context.Process(target=worker.main, args=args)
        with blocking(*SIGNALS), theirs:
            process.start()
        return ProcessWorker(process, ours, pulse)

    def newcomers(self) -> Sequence[Device]:
        return ()

    def wait(self, workers: Sequence[Any], seconds: float) -> None:
        wait([event for worker in workers for event in worker.events], seconds)


def _explain(code: int | None) -> list[Message]:
    """A library may end a process without a word where it cannot start a thread."""
    if room() >= NEEDED:
        return []
    resident = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    detail = f"ended with exit code {code}, probably because it {RAISE_LIMIT}"
    return [Breakdown(kind="fault", detail=detail, resident=resident)]


def room(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> float:
    """How many processes and threads this user may still start; infinite where nothing limits it.

    Root has no limit of its own; a container has one for all.
    """
    limits = [_room_of_group(groups, proc)]
    soft = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if os.getuid() and soft != resource.RLIM_INFINITY:
        limits.append(soft - _count_threads(proc, os.getuid()))
    return min(limits)


def _count_threads(proc: Path, user: int) -> int:
    count = 0
    for file in proc.glob("[0-9]*/status"):
        with suppress(OSError, ValueError, KeyError):  # it has ended
            lines = dict(x.split(":", 1) for x in file.read_text().splitlines() if ":" in x)
            count += int(lines["Threads"]) if int(lines["Uid"].split()[0]) == user else 0
    return count


def _room_of_group(groups: Path, proc: Path) -> float:
    """That of the tightest control group (version 2) around this process."""
    found = float("inf")
    with suppress(OSError, ValueError):
        line = (proc / "self/cgroup").read_text().splitlines()[-1]
        here = groups / line.rpartition(":")[2].strip("/")
        for folder in (here, *here.parents):
            with suppress(OSError, ValueError):
                most = int((folder / "pids.max").read_text())
                found = min(found, most - int((folder / "pids.current").read_text()))
    return found
