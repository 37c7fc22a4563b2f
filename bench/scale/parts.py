"""Two parts of a run at once, a core each, against one run that has both cores.

    python -m mcdiff_batch.bench.scale.parts A.zarr --repeats 3 --output parts.json

The two ways take turns.  A run in parts counts from the start of the parts to the end of the
finish.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import click

from mcdiff_batch.bench.common.command import CLI
from mcdiff_batch.bench.common.document import publish
from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.files import file_sha256
from mcdiff_batch.engine.output import locks, runs
from mcdiff_batch.engine.output.units import Part
from mcdiff_batch.engine.report.timings import ended_runs
from mcdiff_batch.engine.run.job import UNIT_SIZE
from mcdiff_batch.engine.telemetry.machine import machine, package_version

COMMAND = [*CLI, "run"]
PARTS = 2
Json = dict[str, Any]


def begin(words: Sequence[object], cores: set[int]) -> subprocess.Popen[bytes]:
    """The command `run` on some cores."""
    return subprocess.Popen(
        [*COMMAND, *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )


def end(commands: Sequence[subprocess.Popen[bytes]]) -> float:
    """Waits for all of them.  Returns seconds of CPU time that they and their workers took."""
    spent = 0.0
    for command in commands:
        _, status, usage = os.wait4(command.pid, 0)
        command.returncode = os.waitstatus_to_exitcode(status)
        assert command.returncode == 0, f"exit code {command.returncode}"
        spent += usage.ru_utime + usage.ru_stime
    return spent


def measure_whole(archive: Path, output: Path, cores: Sequence[int]) -> Json:
    """One run with a worker on each core."""
    start = perf_counter()
    spent = end([begin([archive, "--output", output, "--devices", f"cpu:{PARTS}"], {*cores})])
    return {
        "way": "one run",
        "seconds": perf_counter() - start,
        "cpu_seconds": spent,
        "working_seconds": float(ended_runs(output)[-1]["seconds"]),
    }


def measure_parts(archive: Path, output: Path, cores: Sequence[int]) -> Json:
    """Parts at once, and then the finish."""
    words = [archive, "--output", output]
    start = perf_counter()
    spent = end(
        [
            begin([*words, "--devices", "cpu", "--part", f"{k}/{PARTS}"], {core})
            for k, core in enumerate(cores, 1)
        ]
    )
    done = perf_counter()
    spent += end([begin([*words, "--finish"], {*cores})])
    parts = [locks.part_folder(output, Part(number=k, count=PARTS)) for k in range(1, PARTS + 1)]
    return {
        "way": f"{PARTS} parts",
        "seconds": perf_counter() - start,
        "cpu_seconds": spent,
        "working_seconds": max(float(ended_runs(x)[-1]["seconds"]) for x in parts),
        "finish_seconds": perf_counter() - done,
    }


def measure_pair(archive: Path, scratch: Path, cores: Sequence[int], *, turned: bool) -> list[Json]:
    """Both ways, one after the other; their manifests have to be equal (P1)."""
    ways = [measure_whole, measure_parts]
    outputs = [scratch / way.__name__ for way in ways]
    order = [1, 0] if turned else [0, 1]
    rows = {k: ways[k](archive, outputs[k], cores) for k in order}
    one, other = (file_sha256(x / runs.MANIFEST) for x in outputs)
    assert one == other, "the manifests differ"
    for output in outputs:
        shutil.rmtree(output)
    return [rows[0], rows[1]]


def ratios(pairs: Sequence[Sequence[Json]], name: str) -> list[float]:
    """The rate of parts over that of one run, of each pair."""
    return [round(whole[name] / parts[name], 4) for whole, parts in pairs]


@click.command()
@click.argument("archive", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--note", default="", help="Remark to store with the figures.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path))
def main(archive: Path, repeats: int, note: str, output: Path | None) -> None:
    """Measure two parts at once against one run with the same cores."""
    cores = sorted(os.sched_getaffinity(0))[:PARTS]
    if len(cores) < PARTS:
        raise click.UsageError(f"needs {PARTS} cores")
    cases = open_archive(archive).cases
    pairs = []
    with tempfile.TemporaryDirectory() as name:
        for repeat in range(repeats):
            pairs.append(measure_pair(archive, Path(name), cores, turned=bool(repeat % 2)))
            click.echo(json.dumps(pairs[-1]))
    names = ("seconds", "working_seconds", "cpu_seconds")
    found = {x: ratios(pairs, x) for x in names}
    rows = [
        {k: round(v, 2) if isinstance(v, float) else v for k, v in row.items()}
        for pair in pairs
        for row in pair
    ]
    document = {
        "what": "rate of two parts at once, a core each, and a finish, over that of one run with a "
        "worker on each of the two cores",
        "bar": "0.95 or more",
        "cases": cases,
        "unit_size": UNIT_SIZE,
        "ratio": {x: round(median(found[x]), 4) for x in names},
        "ratios": found,
        "explained": "seconds: from the first process to the end of the last; working_seconds: "
        "without the start of processes, the loading of the model and the finish; cpu_seconds: of "
        "all processes, which other users of the machine disturb least",
        "note": note,
        "machine": machine(),
        "versions": {x: package_version(x) for x in ("mcdiff-batch", "onnxruntime", "numpy")},
        "runs": rows,
    }
    publish(document, output)


if __name__ == "__main__":
    main()
