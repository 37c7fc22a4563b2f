"""How long a reader waits for the page of `mcdiff-batch review`, with very many cases.

The cases are phantoms, enhanced by a plan without a model; the files of a few of them stand for
all, by hard links, because what is measured does not depend on what the images show.
"""

import json
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import zarr

from mcdiff_batch.bench.common.browser import Browser, chromium
from mcdiff_batch.bench.common.command import CLI
from mcdiff_batch.bench.common.mean_plan import contract, make_mean_plan
from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.image.frame import Frame
from mcdiff_batch.engine.model.plan import Device
from mcdiff_batch.engine.output import ledger, runs, shards
from mcdiff_batch.engine.review.session import Session
from mcdiff_batch.engine.run.enhance import enhance
from mcdiff_batch.engine.run.job import Job
from mcdiff_batch.engine.telemetry.machine import machine

FRAME = Frame(height=512, width=128)
REAL, UNIT = 64, 32  # cases with files of their own, and cases of a unit
COLUMNS = ("extent", "optimal_depth", "depth_present", "pixel_spacing_mm")
SHOWN = 'document.getElementById("stage").dataset.case'
TOOK = 'Number(document.getElementById("stage").dataset.ms)'
BAR_MS = 100
Waits = tuple[str, list[float]]  # what was waited for, and ms


def measure(cases: int, repeats: int) -> dict[str, object]:
    """Milliseconds from a key to the picture, and of the beginning.  Needs chromium."""
    from mcdiff_batch.train.phantom.archive import write_phantoms

    with tempfile.TemporaryDirectory(prefix="mcdiff-review-") as name:
        root = Path(name)
        write_phantoms(root / "real.zarr", cases=REAL, seed=4000, workers=1)
        _enhance(root / "real.zarr", root / "real.enhanced")
        repeat_archive(root / "real.zarr", root / "many.zarr", cases)
        repeat_run(root / "real.enhanced", root / "many.enhanced", root / "many.zarr", cases)
        with serving(root / "many.enhanced") as (url, process, seconds), chromium(900) as browser:
            rows: list[Waits] = [("command to address", [1000 * seconds])]
            rows += list(_look(browser, url, repeats))
            resident = psutil.Process(process.pid).memory_info().rss
            load = os.getloadavg()[0]
        cpu, wall = _read_some(root / "many.enhanced", repeats)
    return {
        "what": "waiting for a picture of the review page, ms",
        "machine": machine(),
        "load_average": round(load, 1),  # of other programs, which make the reader wait longer
        "niceness": os.nice(0),
        "server_ms_a_case": {"cpu": round(cpu, 1), "wall": round(wall, 1)},  # equal if none do
        "cases": cases,
        "bar_ms": BAR_MS,
        "resident_mib": round(resident / 2**20),
        "runs": [_summarise(*row) for row in rows],
    }


def _summarise(what: str, ms: Sequence[float]) -> dict[str, object]:
    low, high = np.percentile(ms, (50, 95))
    points = {"p50": round(float(low), 1), "p95": round(float(high), 1), "max": round(max(ms), 1)}
    return {"what": what, "times": len(ms), **points}


def _enhance(archive: Path, output: Path) -> None:
    job = Job(
        archive=open_archive(archive),
        output=output,
        contract=contract(FRAME),
        bundle="none",
        unit_size=UNIT,
        devices=(Device(kind="cpu", index=0),),
    )
    enhance(job, make_mean_plan)


def repeat_archive(source: Path, target: Path, cases: int) -> None:
    """An archive of `cases` cases, whose images are those of `source` again and again."""
    old = zarr.open_group(source, mode="r")
    new = zarr.create_group(target, attributes=dict(old.attrs))
    real = open_archive(source).cases
    rows = np.arange(cases) % real
    for name in (x for x in COLUMNS if x in old):
        values = np.asarray(old[name])[rows]
        new.create_array(name, data=values, chunks=values.shape)
    (target / "depths").mkdir()
    _resize(source / "depths/zarr.json", target / "depths/zarr.json", cases)
    for case in range(cases):
        for file in (source / f"depths/c/{case % real}").rglob("*"):
            if file.is_file():
                other = target / f"depths/c/{case}" / Path(*file.relative_to(source).parts[3:])
                other.parent.mkdir(parents=True)
                other.hardlink_to(file)


