"""A run on several hosts or in several parts, as processes that a test may kill.

Each way of running (`processes`, `parts`, `ray`) answers the same questions, so that one test
serves them all.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from mcdiff_batch.engine.cluster.place import workplace
from mcdiff_batch.engine.errors import Exit, McdiffError
from mcdiff_batch.engine.image.frame import Image
from mcdiff_batch.engine.model.canary import find_canary
from mcdiff_batch.engine.model.ladder import recommended_rungs
from mcdiff_batch.engine.model.plan import Device, Plan
from mcdiff_batch.engine.output import locks
from mcdiff_batch.engine.output.units import Part
from mcdiff_batch.engine.run.enhance import enhance
from mcdiff_batch.engine.run.pool import Limits
from tests.support.clusters import RayCluster, import_path
from tests.support.fake import FakePlan, Fault, OtherPlan
from tests.support.processes import find_workers, wait_for
from tests.support.running import CONTRACT, cpus, job

CANARY = find_canary(FakePlan(batch=1), CONTRACT, Device(kind="cpu", index=0))
SCRIPT = """
from tests.support.many import main
if __name__ == "__main__":
    main()
"""
LIMIT = 300.0  # s that anything here may take on a loaded machine


@dataclass(slots=True, kw_only=True)
class HeldPlan(FakePlan):
    """Stops in the middle of its second batch; the first is the canary."""

    release: Path
    steps: int = 0

    def step(self, *inputs: Any) -> tuple[Image, Image]:
        self.steps += 1
        if self.steps > len(recommended_rungs(CONTRACT)):
            wait_for(self.release.exists)
        return FakePlan.step(self, *inputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostMaker:
    """A PlanMaker whose devices are slow, have other bits, or wait."""

    delay: float = 0.0  # s of a step
    slow: Sequence[str] = ()  # the devices with that delay; none: all
    other: Sequence[str] = ()  # devices with other bits
    held: Sequence[str] = ()  # devices that stop at a step until the file `release` exists
    release: str = ""
    after: str = ""  # a file that has to exist before any other device begins
    counter: str = ""  # a file that gets a byte for every case that a worker begins

    def __call__(self, device: Device, batch: int) -> Plan:
        name = str(device)
        if self.after and name not in self.other:
            wait_for(Path(self.after).exists)
        if name in self.held:
            return HeldPlan(batch=batch, faults=self._count(), release=Path(self.release))
        return (OtherPlan if name in self.other else FakePlan)(
            batch=batch,
            delay=self.delay if not self.slow or name in self.slow else 0.0,
            faults=self._count(),
        )

    def _count(self) -> tuple[Fault, ...]:
        return (Fault(kind="nothing", counter=Path(self.counter)),) if self.counter else ()


def read_part(text: str) -> Part | None:
    number, sign, count = text.partition("/")
    return Part(number=int(number), count=int(count)) if sign else None


def main() -> None:
    """One command; its argument is what `Night.command` writes."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    asked = json.loads(sys.argv[1])
    count = 2 if asked["on"] == "processes" and not asked["part"] else 1
    night = job(
        Path(asked["source"]),
        Path(asked["output"]),
        unit_size=2,
        devices=cpus(count),
        limits=Limits(patience=asked["patience"]),
        canary=CANARY,
        part=read_part(asked["part"]),
        finish=asked["part"] == "finish",
    )
    maker = HostMaker(**asked["maker"])
    try:
        with workplace(asked["on"], night.devices) as (devices, workers):
            summary = enhance(replace(night, devices=devices), maker, workers=workers)
        sys.exit(int(summary.exit_code))
    except McdiffError as error:
        print(error, file=sys.stderr)
        sys.exit(int(error.exit_code))


@dataclass(slots=True, kw_only=True)
class Night:
    """A run of `source` into `output`, in one of the three ways."""

    source: Path
    output: Path
    way: str
    cluster: RayCluster | None = None
    delay: float = 0.3  # s of a step, three of which are a batch of two cases

    @property
    def commands(self) -> list[str]:
        """The parts that run at the same time; "" is a whole run."""
        return ["1/2", "2/2"] if self.way == "parts" else [""]

    @property
    def journals(self) -> list[Path]:
        """Where the commands keep their incidents."""
        parts = [x for x in map(read_part, self.commands) if x]
        return [locks.part_folder(self.output, x) for x in parts] or [self.output]

    @property
    def counter(self) -> Path:
        return self.output.parent / "begun"

    @contextmanager
    def begun(self, **options: Any) -> Iterator[list[subprocess.Popen[str]]]:
        """The commands, started, with a worker in the middle of a unit."""
        with ExitStack() as stack:
            started = [stack.enter_context(self.command(x, **options)) for x in self.commands]
            wait_for(lambda: self._is_under_way(started))
            yield started

    def _is_under_way(self, started: Sequence[subprocess.Popen[str]]) -> bool:
        assert all(x.poll() is None for x in started), [x.communicate() for x in started]
        return self.counter.exists() and self.counter.stat().st_size > 2

    @contextmanager
    def command(
        self, part: str, patience: float = 300, **maker: Any
    ) -> Iterator[subprocess.Popen[str]]:
        """maker: fields of HostMaker."""
        asked = {
            "source": str(self.source),
            "output": str(self.output),
            "on": f"ray={self.cluster.address}" if self.cluster else "processes",
            "part": part,
            "patience": patience,
            "maker": {"delay": self.delay, "counter": str(self.counter)} | maker,
        }
        script = self.output.parent / "command.py"
        script.write_text(SCRIPT)
        process = subprocess.Popen(
            [sys.executable, str(script), json.dumps(asked)],
            env=os.environ | {"PYTHONPATH": import_path()},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def finish(self, *, again: bool = True) -> list[int]:
        """The exit codes of the same commands again and, for parts, of the finisher."""
        codes = []
        for part in [*(self.commands if again else []), *(["finish"] * (self.way == "parts"))]:
            with self.command(part, delay=0) as process:
                said = process.communicate(timeout=LIMIT)[1]
                assert process.returncode in (Exit.DONE, Exit.FAILED_CASES), said
                codes.append(process.returncode)
        return codes


def workers_of(processes: Sequence[subprocess.Popen[str]]) -> list[psutil.Process]:
    """The worker processes of local commands, in the order of the commands."""
    return [child for process in processes for child in find_workers(process.pid)]


def workers_on() -> list[tuple[psutil.Process, psutil.Process]]:
    """The actors of a cluster's nodes that keep a worker, each with that worker."""
    found = []
    for node in psutil.Process(os.getpid()).children(recursive=True):
        try:
            below = [x for x in node.children() if "spawn_main" in " ".join(x.cmdline())]
            if "ray::" in " ".join(node.cmdline()) and below:
                found.append((node, below[0]))
        except psutil.Error:
            continue
    return found
