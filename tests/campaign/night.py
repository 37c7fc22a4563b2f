"""One night: a run of the fake plan in a process of its own, on a disk that fails on demand."""

import os
import pickle
import signal
import socket
import traceback
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcdiff_batch.engine.errors import McdiffError, explain
from mcdiff_batch.engine.run.enhance import repair
from tests.support.disk import Call, Change, Disk, Heed, ignore
from tests.support.fake import FakeMaker, Fault, InlineWorkers
from tests.support.running import enhance, job

ARCHIVE, OUTPUT = "night.zarr", "out"
UNEXPLAINED = "UNEXPLAINED"
PATIENCE = 120.0  # s; a night takes 0.1 s


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a night ended."""

    code: int  # the exit code; negative: the signal that killed it
    text: str = ""  # of the error
    changes: tuple[Change, ...] = ()  # of the disk; none where it was killed without notice
    calls: tuple[Call, ...] = ()
    power: bool = True  # whether it was there to the end

    @property
    def how(self) -> str:
        if not self.power:
            return "power cut"
        return "killed" if self.code < 0 else f"exit {self.code}"


class PowerCut(BaseException):
    """The power ends.  What the night still does, no disk notices."""


Answer = Callable[[End], None]


def run_night(
    folder: Path, options: dict[str, Any], heed: Heed | None = None, *faults: Fault
) -> End:
    """Runs ARCHIVE of `folder` to OUTPUT, in a child of this process.

    options: those of a Job, and `repair`.  `heed` disturbs the disk; without it nothing is watched.
    `faults` are the model's.
    """
    return in_child(lambda answer: enhance_archive(answer, folder, options, heed, *faults))


def run_paused(
    folder: Path,
    options: dict[str, Any],
    at: str,
    meanwhile: Callable[[], None],
    *,
    kills: bool = False,
) -> End:
    """A night that waits at a call until `meanwhile` has returned, and then goes on or is killed.

    A night that never comes to that call ends without `meanwhile`.
    """
    reached, reach = os.pipe()
    go, let = os.pipe()

    def hold(disk: Disk, call: Call) -> None:
        if str(call) == at:
            os.write(reach, b".")
            os.read(go, 1)

    def begin(pid: int) -> None:
        os.close(reach)
        os.kill(pid, signal.SIGUSR1)
        if os.read(reached, 1):
            meanwhile()
        if kills:
            os.kill(pid, signal.SIGKILL)
        os.write(let, b".")

    end = in_child(lambda answer: enhance_archive(answer, folder, options, hold), begin)
    for descriptor in (reached, go, let):
        os.close(descriptor)
    return end


def enhance_archive(
    answer: Answer, folder: Path, options: dict[str, Any], heed: Heed | None, *faults: Fault
) -> None:
    """The night itself; it answers before it is killed, too."""
    disk = Disk(folder, heed or ignore)
    say = lambda code, text: answer(
        End(
            code=code,
            text=text,
            changes=tuple(disk.changes),
            calls=tuple(disk.calls),
            power=disk.power,
        )
    )
    disk.before_kill = lambda: say(-signal.SIGKILL, "")
    code, text = 0, ""
    try:
        with disk.mounted() if heed else nullcontext():
            mend = options.get("repair")
            options = {name: value for name, value in options.items() if name != "repair"}
            wanted = job(folder / ARCHIVE, folder / OUTPUT, **options)
            if mend:
                repair(wanted)
            code = enhance(wanted, FakeMaker(faults=faults), workers=InlineWorkers).exit_code
    except McdiffError as error:
        code, text = error.exit_code, str(error)
    except OSError as error:  # as the command line does
        code, text = explain(error).exit_code, str(error)
    except PowerCut:
        pass
    say(code if disk.power else -signal.SIGKILL, text)


def in_child(work: Callable[[Answer], None], begin: Callable[[int], None] | None = None) -> End:
    """Does `work` in a child of this process.

    With `begin`, which hears its process id, the child waits for SIGUSR1 first.  It answers
    through a socket, so that no fault of `write` touches the answer.
    """
    ours, theirs = socket.socketpair()
    if begin is not None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    with warnings.catch_warnings():  # Python 3.12: zarr has a thread, which is not needed there
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        ours.close()
        _child(work, theirs, begin is not None)
    theirs.close()
    with ours:
        ours.settimeout(PATIENCE)
        try:
            if begin is not None:
                begin(pid)
                os.kill(pid, signal.SIGUSR1)
            answer = _receive(ours)
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            answer = pickle.dumps(End(code=1, text=f"it hung for {PATIENCE:g} s"))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    end = pickle.loads(answer) if answer else End(code=code)
    assert isinstance(end, End)
    return end


def _child(work: Callable[[Answer], None], theirs: socket.socket, waits: bool) -> None:
    answer = lambda end: theirs.sendall(pickle.dumps(end))
    try:
        if waits:
            signal.sigwait([signal.SIGUSR1])
        work(answer)
    except BaseException as error:
        text = f"{UNEXPLAINED} {type(error).__name__}: {error}\n{traceback.format_exc()}"
        answer(End(code=1, text=text))
    theirs.shutdown(socket.SHUT_WR)
    os._exit(0)


def _receive(ours: socket.socket) -> bytes:
    parts = []
    while part := ours.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)
