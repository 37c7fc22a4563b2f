"""How near a walk of few evaluations comes to the reference's end.

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

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.errors import CaseError
from mcdiff_batch.engine.image.frame import Image
from mcdiff_batch.engine.image.metrics import psnr
from mcdiff_batch.engine.model.batch import condition
from mcdiff_batch.engine.model.contract import Contract
from mcdiff_batch.engine.model.framing import FramedCase, frame_case
from mcdiff_batch.engine.model.ladder import walk
from mcdiff_batch.engine.model.noise import gaussian
from mcdiff_batch.engine.model.plan import Plan
from mcdiff_batch.engine.model.sampler import sample
from mcdiff_batch.engine.model.schedule import uniform_ladder
from mcdiff_batch.engine.model.solver import Rung
from mcdiff_batch.train.evaluation.subject import NEEDED, Subject, read_subject

Scores = npt.NDArray[np.float64]


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
            known = read_subject(archive, group, index, contract)
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
    told = [*graphs, contract.schedule, case.weights.tolist(), case.optimal]
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
    ends = ends_of(references)
    return np.array(
        [
            psnr(end[0, 0], image[0, 0], x.case.strip, data_range=2.0)
            for x, end, image in zip(references, ends, images, strict=True)
        ]
    )


def ends_of(references: Sequence[Reference]) -> list[Image]:
    """The references' own images, clipped as a run clips."""
    return [np.asarray(np.clip(x.image, -1, 1)) for x in references]
