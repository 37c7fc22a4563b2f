"""How few evaluations are enough: fidelity to 1000-step DDIM and to the truth, by sampler.

Rows and references are stored in a work folder, and the same command again continues from there.
Seconds depend on the load of the machine while they are measured.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.backends.ort import CPU, REFERENCE
from mcdiff_batch.engine.image.frame import Image
from mcdiff_batch.engine.model.batch import condition
from mcdiff_batch.engine.model.contract import Bundle, Contract, Sampler, load_bundle
from mcdiff_batch.engine.model.ladder import sampler_rungs
from mcdiff_batch.engine.model.plan import Plan
from mcdiff_batch.engine.model.schedule import log_snr_ladder, uniform_ladder
from mcdiff_batch.engine.model.solver import FITTED, SOLVERS
from mcdiff_batch.engine.telemetry.machine import machine
from mcdiff_batch.export.recommend import figures
from mcdiff_batch.export.references import (
    Reference,
    fidelity_db,
    read_with_truth,
    reference_images,
    sample_cases,
    walk_reference,
)
from mcdiff_batch.export.steps import MEDIAN_DB, MIN_DB
from mcdiff_batch.train.evaluation.subject import read_image
from mcdiff_batch.train.segmenters.rater import SHIPPED as RATERS
from mcdiff_batch.train.segmenters.rater import Rater, load_rater

Say = Callable[[str], None]
Row = dict[str, Any]
LADDERS = {"log-SNR": log_snr_ladder, "uniform in t": uniform_ladder}
ANGLES = ("thoracic_off", "lumbar_off")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to measure, and how."""

    bundle: Path
    data: Path  # phantoms
    cases: int
    evaluations: Sequence[int]
    work: Path
    times: bool  # whether to report seconds
    say: Say


def measure(options: Options) -> dict[str, Any]:
    """Measures every sampler; the document."""
    bundle = load_bundle(options.bundle)
    contract = bundle.contract
    plan = REFERENCE.load(bundle, CPU, batch=1)
    references = [
        walk_reference(plan, contract, case, options.work, truth)
        for case, truth in read_with_truth(options.data, contract, options.cases)
    ]
    rater = load_rater(RATERS[0])
    rows = []
    for name, sampler in samplers(contract, options.evaluations):
        row = partial(_row, plan, contract, sampler, references, rater)
        rows.append(_stored_row(options, bundle, name, sampler, row))
        options.say(as_line(rows[-1]))
    ends = _row(plan, contract, None, references, rater)
    times = {"conditioner_s": _conditioner_seconds(plan, references)} if options.times else {}
    return {
        "what": "samples of few evaluations against 1000-step DDIM from the same x_T, dB, range 2, "
        "inside the strip; PSNR to clean, CNR, SNR, dB, and the shares of the clean target's gain; "
        "levels lost or invented; error of the curve angles, degrees; means over cases",
        "machine": machine(),
        "bundle": contract.name,
        "bundle_sha256": bundle.sha256,
        "temperature": contract.sampler.temperature,
        "archive": open_archive(options.data).identity,
        "cases": len(references),
        **times,
        "reference": {"solver": "ddim", "evaluations": contract.schedule.steps, **ends},
        "runs": [row if options.times else _without_times(row) for row in rows],
    }


def samplers(contract: Contract, evaluations: Sequence[int]) -> Iterator[tuple[str, Sampler]]:
    """(name of the ladder, sampler): published ones for each count, then the bundle's own."""
    for count in evaluations:
        for solver, (name, ladder) in product(SOLVERS, LADDERS.items()):
            yield name, _published(contract, solver, ladder(contract.schedule, count))
    for sampler in sorted((contract.sampler, *contract.ladders), key=lambda x: x.nfe):
        yield (FITTED if sampler.solver == FITTED else "the bundle's"), sampler


def _published(contract: Contract, solver: str, ladder: tuple[float, ...]) -> Sampler:
    return replace(
        contract.sampler, solver=solver, ladder=ladder, nfe=len(ladder), weights=(), figures={}
    )


def _stored_row(
    options: Options, bundle: Bundle, name: str, sampler: Sampler, row: Callable[[], Row]
) -> Row:
    """The row of a sampler, from the work folder if it is stored there."""
    contract = bundle.contract
    inputs = [contract.conditioner.sha256, contract.denoiser.sha256]
    inputs += [open_archive(options.data).identity, str(options.cases)]
    inputs += [repr((sampler.solver, sampler.ladder, sampler.weights, sampler.temperature))]
    path = options.work / f"row-{hashlib.sha256(repr(inputs).encode()).hexdigest()[:24]}.json"
    if not path.exists():
        part = path.with_suffix(".part")
        part.write_text(json.dumps(row()))
        part.replace(path)
    head = {"evaluations": sampler.nfe, "solver": sampler.solver, "ladder": name}
    return {**head, **json.loads(path.read_text())}


