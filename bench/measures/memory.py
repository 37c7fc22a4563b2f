"""Peak resident memory of a run against its number of cases, with a plan without a model (P8).

Each run is a new process over a synthetic archive of small, different cases.  So this measures the
runtime: archive, reading, units, ledger, shards, pool, manifest.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from mcdiff_batch.bench.common.mean_plan import contract, make_mean_plan
from mcdiff_batch.engine.image.frame import Frame
from mcdiff_batch.engine.telemetry.machine import machine

FRAME = Frame(height=64, width=16)
GRID = (80, 20)

CHILD = """
import json, resource, sys
from pathlib import Path
from mcdiff_batch.bench.measures.memory import run_fake
run_fake(Path(sys.argv[1]), Path(sys.argv[2]))
peak = lambda who: resource.getrusage(who).ru_maxrss / 1024
parent, worker = peak(resource.RUSAGE_SELF), peak(resource.RUSAGE_CHILDREN)
print(json.dumps({"parent_mib": round(parent, 1), "worker_mib": round(worker, 1)}))
"""


def synthetic(path: Path, cases: int) -> Path:
    """Writes an archive of noise in which all cases differ: u1, five depths, chunk = 1 case."""
    group = zarr.create_group(path)
    array = group.create_array(
        "depths",
        shape=(cases, 5, *GRID),
        chunks=(1, 5, *GRID),
        dtype="u1",
        compressors=ZstdCodec(checksum=True),
    )
    rng = np.random.default_rng(0)
    for first in range(0, cases, 256):
        count = min(256, cases - first)
        array[first : first + count] = rng.integers(1, 255, (count, 5, *GRID), dtype=np.uint8)
    return path


def run_fake(archive: Path, output: Path) -> None:
    """A whole run with a plan without a model; called in the child."""
    from mcdiff_batch.engine.archive.archive import open_archive
    from mcdiff_batch.engine.model.plan import Device
    from mcdiff_batch.engine.run.enhance import enhance
    from mcdiff_batch.engine.run.job import Job

    job = Job(
        archive=open_archive(archive),
        output=output,
        contract=contract(FRAME, depths=5),
        bundle="fake",
        devices=(Device(kind="cpu", index=0),),
    )
    enhance(job, make_mean_plan)


def measure(cases: tuple[int, ...]) -> dict[str, object]:
    """The peak resident MiB of parent and worker, for each number of cases."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for count in cases:
            archive = synthetic(Path(name) / f"{count}.zarr", count)
            words = [sys.executable, "-c", CHILD, str(archive), str(archive.with_suffix(".out"))]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            rows.append({"cases": count, **json.loads(done.stdout.splitlines()[-1])})
    return {
        "what": "peak resident memory, plan without a model",
        "machine": machine(),
        "runs": rows,
    }
