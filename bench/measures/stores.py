"""Whether a device waits for an archive in a store: the share of a run in which it computes.

    python -c "from pathlib import Path; from mcdiff_batch.bench.measures.memory import synthetic
    synthetic(Path('A.zarr'), 1500)"
    python -m tests.support.stores A.zarr --delay 0.02 -- \\
        python -m mcdiff_batch.bench.measures.stores A.zarr s3://bench/A.zarr \\
            --rate 1.5 --rate 50 --output bench/results/beyond_stores.json

The second command serves a folder by moto, 20 ms late at every request, and runs the rest of it.
The device is a plan without a model that takes as long as a device of `rate` cases/s would.
"""

import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from mcdiff_batch.bench.common.document import publish
from mcdiff_batch.bench.common.mean_plan import MeanPlan, contract
from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.cloud.place import Place, parse_place
from mcdiff_batch.engine.files import json_lines
from mcdiff_batch.engine.image.frame import Frame, Image, Labels
from mcdiff_batch.engine.model.plan import Conditioning, Device, Plan
from mcdiff_batch.engine.model.solver import Rung
from mcdiff_batch.engine.run.enhance import enhance
from mcdiff_batch.engine.run.job import Job
from mcdiff_batch.engine.telemetry.machine import machine, package_version
from mcdiff_batch.engine.telemetry.spans import BLOCKED, LOAD, MODEL, START, WAIT
from mcdiff_batch.engine.telemetry.timesheet import TIMINGS

LARGEST = 512, 128  # px of the frame; smaller for archives of smaller images
BATCH = 8  # cases, as on a GPU
Json = dict[str, Any]


@dataclass(slots=True)
class PacedPlan:
    """The mean plan, as fast as a device of `rate` cases/s."""

    plan: MeanPlan
    rate: float
    until: float = 0.0

    @property
    def batch(self) -> int:
        return self.plan.batch

    def condition(self, depths: Image, weights: Image, strip: Image, scan: Image) -> Conditioning:
        self.until = time.monotonic() + self.batch / self.rate
        return self.plan.condition(depths, weights, strip, scan)

    def step(
        self, x: Image, previous: Image, rung: Rung, conditioned: Conditioning
    ) -> tuple[Image, Image]:
        return self.plan.step(x, previous, rung, conditioned)

    def relabel(self, images: Image, strip: Image) -> Labels:
        found = self.plan.relabel(images, strip)
        time.sleep(max(0.0, self.until - time.monotonic()))
        return found


@dataclass(frozen=True, slots=True)
class PacedMaker:
    """A PlanMaker."""

    rate: float

    def __call__(self, device: Device, batch: int) -> Plan:
        return PacedPlan(MeanPlan(batch), self.rate)


def measure_run(place: Place, rate: float, seconds: float, output: Path) -> Json:
    """A run of about so many seconds.  Shares are of the time from the device's first batch to its
    last."""
    archive = open_archive(place)
    job = Job(
        archive=archive,
        output=output,
        contract=contract(_frame(archive.grid), depths=archive.depths),
        bundle="fake",
        devices=(Device(kind="cpu", index=0),),
        batch_size=BATCH,
        limit=max(BATCH, int(rate * seconds)),
    )
    summary = enhance(job, PacedMaker(rate))
    lines = list(json_lines(output / TIMINGS))
    spent = Counter[str]()
    for line in lines:
        spent.update(line["lanes"].get(MODEL, {}))
    outside = spent.pop(START, 0) + spent.pop(LOAD, 0)
    first = _find_first_wait(lines[0])
    spent[WAIT] -= first  # type: ignore[assignment]
    total = sum(spent.values())
    share = lambda *stages: round(100 * sum(spent[x] for x in stages) / total, 2)
    return {
        "input": "store" if not isinstance(place, Path) else "disk",
        "rate": rate,
        "cases": summary.counts["done"],
        "computing_percent": round(100 - share(WAIT, BLOCKED), 2),
        "waiting_for_input_percent": share(WAIT),
        "waiting_for_results_to_be_taken_percent": share(BLOCKED),
        "device_seconds": round(total, 2),
        "start_seconds": round(outside, 2),
        "first_wait_seconds": round(first, 2),
        "run_seconds": round(summary.seconds, 2),
    }


def _find_first_wait(line: Json) -> float:
    """Seconds from the moment when the device was ready to its first batch."""
    waits = [x for x in line["gaps"] if x[0] not in (START, LOAD, BLOCKED)]
    return float(min(waits, key=lambda x: x[1])[2]) if waits else 0.0


def _frame(grid: tuple[int, int]) -> Frame:
    height, width = (min(n, most) // 16 * 16 for n, most in zip(grid, LARGEST, strict=True))
    return Frame(height=height, width=width)


def measure(
    places: tuple[Place, ...], rates: tuple[float, ...], seconds: float, repeats: int
) -> Iterator[Json]:
    """All places in turn, again and again."""
    with tempfile.TemporaryDirectory() as name:
        for rate in rates:
            for repeat in range(repeats):
                for k, place in enumerate(places):
                    output = Path(name) / f"{rate}-{repeat}-{k}"
                    load = os.getloadavg()[0]
                    yield measure_run(place, rate, seconds, output) | {"load": round(load, 1)}


@click.command()
@click.argument("places", type=parse_place, nargs=-1, required=True, metavar="ARCHIVE...")
@click.option(
    "--rate", "rates", type=float, multiple=True, default=(50.0,), help="Rate of a plan, cases/s."
)
@click.option("--seconds", type=float, default=30.0, help="Length of a run, s.")
@click.option("--repeats", type=click.IntRange(min=1), default=2)
@click.option("--note", default="", help="Remark to store with the figures.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path))
def main(
    places: tuple[Place, ...],
    rates: tuple[float, ...],
    seconds: float,
    repeats: int,
    note: str,
    output: Path | None,
) -> None:
    """Measure how long a device waits for archives in folders and object stores."""
    rows = []
    for row in measure(places, rates, seconds, repeats):
        click.echo(json.dumps(row))
        rows.append(row)
    medians = [
        {
            "input": kind,
            "rate": rate,
            "computing_percent": float(np.median([x["computing_percent"] for x in found])),
        }
        for rate in rates
        for kind in ("disk", "store")
        if (found := [x for x in rows if (x["rate"], x["input"]) == (rate, kind)])
    ]
    versions = {x: package_version(x) for x in ("mcdiff-batch", "obstore", "numpy", "zarr")}
    document = {
        "what": "share of the device's time, from its first batch to its last, in which it "
        "computes; a device without a model that takes as long as one of `rate` cases/s",
        "bar": "store: 99 % or more",
        "batch_size": BATCH,
        "note": note,
        "machine": machine(),
        "versions": versions,
        "medians": medians,
        "runs": rows,
    }
    publish(document, output)


if __name__ == "__main__":
    main()
