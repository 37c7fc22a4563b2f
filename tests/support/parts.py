"""Parts of a run in processes of their own, each with its workers, as on several machines."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from mcdiff_batch.engine.errors import Exit, McdiffError
from mcdiff_batch.engine.output import ledger, locks
from mcdiff_batch.engine.output.units import Part, parse_part
from tests.support.processes import kill_alone, still_running, wait_for
from tests.support.running import FakeMaker, Fault, enhance, inline, job

ROOT = Path(__file__).parents[2]
CASES = 9  # in units of 2: 0 to 4, the last of one case


def part(number: int, count: int) -> Part:
    return Part(number=number, count=count)


def do(source: Path, out: Path, number: int, count: int, **options: object) -> object:
    return inline(job(source, out, unit_size=2, part=part(number, count), **options))


def finish(source: Path, out: Path) -> Exit:
    return inline(job(source, out, unit_size=2, finish=True)).exit_code


@contextmanager
def started(
    source: Path, output: Path, words: str, *, delay: float = 0.0, fault: str = ""
) -> Iterator[subprocess.Popen[str]]:
    """A part ("1/2") or a whole run ("") of units of 2, until the end of the block.

    delay: s per step of the plan.  fault: what happens to every case, see `Fault`.
    """
    command = [sys.executable, "-m", __name__, str(source), str(output), words, str(delay), fault]
    paths = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
    process = subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        kill(process)
        assert process.stderr is not None
        process.stderr.close()


def kill(process: subprocess.Popen[str]) -> None:
    """Ends a process and its workers, as a lost machine does."""
    family = kill_alone(process)
    for one in family:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    assert not still_running(family)


def wait_until_running(output: Path, one: Part) -> None:
    """Waits until a part has its lock."""
    wait_for(lambda: one in locks.find_living(output))


def wait_for_units(output: Path, count: int) -> None:
    """Waits until so many units are committed."""
    wait_for(lambda: len(ledger.list_units(output)) >= count)


def lose_locks(output: Path) -> None:
    """Nobody sees the locks of those that are running, as if their machine had been given up."""
    for path in (output / locks.LOCK, output / locks.UNITS):
        path.unlink()
    for one in locks.find_parts(output):
        (locks.part_folder(output, one) / locks.LOCK).unlink()


def main() -> int:
    source, output, words, delay, fault = sys.argv[1:]
    chosen = parse_part(words, os.environ) if words else None
    asked = job(Path(source), Path(output), unit_size=2, part=chosen)
    faults = (Fault(kind=fault),) if fault else ()
    try:
        return int(enhance(asked, FakeMaker(delay=float(delay), faults=faults)).exit_code)
    except McdiffError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)


if __name__ == "__main__":
    sys.exit(main())
