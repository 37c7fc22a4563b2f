"""What a run over Ray costs: its rate beside processes of this machine, and its driver's memory.

Each run is a process of its own.  The plan has no model: it takes a fixed time for a batch, as a
GPU does, so what is seen is how well its workers are kept busy.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from mcdiff_batch.bench.common.mean_plan import MeanPlan, contract
from mcdiff_batch.bench.common.ray_cluster import ray_cluster
from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.image.frame import Image
from mcdiff_batch.engine.model.plan import Conditioning, Device, Plan
from mcdiff_batch.engine.run.enhance import enhance
from mcdiff_batch.engine.run.job import Job
from mcdiff_batch.engine.telemetry.machine import machine
from mcdiff_batch.engine.telemetry.timesheet import TIMINGS

from .memory import FRAME, GRID, synthetic

UNIT = 4  # cases, one batch
BATCH_TIME = 0.5  # s
CHILD = "import sys; from mcdiff_batch.bench.measures.hosts import main; main(sys.argv[1])"


@dataclass(frozen=True, slots=True)
class PacedPlan(MeanPlan):
    """Takes at least BATCH_TIME for a batch, and waits without using the CPU."""

    seconds: float = 0.0

    def condition(self, depths: Image, weights: Image, strip: Image, scan: Image) -> Conditioning:
        time.sleep(self.seconds)
        return MeanPlan.condition(self, depths, weights, strip, scan)


@dataclass(frozen=True, slots=True)
class PacedMaker:
    """A PlanMaker."""

    seconds: float

    def __call__(self, device: Device, batch: int) -> Plan:
        return PacedPlan(batch, self.seconds)


def main(text: str) -> None:
    """One run, in a process of its own; prints what it measured."""
    from mcdiff_batch.engine.cluster.place import workplace

    asked = json.loads(text)
    output = Path(asked["output"])
    job = Job(
        archive=open_archive(Path(asked["archive"])),
        output=output,
        contract=contract(FRAME, depths=5),
        bundle="fake",
        devices=tuple(Device(kind="cpu", index=k) for k in range(asked["workers"])),
        batch_size=UNIT,
        unit_size=asked["unit"],
    )
    start = time.monotonic()
    with workplace(asked["on"], job.devices) as (devices, workers):
        maker = PacedMaker(asked["seconds"])
        summary = enhance(replace(job, devices=devices), maker, workers=workers)
        seconds = time.monotonic() - start
    spent = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "units": summary.units,
                "seconds": round(seconds, 2),
                "units_per_s": round(_steady_rate(output, len(devices)), 4),
                "driver_cpu_s": round(spent.ru_utime + spent.ru_stime, 2),
                "driver_peak_mib": round(spent.ru_maxrss / 1024, 1),
            }
        )
    )


def _steady_rate(output: Path, workers: int) -> float:
    """Units per second once every worker has done one: neither the start nor the end counts."""
    lines = (output / TIMINGS).read_text().splitlines()
    at = sorted(float(json.loads(line)["at"]) for line in lines)
    return (len(at) - workers) / max(at[-1] - at[workers - 1], 1e-9)


def run(folder: Path, archive: Path, **asked: Any) -> dict[str, Any]:
    """asked: on, workers, seconds, unit."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        words = asked | {"archive": str(archive), "output": f"{name}/out"}
        done = subprocess.run(
            [sys.executable, "-c", CHILD, json.dumps(words)], capture_output=True, text=True
        )
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure_rates(
    units: int, pairs: int, nodes: Sequence[int] = (1, 2)
) -> Iterator[dict[str, object]]:
    """Processes and Ray in turn, for each number of nodes; each node has one worker."""
    with tempfile.TemporaryDirectory() as name, _cluster() as cluster:
        folder = Path(name)
        archive = synthetic(folder / "paced.zarr", units * UNIT)
        for workers in nodes:
            cluster.keep(workers)
            ways = {"processes": workers, f"ray={cluster.address}": 1}
            for on, count in list(ways.items()) * pairs:
                found = run(folder, archive, on=on, workers=count, seconds=BATCH_TIME, unit=UNIT)
                load = round(os.getloadavg()[0], 1)
                way = on.partition("=")[0]
                yield {"way": way, "workers": workers, **found, "load_average": load}


def measure_memory(cases: Sequence[int]) -> Iterator[dict[str, object]]:
    """The driver's peak memory over Ray, for several numbers of cases."""
    with tempfile.TemporaryDirectory() as name, _cluster() as cluster:
        cluster.keep(1)
        on = f"ray={cluster.address}"
        for count in cases:
            archive = sparse(Path(name) / f"{count}.zarr", count)
            found = run(Path(name), archive, on=on, workers=1, seconds=0.0, unit=32)
            yield {"way": "ray", "cases": count, **found}


def _cluster() -> Any:
    nice = {"RAY_worker_niceness": "0"}  # as processes have it: Ray's own would be 15
    return ray_cluster(nice)


def sparse(path: Path, cases: int) -> Path:
    """An archive of which one case in 32 has images.  The others fail at once, which is quick, and
    for the driver a case like any other."""
    group = zarr.create_group(path)
    array = group.create_array("depths", shape=(cases, 5, *GRID), chunks=(1, 5, *GRID), dtype="u1")
    rng = np.random.default_rng(0)
    for case in range(0, cases, 32):
        array[case] = rng.integers(1, 255, (5, *GRID), dtype=np.uint8)
    return path


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Ray's rate over that of processes, by the number of workers: the median of neighbours."""
    out = {}
    for workers in sorted({x["workers"] for x in rows}):
        rates = {
            way: [x["units_per_s"] for x in rows if (x["way"], x["workers"]) == (way, workers)]
            for way in ("processes", "ray")
        }
        shares = [ray / here for here, ray in zip(*rates.values(), strict=True)]
        out[f"ray_over_processes_{workers}"] = round(float(np.median(shares)), 4)
    return out


def measure(
    units: int, pairs: int, nodes: Sequence[int], cases: Sequence[int]
) -> dict[str, object]:
    """All of it."""
    rates = list(measure_rates(units, pairs, nodes))
    return {
        "what": "a run over Ray: rate beside processes, memory of the driver",
        "machine": machine(("ray",)),
        "batch_s": BATCH_TIME,
        "unit": UNIT,
        **summarise(rates),
        "runs": [*rates, *measure_memory(cases)],
    }