def _row(
    plan: Plan,
    contract: Contract,
    sampler: Sampler | None,
    references: Sequence[Reference],
    rater: Rater,
) -> Row:
    """The figures of a sampler; None: of the references themselves."""
    begun = time.perf_counter()
    if sampler is None:
        images = reference_images(references)
        row: Row = {}
    else:
        images = sample_cases(plan, references, sampler_rungs(contract, sampler))
        seconds = (time.perf_counter() - begun) / len(references)
        near = fidelity_db(references, images)
        row = {
            "psnr_median_db": round(float(np.median(near)), 2),
            "psnr_min_db": round(float(near.min()), 2),
            "denoiser_s": round(seconds, 3),
        }
    return row | figures(references, images) | _angles(references, images, rater)


def _angles(references: Sequence[Reference], images: Sequence[Image], rater: Rater) -> Row:
    """The mean error of the curve angles that the rater reads from the images, degrees."""
    units = [np.asarray((x[0, 0] + 1) / 2, np.float32) for x in images]
    read = [
        read_image(x.truth, unit, rater)
        for x, unit in zip(references, units, strict=True)
        if x.truth is not None
    ]
    columns = {name: [row[name] for row in read] for name in ANGLES}
    return {
        f"{name}_deg": round(float(np.nanmean(x)), 2)
        for name, x in columns.items()
        if np.isfinite(x).any()
    }


def _conditioner_seconds(plan: Plan, references: Sequence[Reference]) -> float:
    """The mean seconds of a case."""
    begun = time.perf_counter()
    for x in references:
        condition(plan, [x.case])
    return round((time.perf_counter() - begun) / len(references), 3)


def _without_times(row: Row) -> Row:
    return {name: x for name, x in row.items() if not name.endswith("_s")}


def as_line(row: Row) -> str:
    return (
        f"{row['evaluations']:>4} {row['solver']:<9}{row['ladder']:<13}"
        f"{row['psnr_median_db']:6.1f} (min {row['psnr_min_db']:.1f}) dB"
    )


def draw(document: dict[str, Any], output: Path) -> None:
    """Writes a PNG: fidelity and PSNR to clean against the number of evaluations."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    for (solver, ladder), rows in _lines(document["runs"]).items():
        fitted = solver == FITTED
        style: Row = {"lw": 2.6, "ms": 5} if fitted else {"lw": 1.2, "ms": 3}
        x = [row["evaluations"] for row in rows]
        label = solver if fitted else f"{solver}, {ladder}"
        column = lambda name, rows=rows: [row.get(name, np.nan) for row in rows]
        (line,) = left.plot(x, column("psnr_median_db"), "-o", label=label, **style)
        left.plot(x, column("psnr_min_db"), color=line.get_color(), lw=0.8, ls=":")
        right.plot(x, column("psnr_db"), "-o", color=line.get_color(), **style)
    last = max(row["evaluations"] for row in document["runs"])
    _level(left, last, MEDIAN_DB, "bar for the median")
    _level(left, last, MIN_DB, "bar for the minimum")
    if "psnr_db" in document["reference"]:
        _level(right, last, document["reference"]["psnr_db"], "1000 steps")
    left.set_title("Samples to 1000-step DDIM, dB (dotted: minimum)", loc="left", fontsize=10)
    right.set_title("Results to the clean target, dB", loc="left", fontsize=10)
    ticks = sorted({row["evaluations"] for row in document["runs"]})
    for panel in (left, right):
        panel.set_xscale("log")
        panel.set_xticks(ticks, [str(x) for x in ticks])
        panel.minorticks_off()
        panel.set_xlabel("network evaluations a case")
        panel.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False, fontsize=8)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=120, metadata={"Software": None})
    plt.close(figure)


def _level(panel: Any, x: float, y: float, name: str) -> None:
    panel.axhline(y, color="0.5", lw=0.8, ls="--")
    panel.annotate(name, (x, y), (0, 3), textcoords="offset points", ha="right", fontsize=8)


def _lines(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    lines: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda x: x["evaluations"]):
        lines.setdefault((row["solver"], row["ladder"]), []).append(row)
    return lines