def repeat_run(source: Path, target: Path, archive: Path, cases: int) -> None:
    """The output of a run on `archive`, from that of a run on the archive that it repeats."""
    for file in (source / shards.FOLDER).rglob("zarr.json"):
        other = target / file.relative_to(source)
        other.parent.mkdir(parents=True, exist_ok=True)
        _resize(file, other, cases)
    run = runs.load_existing(source)
    size = run.settings.unit_size
    records = [ledger.read(source, unit) for unit in ledger.list_units(source)]
    for unit in range(cases // size):
        record = records[unit % len(records)]
        first = unit * size
        entries = tuple(replace(x, case=first + k) for k, x in enumerate(record.cases))
        ledger.write(target, replace(record, unit=unit, first=first, cases=entries))
        for name in record.shards:
            other = target / shards.shard_name(name, unit)
            other.parent.mkdir(parents=True)
            other.hardlink_to(source / shards.shard_name(name, record.unit))
    chosen = f"0-{cases // size * size - 1}"
    settings = replace(run.settings, archive=open_archive(archive).identity, cases=chosen)
    runs.save(target, replace(run, settings=settings))


def _resize(source: Path, target: Path, cases: int) -> None:
    """Copies the metadata of an array, or of a group, with another number of cases."""
    document = json.loads(source.read_text())
    if "shape" in document:
        document["shape"][0] = cases
    target.write_text(json.dumps(document))


@contextmanager
def serving(output: Path, *words: str) -> Iterator[tuple[str, "subprocess.Popen[str]", float]]:
    """The address of a review, its process, and the seconds until it answered."""
    began = time.perf_counter()
    command = [*CLI, "review", str(output), *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        url = process.stdout.readline().strip()
        yield url, process, time.perf_counter() - began
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


def _read_some(output: Path, count: int) -> tuple[float, float]:
    """Milliseconds of CPU and of the clock for one case: reading, checking, placing."""
    session = Session(out=output)
    chance = random.Random(1)
    cases = [chance.randrange(REAL) for _ in range(count)]
    cpu, wall = time.process_time(), time.perf_counter()
    for case in cases:
        session.show(case, blind=False)
    return (
        1000 * (time.process_time() - cpu) / count,
        1000 * (time.perf_counter() - wall) / count,
    )


def _look(browser: Browser, url: str, repeats: int) -> Iterator[Waits]:
    """A reader who opens the page, leafs from case to case, and jumps to any of them."""
    began = time.perf_counter()
    browser.open(url)
    browser.wait_for(SHOWN, 60)
    yield "page to first picture", [1000 * (time.perf_counter() - began)]
    order = browser.evaluate("fetch('cases').then(x => x.json()).then(x => x.cases)")
    leafed, jumped, judged = [], [], []
    chance = random.Random(0)
    at = 0
    for _ in range(repeats):
        leafed.append(_wait(browser, order[at + 1], "ArrowRight"))
        at = chance.randrange(len(order) - 2)
        browser.press("g")
        browser.call("Input.insertText", text=str(order[at]))
        jumped.append(_wait(browser, order[at], "Enter"))
        judged.append(_wait(browser, order[at + 1], "a"))
        at += 1
    yield "arrow key to picture of the next case", leafed
    yield "jump to picture of any case", jumped
    yield "verdict to picture of the next case", judged


def _wait(browser: Browser, case: int, key: str) -> float:
    """Milliseconds until the picture of `case` is on the screen, as the page measures them."""
    browser.press(key)
    browser.wait_for(f'{SHOWN} === "{case}"', 60)
    time.sleep(0.2)  # a reader looks at it; meanwhile the page fetches the next case
    return float(browser.evaluate(TOOK))
