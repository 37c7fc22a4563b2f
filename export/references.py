"""Reference images, and how near samples of few evaluations come to them.

The reference is DDIM in 1000 steps from the same x_T.  It takes minutes per case, so its image is
stored in a work folder and read again.
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
from mcdiff_batch.engine.files import replacing
from mcdiff_batch.engine.image.frame import Image
from mcdiff_batch.engine.image.metrics import psnr
from mcdiff_batch.engine.model.batch import condition
from mcdiff_batch.engine.model.contract import Contract
from mcdiff_batch.engine.model.framing import FramedCase, frame_case
from mcdiff_batch.engine.model.ladder import find_rungs
from mcdiff_batch.engine.model.noise import gaussian
from mcdiff_batch.engine.model.plan import Plan
from mcdiff_batch.engine.model.sampler import sample
from mcdiff_batch.engine.model.schedule import uniform_ladder
from mcdiff_batch.engine.model.solver import Rung
from mcdiff_batch.train.evaluation.subject import NEEDED, Subject, read_subject

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A case, its conditions, its noise, and the end of its 1000-step DDIM trajectory."""

    case: FramedCase
    conditioned: Any
    noise: Image
    image: Image  # [1, 1, H, W]
    truth: Subject | None = None  # if the case is a phantom


def read_framed(data: Path, contract: Contract, cases: int) -> Iterator[tuple[FramedCase, None]]:
    """The first cases that can be read, without a truth."""
    archive = open_archive(data)
    for index in range(min(cases, archive.cases)):
        try:
            yield frame_case(archive.read(index), contract), None
        except CaseError:
            continue


def read_with_truth(
    data: Path, contract: Contract, cases: int
) -> Iterator[tuple[FramedCase, Subject | None]]:
    """The first cases that can be read, each with its truth if the archive has one."""
    archive, group = open_archive(data), zarr.open_group(data, mode="r", use_consolidated=False)
    if any(name not in group for name in NEEDED):
        yield from read_framed(data, contract, cases)
        return
    for index in range(min(cases, archive.cases)):
        try:
            subject = read_subject(archive, group, index, contract)
        except CaseError:
            continue
        yield subject.case, subject


def starting_noise(contract: Contract, case: FramedCase) -> Image:
    """x_T [1, 1, H, W], as a run with seed 0 draws it."""
    drawn = gaussian(0, case.key, (1, *case.strip.shape))[None]
    return np.float32(contract.sampler.temperature) * drawn


def walk_reference(
    plan: Plan,
    contract: Contract,
    case: FramedCase,
    work: Path | None = None,
    truth: Subject | None = None,
) -> Reference:
    """Walks a case down all steps of the schedule, or reads the image from the folder `work`."""
    conditioned, noise = condition(plan, [case]), starting_noise(contract, case)
    path = work / f"{_name(contract, case, noise)}.npy" if work else None
    if path and path.exists():
        image = np.load(path)
    else:
        ladder = uniform_ladder(contract.schedule, contract.schedule.steps)
        image = sample(plan, noise, conditioned, find_rungs(contract, "ddim", ladder))
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as spare, spare.open("wb") as file:
                np.save(file, image)
    return Reference(case=case, conditioned=conditioned, noise=noise, image=image, truth=truth)


def _name(contract: Contract, case: FramedCase, noise: Image) -> str:
    """A file name from the hash of everything that the image depends on."""
    graphs = (contract.conditioner.sha256, contract.denoiser.sha256)
    inputs = [*graphs, contract.schedule, case.weights.tolist(), case.optimal]
    digest = hashlib.sha256(repr(inputs).encode())
    for array in (case.depths, case.strip, noise):
        digest.update(np.ascontiguousarray(array).tobytes())
    return f"reference-{digest.hexdigest()[:24]}"


def sample_cases(plan: Plan, references: Sequence[Reference], rungs: Sequence[Rung]) -> list[Image]:
    """A sample [1, 1, H, W] of each case, clipped as a run clips it."""
    images = (sample(plan, x.noise, x.conditioned, rungs) for x in references)
    return [np.asarray(np.clip(image, -1, 1)) for image in images]


def fidelity_db(references: Sequence[Reference], images: Sequence[Image]) -> Scores:
    """PSNR in dB (range 2, inside the strip) of each sample against its reference."""
    originals = reference_images(references)
    return np.array(
        [
            psnr(end[0, 0], image[0, 0], x.case.strip, data_range=2.0)
            for x, end, image in zip(references, originals, images, strict=True)
        ]
    )


def reference_images(references: Sequence[Reference]) -> list[Image]:
    """The references' own images, clipped as a run clips them."""
    return [np.asarray(np.clip(x.image, -1, 1)) for x in references]
