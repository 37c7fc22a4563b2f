"""Chooses the sampler that a bundle recommends, by the quality of its images.

With the scan as a second observation, the first evaluation already gives the posterior mean, and
each later one adds texture.  Likeness to 1000 steps alone would reward evaluations that do not
make the image better; it decides only where cases have no truth.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np

from mcdiff_batch.engine.image.frame import Image
from mcdiff_batch.engine.image.metrics import psnr
from mcdiff_batch.engine.model.contract import Contract, Sampler
from mcdiff_batch.engine.model.ladder import sampler_rungs
from mcdiff_batch.engine.model.plan import Plan
from mcdiff_batch.engine.model.schedule import log_snr_ladder
from mcdiff_batch.engine.model.solver import FITTED, SOLVERS
from mcdiff_batch.train.evaluation.subject import Subject, read_image
from mcdiff_batch.train.segmenters.rater import SHIPPED as RATERS
from mcdiff_batch.train.segmenters.rater import Rater, load_rater

from .references import Reference, fidelity_db, reference_images, sample_cases
from .steps import MEDIAN_DB, MIN_DB

EVALUATIONS = (1, 2, 3, 4, 6, 10)  # of the published ladders, which are always scored
ENOUGH = 2.0  # fewer evaluations may be so many points below the best
PER_DB, PER_LEVEL = 20.0, 20.0  # points
Figures = dict[str, float]


def worth(figures: dict[str, Any]) -> float:
    """The points of a sampler.

    100 x the mean share of the clean target's gain in CNR and SNR, plus 20 per dB of PSNR to clean,
    less 20 per level lost or invented in a case.  So a tenth of a dB counts as much as two
    hundredths of the gain, or one level in ten cases.
    """
    shares = [figures[x] for x in ("cnr_share", "snr_share") if x in figures]
    gain = sum(shares) / max(1, len(shares))
    return float(100 * gain + PER_DB * figures["psnr_db"] - PER_LEVEL * figures["levels"])


def choose_sampler(samplers: Sequence[Sampler]) -> Sampler:
    """The sampler with the fewest evaluations within ENOUGH points of the best.

    Without a truth: the fewest evaluations that reach the bars against 1000-step DDIM, or the
    nearest to it.
    """
    if all("psnr_db" in x.figures for x in samplers):
        highest = max(worth(x.figures) for x in samplers)
        able = [x for x in samplers if worth(x.figures) >= highest - ENOUGH]
        chosen = min(able, key=lambda x: (x.nfe, -worth(x.figures)))
        by = "quality to clean"
    else:
        able = [x for x in samplers if faithful(x)]
        nearest = max(samplers, key=lambda x: x.psnr_median_db)
        chosen = min(able, key=lambda x: x.nfe, default=nearest)
        by = "likeness to 1000-step DDIM"
    return dataclasses.replace(chosen, figures={**chosen.figures, "recommended_by": by})


def faithful(x: Sampler) -> bool:
    """Whether a sampler reaches the bars against 1000-step DDIM."""
    return x.psnr_median_db >= MEDIAN_DB and x.psnr_min_db >= MIN_DB


def recommend(
    contract: Contract, samplers: Sequence[Sampler], references: Sequence[Reference]
) -> Contract:
    """The contract with the best sampler, the other fitted ladders, and the table of all scores."""
    winner = choose_sampler(samplers)
    fitted = (x for x in samplers if x.solver == FITTED)
    others = tuple(x for x in fitted if (x.nfe, x.ladder) != (winner.nfe, winner.ladder))
    end = {"solver": "ddim", "evaluations": contract.schedule.steps}
    table = (*map(row, samplers), end | figures(references, reference_images(references)))
    return dataclasses.replace(contract, sampler=winner, ladders=others, scores=table)


def row(x: Sampler) -> dict[str, Any]:
    """A row of the table."""
    near = {"psnr_median_db": x.psnr_median_db, "psnr_min_db": x.psnr_min_db}
    return {"solver": x.solver, "evaluations": x.nfe} | near | x.figures


def published_samplers(contract: Contract) -> Iterator[Sampler]:
    """Every solver on ladders uniform in log-SNR; with one evaluation all solvers are the same."""
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


def score(
    plan: Plan, contract: Contract, sampler: Sampler, references: Sequence[Reference]
) -> Sampler:
    """The sampler with its fidelity and its figures over the cases."""
    images = sample_cases(plan, references, sampler_rungs(contract, sampler))
    near = fidelity_db(references, images)
    return dataclasses.replace(
        sampler,
        psnr_median_db=round(float(np.median(near)), 2),
        psnr_min_db=round(float(near.min()), 2),
        cases=len(near),
        figures=figures(references, images),
    )


def figures(references: Sequence[Reference], images: Sequence[Image]) -> Figures:
    """The rounded `quality` of samples [1, 1, H, W]; empty if a case has no truth."""
    truths = [x.truth for x in references if x.truth is not None]
    if len(truths) < len(references):
        return {}
    units = [np.asarray((x[0, 0] + 1) / 2, np.float32) for x in images]
    return {name: round(x, 4) for name, x in quality(truths, units).items()}


def quality(truths: Sequence[Subject], images: Sequence[Image]) -> Figures:
    """Means over cases, for images [H, W] in [0, 1] of phantoms.

    psnr_db: to clean; cnr_db, snr_db: eq. 13 and 12, 20 log10; cnr_share, snr_share: share of the
    clean target's gain over the optimal depth; levels: lost or invented, as the first rater reads.
    """
    rows = [_contrasts(x, image) for x, image in zip(truths, images, strict=True)]
    likeness = [
        psnr(image, x.truth.clean, x.case.strip) for x, image in zip(truths, images, strict=True)
    ]
    read = [read_image(x, image, _rater()) for x, image in zip(truths, images, strict=True)]
    means = {"psnr_db": float(np.mean(likeness))}
    for i, name in enumerate(("cnr", "snr")):
        before, after, most = np.array([[y[i] for y in case] for case in rows]).T
        defined = np.isfinite(before + after + most)
        if not defined.any():  # a coarse frame may have no px in the ring
            continue
        gain, ceiling = (float((x - before)[defined].mean()) for x in (after, most))
        means |= {f"{name}_db": float(after[defined].mean()), f"{name}_share": gain / ceiling}
    return means | {"levels": float(np.mean([x["lost"] + x["invented"] for x in read]))}


def _contrasts(x: Subject, image: Image) -> list[tuple[float, float]]:
    """(CNR, SNR) of the optimal depth, of the image, and of the clean target, dB."""
    scores = [x.contrast(y) for y in (x.depths[x.case.optimal], image, x.truth.clean)]
    return [(y["cnr_log10"], y["snr_log10"]) for y in scores]


@cache
def _rater() -> Rater:
    return load_rater(RATERS[0])


def describe(x: Sampler) -> str:
    """One line on a scored sampler, for a person."""
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
