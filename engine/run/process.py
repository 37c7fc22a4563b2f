"""Workers that are processes of this machine."""

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from time import sleep
from typing import Any

from mcdiff_batch.engine.model.plan import Device, PlanMaker
from mcdiff_batch.engine.signals import SIGNALS, blocking

from . import worker
from .heartbeat import Pulse
from .protocol import Message, PulseReading, Recipe, Task

DUMP_TIME = 0.25  # s that a process has to write its stacks


class ProcessWorker:
    """A Worker.  The parent holds one end of a pipe and sees the process's pulse."""

    def __init__(self, process: SpawnProcess, pipe: Connection, pulse: Pulse) -> None:
        self.process, self.pipe, self.shared = process, pipe, pulse

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
        self.process.kill()

    def messages(self) -> list[Message]:
        found: list[Message] = []
        try:
            while not self.pipe.closed and self.pipe.poll():
                found.append(self.pipe.recv())
        except (EOFError, OSError):  # the last message was sent, or cut short
            self.pipe.close()
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
