"""How near a walk of few evaluations comes to the reference's end, and what it keeps of the task.

The reference is DDIM in 1000 steps from the same x_T (SCIENCE.md).  It takes minutes a case, so its
ends are kept in a work folder and read again.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from mcdiff_batch.engine.anchor import kept
from mcdiff_batch.engine.archive import open_archive
from mcdiff_batch.engine.conditioner import condition
from mcdiff_batch.engine.contract import Contract
from mcdiff_batch.engine.errors import CaseError
from mcdiff_batch.engine.frame import Image
from mcdiff_batch.engine.ladder import walk
from mcdiff_batch.engine.noise import gaussian
from mcdiff_batch.engine.plan import Plan
from mcdiff_batch.engine.quality import psnr
from mcdiff_batch.engine.reader import FramedCase, frame_case
from mcdiff_batch.engine.sampler import sample
from mcdiff_batch.engine.schedule import uniform_ladder
from mcdiff_batch.engine.solver import Rung
from mcdiff_batch.train.subject import NEEDED, Subject, subject

Scores = npt.NDArray[np.float64]
MEASURES = ("psnr", "cnr", "snr")  # of a kept result, against the clean target


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A case, conditioned, with its noise and the end of its 1000-step DDIM trajectory."""

    case: FramedCase
    conditioned: Any
    noise: Image
    image: Image  # [1, 1, H, W]
    truth: Subject | None = None  # of a phantom


def framed(data: Path, contract: Contract, cases: int) -> Iterator[tuple[FramedCase, None]]:
    """The first so many cases that can be read."""
    archive = open_archive(data)
    for index in range(min(cases, archive.cases)):
        try:
            yield frame_case(archive.read(index), contract), None
        except CaseError:
            continue


def with_truth(
    data: Path, contract: Contract, cases: int
) -> Iterator[tuple[FramedCase, Subject | None]]:
    """As `framed`, and what a phantom knows of itself, where the archive has it."""
    archive, group = open_archive(data), zarr.open_group(data, mode="r", use_consolidated=False)
    if any(name not in group for name in NEEDED):
        yield from framed(data, contract, cases)
        return
    for index in range(min(cases, archive.cases)):
        try:
            known = subject(archive, group, index, contract)
        except CaseError:
            continue
        yield known.case, known


def started(contract: Contract, case: FramedCase) -> Image:
    """x_T [1, 1, H, W] of a run with seed 0."""
    drawn = gaussian(0, case.key, (1, *case.strip.shape))[None]
    return np.float32(contract.sampler.temperature) * drawn


def reference(
    plan: Plan,
    contract: Contract,
    case: FramedCase,
    work: Path | None = None,
    truth: Subject | None = None,
) -> Reference:
    """Walks a case down all steps of the schedule, or reads the end from the folder `work`."""
    conditioned, noise = condition(plan, [case]), started(contract, case)
    path = work / f"{_name(contract, case, noise)}.npy" if work else None
    if path and path.exists():
        image = np.load(path)
    else:
        ladder = uniform_ladder(contract.schedule, contract.schedule.steps)
        image = sample(plan, noise, conditioned, walk(contract, "ddim", ladder))
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part.npy")
            np.save(part, image)
            part.replace(path)
    return Reference(case=case, conditioned=conditioned, noise=noise, image=image, truth=truth)


def _name(contract: Contract, case: FramedCase, noise: Image) -> str:
    """By all that the end depends on."""
    graphs = (contract.conditioner.sha256, contract.denoiser.sha256)
    told = [*graphs, contract.anchoring, contract.schedule, case.weights.tolist()]
    found = hashlib.sha256(repr(told).encode())
    for array in (case.depths, case.strip, noise):
        found.update(np.ascontiguousarray(array).tobytes())
    return f"reference-{found.hexdigest()[:24]}"


def samples(plan: Plan, references: Sequence[Reference], rungs: Sequence[Rung]) -> list[Image]:
    """[1, 1, H, W] of each case, clipped as a run clips."""
    found = (sample(plan, x.noise, x.conditioned, rungs) for x in references)
    return [np.asarray(np.clip(image, -1, 1)) for image in found]


def fidelity(references: Sequence[Reference], images: Sequence[Image]) -> Scores:
    """PSNR in dB (range 2, inside the strip) of each sample against the reference's end."""
    pairs = zip(references, images, strict=True)
    return np.array([_between(x.image, image, x) for x, image in pairs])


def results(
    contract: Contract, references: Sequence[Reference], images: Sequence[Image]
) -> list[Image]:
    """What a run keeps of the samples."""
    pairs = zip(references, images, strict=True)
    return [kept(image, [x.case], contract.anchoring)[0] for x, image in pairs]


def _between(a: Image, b: Image, x: Reference) -> float:
    return psnr(np.clip(a[0, 0], -1, 1), b[0, 0], x.case.strip, data_range=2.0)


def figures(
    contract: Contract, references: Sequence[Reference], images: Sequence[Image]
) -> dict[str, Any]:
    """Of what a run keeps: PSNR to what it keeps of the references' ends, dB; of phantoms also
    PSNR to clean, CNR and SNR, dB, mean over cases, and how far the reference's own are below."""
    ends = [np.asarray(np.clip(x.image, -1, 1)) for x in references]
    mine, theirs = (results(contract, references, x) for x in (images, ends))
    near = [_between(b, a, x) for a, b, x in zip(mine, theirs, references, strict=True)]
    found: dict[str, Any] = {
        "result_psnr_median_db": round(float(np.median(near)), 2),
        "result_psnr_min_db": round(float(min(near)), 2),
    }
    if all(x.truth is not None for x in references):
        after, before = (tasks(references, x) for x in (mine, theirs))
        found |= {f"{k}_db": round(v, 3) for k, v in after.items()}
        found |= {f"{k}_over_reference_db": round(v - before[k], 3) for k, v in after.items()}
    return found


def tasks(references: Sequence[Reference], kept_images: Sequence[Image]) -> dict[str, float]:
    """MEASURES of results, dB, mean over the phantoms."""
    rows = [_task(x, image) for x, image in zip(references, kept_images, strict=True)]
    return {name: float(np.nanmean([row[name] for row in rows])) for name in MEASURES}


def _task(x: Reference, image: Image) -> dict[str, float]:
    assert x.truth is not None
    unit = np.asarray((image[0, 0] + 1) / 2, np.float32)
    near = psnr(unit, x.truth.known.clean, x.case.strip)
    return {"psnr": near, **x.truth.contrast(unit)}
