"""Which way down a bundle recommends: by the quality of its results, where phantoms tell the truth.

With the scan as a second observation the first evaluation is the posterior mean already, and each
later one adds texture (SCIENCE.md): likeness to 1000 steps alone would reward evaluations that make
the image no better.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np

from mcdiff_batch.engine.image.frame import Image
from mcdiff_batch.engine.image.metrics import psnr
from mcdiff_batch.engine.model.contract import Contract, Sampler
from mcdiff_batch.engine.model.ladder import steps
from mcdiff_batch.engine.model.plan import Plan
from mcdiff_batch.engine.model.schedule import log_snr_ladder
from mcdiff_batch.engine.model.solver import FITTED, SOLVERS
from mcdiff_batch.train.evaluation.subject import Subject, read_image
from mcdiff_batch.train.segmenters.rater import SHIPPED as RATERS
from mcdiff_batch.train.segmenters.rater import Rater, load_rater

from .fidelity import Reference, ends_of, fidelity, samples
from .steps import MEDIAN_DB, MIN_DB

EVALUATIONS = (1, 2, 3, 4, 6, 10)  # of the published ladders that are always tried
ENOUGH = 2.0  # points below the best that fewer evaluations may be
PER_DB, PER_LEVEL = 20.0, 20.0  # points
Figures = dict[str, float]


def worth(figures: dict[str, Any]) -> float:
    """Points: 100 x the mean of the shares of the clean target's gain in CNR and in SNR, 20 a dB of
    PSNR to clean, less 20 a level lost or invented a case.

    So a tenth of a dB weighs as much as two hundredths of the gain, and as one level in ten cases.
    """
    shares = [figures[x] for x in ("cnr_share", "snr_share") if x in figures]
    gain = sum(shares) / max(1, len(shares))
    return float(100 * gain + PER_DB * figures["psnr_db"] - PER_LEVEL * figures["levels"])


def best(found: Sequence[Sampler]) -> Sampler:
    """The fewest evaluations within ENOUGH points of the highest `worth`.

    Without the truth: the fewest that are as near to 1000-step DDIM as the bar asks, or the
    nearest.
    """
    if all("psnr_db" in x.figures for x in found):
        highest = max(worth(x.figures) for x in found)
        able = [x for x in found if worth(x.figures) >= highest - ENOUGH]
        chosen = min(able, key=lambda x: (x.nfe, -worth(x.figures)))
        by = "quality to clean"
    else:
        able = [x for x in found if faithful(x)]
        nearest = max(found, key=lambda x: x.psnr_median_db)
        chosen = min(able, key=lambda x: x.nfe, default=nearest)
        by = "likeness to 1000-step DDIM"
    return dataclasses.replace(chosen, figures={**chosen.figures, "recommended_by": by})


def faithful(x: Sampler) -> bool:
    return x.psnr_median_db >= MEDIAN_DB and x.psnr_min_db >= MIN_DB


def recommended(
    contract: Contract, found: Sequence[Sampler], references: Sequence[Reference]
) -> Contract:
    """With the best of what was scored, the other fitted ladders, and the table of all of them."""
    chosen = best(found)
    fitted = (x for x in found if x.solver == FITTED)
    others = tuple(x for x in fitted if (x.nfe, x.ladder) != (chosen.nfe, chosen.ladder))
    end = {"solver": "ddim", "evaluations": contract.schedule.steps}
    table = (*map(row, found), end | figures(references, ends_of(references)))
    return dataclasses.replace(contract, sampler=chosen, ladders=others, scores=table)


def row(x: Sampler) -> dict[str, Any]:
    """Of the table."""
    near = {"psnr_median_db": x.psnr_median_db, "psnr_min_db": x.psnr_min_db}
    return {"solver": x.solver, "evaluations": x.nfe} | near | x.figures


def published(contract: Contract) -> Iterator[Sampler]:
    """By every solver, on ladders uniform in log-SNR; all are one where there is one evaluation."""
    for evaluations in EVALUATIONS:
        ladder = log_snr_ladder(contract.schedule, evaluations)
        for solver in list(SOLVERS)[: 1 if evaluations == 1 else None]:
            yield Sampler(
                solver=solver,
                ladder=ladder,
                nfe=evaluations,
                psnr_median_db=0,
                psnr_min_db=0,
                cases=0,
                temperature=contract.sampler.temperature,
            )


def scored(
    plan: Plan, contract: Contract, sampler: Sampler, references: Sequence[Reference]
) -> Sampler:
    """With its fidelity and its figures over the cases."""
    images = samples(plan, references, steps(contract, sampler))
    near = fidelity(references, images)
    return dataclasses.replace(
        sampler,
        psnr_median_db=round(float(np.median(near)), 2),
        psnr_min_db=round(float(near.min()), 2),
        cases=len(near),
        figures=figures(references, images),
    )


def figures(references: Sequence[Reference], images: Sequence[Image]) -> Figures:
    """`quality` of samples [1, 1, H, W], rounded; nothing where the truth is not known."""
    truths = [x.truth for x in references if x.truth is not None]
    if len(truths) < len(references):
        return {}
    units = [np.asarray((x[0, 0] + 1) / 2, np.float32) for x in images]
    return {name: round(x, 4) for name, x in quality(truths, units).items()}


def quality(truths: Sequence[Subject], images: Sequence[Image]) -> Figures:
    """Of images [H, W] in [0, 1] of phantoms, means over cases.

    psnr_db: to clean; cnr_db, snr_db: eq. 13 and 12, of 20 log10; cnr_share, snr_share: of the
    clean target's gain over the optimal depth; levels: lost or invented, as the first rater reads.
    """
    rows = [_contrasts(x, image) for x, image in zip(truths, images, strict=True)]
    near = [
        psnr(image, x.truth.clean, x.case.strip) for x, image in zip(truths, images, strict=True)
    ]
    read = [read_image(x, image, _rater()) for x, image in zip(truths, images, strict=True)]
    found = {"psnr_db": float(np.mean(near))}
    for i, name in enumerate(("cnr", "snr")):
        before, after, most = np.array([[y[i] for y in case] for case in rows]).T
        known = np.isfinite(before + after + most)
        if not known.any():  # no px of the ring, on a frame too coarse
            continue
        gain, ceiling = (float((x - before)[known].mean()) for x in (after, most))
        found |= {f"{name}_db": float(after[known].mean()), f"{name}_share": gain / ceiling}
    return found | {"levels": float(np.mean([x["lost"] + x["invented"] for x in read]))}


def _contrasts(x: Subject, image: Image) -> list[tuple[float, float]]:
    """(CNR, SNR) of the optimal depth, of the image, and of the clean target."""
    told = [x.contrast(y) for y in (x.depths[x.case.optimal], image, x.truth.clean)]
    return [(y["cnr_log10"], y["snr_log10"]) for y in told]


@cache
def _rater() -> Rater:
    return load_rater(RATERS[0])


def said(x: Sampler) -> str:
    """A line for a person."""
    line = (
        f"{x.nfe:>3} evaluations, {x.solver}: median {x.psnr_median_db} dB, minimum "
        f"{x.psnr_min_db} dB from 1000-step DDIM"
    )
    if "psnr_db" not in x.figures:
        return line
    shares = [
        f"{x.figures[key]:.0%} of the gain in {key[:3].upper()}, "
        for key in ("cnr_share", "snr_share")
        if key in x.figures
    ]
    return (
        f"{line}; {x.figures['psnr_db']:.2f} dB to clean, {''.join(shares)}"
        f"{x.figures['levels']:.2f} levels, {worth(x.figures):.1f} points"
    )
