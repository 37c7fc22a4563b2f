"""Whether the driver of a run keeps up with very many hosts and cases, without any of them.

The hosts are simulated: each computes a unit in a time of its own, on a clock that runs while the
driver works, and jumps to the next event while it waits.  What the driver does is real: the queue,
the commit of every record and shard, progress, the report's lines, the manifest, `status`.
"""

import heapq
import os
import random
import resource
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import zarr

from mcdiff_batch.bench.common.command import CLI
from mcdiff_batch.bench.common.mean_plan import contract, make_mean_plan
from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.model.plan import Device, PlanMaker
from mcdiff_batch.engine.output import runs, shards
from mcdiff_batch.engine.output.ledger import DONE, Entry, Record
from mcdiff_batch.engine.run.enhance import enhance
from mcdiff_batch.engine.run.job import Job
from mcdiff_batch.engine.run.protocol import Message, PulseReading, Ready, Recipe, Task, UnitDone
from mcdiff_batch.engine.telemetry.machine import machine
from mcdiff_batch.engine.telemetry.spans import MODEL, Span, SpanLog

from .memory import FRAME, GRID

CASE_TIME = 0.25  # s that a host computes for a case, give or take a fifth


class Simulation:
    """The clock of the hosts, and what happens when."""

    def __init__(self) -> None:
        self.now = 0.0  # s
        self.events: list[tuple[float, int, SimulatedHost]] = []
        self.woken = time.monotonic()
        self.busy = 0.0  # s that hosts computed, all together
        self.spent = 0.0  # s of CPU on work of hosts
        self.random = random.Random(0)

    def add(self, delay: float, host: "SimulatedHost") -> None:
        heapq.heappush(self.events, (self.now + delay, id(host), host))

    def advance(self) -> None:
        """Time passes while the driver works; the driver waits until something happens."""
        self.now += time.monotonic() - self.woken
        if self.events:
            self.now = max(self.now, self.events[0][0])
        while self.events and self.events[0][0] <= self.now:
            heapq.heappop(self.events)[2].finish()
        self.woken = time.monotonic()

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """What a host does costs the driver no time, and its disk is not this one."""
        start, real, cpu = time.monotonic(), os.fsync, time.process_time()
        os.fsync = lambda fd: None
        try:
            yield
        finally:
            os.fsync = real
            self.spent += time.process_time() - cpu
            self.woken += time.monotonic() - start


class SimulatedHost:
    """A Worker that computes in no time but the clock's, and commits as real ones do."""

    def __init__(self, world: Simulation, recipe: Recipe) -> None:
        self.world, self.recipe = world, recipe
        self.tasks: deque[Task] = deque()
        self.outbox: list[Message] = [Ready()]
        self.exit_code: int | None = None
        self.host_lost = False
        self.computed = 0
        self.shard = dict.fromkeys(recipe.layout.images, b"x" * 1000)

    def send(self, task: Task) -> None:
        self.tasks.append(task)
        if len(self.tasks) == 1:
            self._begin()

    def _begin(self) -> None:
        seconds = CASE_TIME * len(self.tasks[0].cases) * self.world.random.uniform(0.8, 1.2)
        self.world.busy += seconds
        self.world.add(seconds, self)

    def finish(self) -> None:
        task = self.tasks.popleft()
        unit = task.unit
        quality = {"cnr_before": 1.5, "cnr_after": 2.5}
        record = Record(
            unit=unit.index,
            first=unit.first,
            count=unit.count,
            shards=shards.describe(self.shard),
            cases=tuple(Entry(case=x, status=DONE, quality=dict(quality)) for x in unit.cases),
        )
        with self.world.elsewhere():
            head = runs.commit(self.recipe.output, record, self.shard)
        self.computed += len(task.cases)
        now = time.monotonic()
        log = SpanLog(spans=[Span("batch", MODEL, now - 0.01, now, 0.01)])
        self.outbox.append(UnitDone(unit=unit.index, counts=head.counts, incidents=(), log=log))
        if self.tasks:
            self._begin()

    def dismiss(self) -> None:
        self.exit_code = 0

    def kill(self, *, dump: bool = False) -> None:
        self.exit_code = -9

    def messages(self) -> list[Message]:
        found, self.outbox = self.outbox, []
        return found

    @property
    def pulse(self) -> PulseReading:
        return PulseReading(beats=self.computed, cases=self.computed)

    def close(self) -> None:
        pass


class SimulatedHosts:
    """A WorkersMaker, once it has a world."""

    def __init__(self, world: Simulation, recipe: Recipe, maker: PlanMaker, lock: object) -> None:
        self.world, self.recipe = world, recipe

    def start(self, device: Device, *, alone: bool) -> SimulatedHost:
        return SimulatedHost(self.world, self.recipe)

    def newcomers(self) -> Sequence[Device]:
        return ()

    def wait(self, workers: Sequence[Any], seconds: float) -> None:
        if not any(x.outbox for x in workers):
            self.world.advance()


def empty_archive(path: Path, cases: int) -> Path:
    """The metadata of an archive without a single image."""
    group = zarr.create_group(path)
    group.create_array("depths", shape=(cases, 5, *GRID), chunks=(1, 5, *GRID), dtype="u1")
    return path


def play(folder: Path, hosts: int, cases: int) -> dict[str, object]:
    """A whole run, and `status` of its output."""
    output = folder / f"{hosts}-{cases}.enhanced"
    job = Job(
        archive=open_archive(empty_archive(folder / f"{hosts}-{cases}.zarr", cases)),
        output=output,
        contract=contract(FRAME, depths=5),
        bundle="fake",
        devices=tuple(Device(kind="cuda", index=0, host=k) for k in range(1, hosts + 1)),
        batch_size=8,
    )
    world = Simulation()
    start, cpu = time.monotonic(), time.process_time()
    summary = enhance(job, make_mean_plan, workers=partial(SimulatedHosts, world))
    seconds, driver = time.monotonic() - start, time.process_time() - cpu - world.spent
    cpu = time.process_time()
    enhance(job, make_mean_plan, workers=partial(SimulatedHosts, world))
    again = time.process_time() - cpu
    return {
        "hosts": hosts,
        "cases": cases,
        "units": summary.units,
        "done": summary.counts[DONE],
        "seconds": round(seconds, 1),
        "driver_cpu_ms_per_unit": round(1000 * driver / summary.units, 2),
        "same_command_again_cpu_s": round(again, 2),
        "status_cpu_s": round(_cpu_of_status(output), 2),
        "hosts_busy_percent": round(100 * world.busy / (hosts * world.now), 1),
        "night_hours": round(world.now / 3600, 2),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def _cpu_of_status(output: Path) -> float:
    words = [*CLI, "status", str(output), "--json"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(words, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def measure(plays: Sequence[tuple[int, int]], folder: Path | None = None) -> dict[str, object]:
    """Plays runs of (hosts, cases), each in a process of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        rows = list(_rows(plays, Path(name)))
    return {
        "what": "a run over simulated hosts: the driver, ledger, queue and status are real",
        "machine": machine(),
        "case_s": CASE_TIME,
        "runs": rows,
    }


def _rows(plays: Sequence[tuple[int, int]], folder: Path) -> Iterator[dict[str, object]]:
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    for hosts, cases in plays:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            yield process.submit(play, folder, hosts, cases).result()
