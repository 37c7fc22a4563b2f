"""System calls that the kernel itself refuses, or kills at: strace stands beside a night."""

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile

from mcdiff_batch.engine.errors import Exit

from .night import End, enhance_archive, in_child
from .promises import broken_promises
from .scene import Scene
from .schedule import Result, Schedule, finish_night, number_all

CALLS = {  # what each system call of a commit is made to return
    "write": ("EIO", "ENOSPC", "EDQUOT"),
    "fsync": ("EIO", "ENOSPC"),
    "rename": ("EIO", "ENOSPC", "EROFS"),
    "mkdir": ("EIO", "EDQUOT"),
    "unlink": ("EIO",),
    "openat": ("EIO", "ENOSPC", "EMFILE"),
    "close": ("EIO",),
    "pread64": ("EIO",),
    "getdents64": ("EIO",),
}
KILL = "KILL"
ATTACH = 60.0  # s


def available() -> bool:
    return shutil.which("strace") is not None


def system_calls(scenes: Sequence[Scene], seed: int) -> list[Schedule]:
    """Each call of the commit path made to fail, and to kill, one after the other.

    The last number of each is one more than an undisturbed night needs: that night passes.
    """
    return number_all("system calls", _calls(scenes[0]) if available() else iter(()))


def _calls(scene: Scene) -> Iterator[tuple[str, Callable[[], Result]]]:
    counts = _count(scene)
    for name, errors in CALLS.items():
        for number in range(1, counts.get(name, 0) + 2 if counts.get(name) else 1):
            for error in (*errors, KILL):
                text = f"{scene.name}: {name} #{number}: {error}"
                yield text, lambda x=(name, error, number): _play(scene, *x)


def _count(scene: Scene) -> dict[str, int]:
    """How often an undisturbed night makes each call, in its main thread."""
    with scene.stage() as folder, NamedTemporaryFile("r") as log:
        words = ["-e", f"trace={','.join(CALLS)}"]
        end = _trace(folder, scene, words, log.name)
        assert end.code == Exit.DONE, end.text
        lines = [x.split(maxsplit=1) for x in log.read().splitlines()]
    main = lines[0][0]
    made = [x[1].partition("(")[0] for x in lines if x[0] == main]
    return {name: made.count(name) for name in CALLS}


def _play(scene: Scene, name: str, error: str, number: int) -> Result:
    way = f"signal={error}" if error == KILL else f"error={error}"
    words = ["-e", f"trace={name}", "-e", f"inject={name}:{way}:when={number}"]
    with scene.stage() as folder, NamedTemporaryFile("r") as log:
        end = _trace(folder, scene, words, log.name)
        touched = "INJECTED" in log.read() or end.code < 0
        broken = broken_promises(folder, scene, finished=end.code == Exit.DONE)
        broken += finish_night(folder, scene)
    return Result(how=end.how if touched else "passed untouched", broken=tuple(broken))


def _trace(folder: Path, scene: Scene, words: Sequence[str], log: str) -> End:
    """A night under strace, which leaves when the night ends."""
    tracers: list[subprocess.Popen[bytes]] = []

    def begin(pid: int) -> None:
        command = ["strace", "-f", "-qq", "-o", log, *words, "-p", str(pid)]
        tracers.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
        end = time.monotonic() + ATTACH
        while _tracer(pid) == 0 and time.monotonic() < end and tracers[0].poll() is None:
            time.sleep(0.002)

    end = in_child(lambda answer: enhance_archive(answer, folder, scene.options, None), begin)
    tracers[0].wait()
    return end


def _tracer(pid: int) -> int:
    found = re.search(r"TracerPid:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) if found else 0
