"""From trained weights to a bundle: graphs, parity, the recommended sampler, contract."""

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mcdiff_batch.engine.archive import open_archive
from mcdiff_batch.engine.conditioner import condition
from mcdiff_batch.engine.contract import (
    Bundle,
    Contract,
    Half,
    Sampler,
    load_bundle,
    write_contract,
)
from mcdiff_batch.engine.errors import CaseError, UsageError
from mcdiff_batch.engine.frame import Image
from mcdiff_batch.engine.noise import gaussian
from mcdiff_batch.engine.ort import load
from mcdiff_batch.engine.plan import Device, Plan
from mcdiff_batch.engine.quality import psnr
from mcdiff_batch.engine.reader import FramedCase, frame_case
from mcdiff_batch.engine.sampler import sample
from mcdiff_batch.engine.schedule import Schedule, log_snr_ladder, uniform_ladder
from mcdiff_batch.engine.solver import anchored, rungs
from mcdiff_batch.train.networks import CLASSES, Networks, halved
from mcdiff_batch.train.plan import TorchPlan
from mcdiff_batch.train.presets import preset_from
from mcdiff_batch.train.weights import read_weights, start_from

from .onnx import write_conditioner, write_denoiser
from .parity import half_parity, parity

Say = Callable[[str], None]

HALF_CASES = 2  # PyTorch takes seconds for a step in float16 on a CPU
FIDELITY_MEDIAN_DB, FIDELITY_MIN_DB = 45.0, 42.0  # PERFORMANCE.md, against 1000-step DDIM
EVALUATIONS = (6, 8, 10, 12, 16, 20, 25, 32)
LAST_LAMBDAS = (2.5, 3.0, 3.5, 4.0)
LICENCE = "Synthetic phantoms only; research use. Not a medical device."


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How the bundle is to be sampled, beside its ladder."""

    anchoring: str  # as in the contract
    temperature: float
    optimal_share: float | None = None  # None: as trained


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A case, conditioned, with its noise and the end of its 1000-step DDIM trajectory."""

    case: FramedCase
    conditioned: Any
    noise: Image
    image: Image


def export_bundle(
    trained: Path, output: Path, data: Path, cases: int, choice: Choice, say: Say
) -> Bundle:
    """Writes the bundle `output` from the training folder `trained`.

    `data` are held-out cases: half choose the ladder, the other half score it.  Raises BundleError
    where ONNX Runtime and PyTorch disagree.  Nothing is left at `output` unless all went well.
    """
    if output.exists():
        raise UsageError(f"{output}: exists already; export to a new folder or remove it")
    nets, card = read_weights(trained)
    if nets.preset.conditions != "depths":
        raise UsageError(
            f"{trained}: was trained on conditions {nets.preset.conditions!r}, which a bundle "
            "cannot hold; train with --conditions depths"
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".export-") as name:
        folder = Path(name) / output.name
        folder.mkdir()
        say("writing graphs")
        contract = _contract(nets, card, folder, choice)
        plan = _plan(contract, folder)
        framed = list(_framed(data, contract, cases))
        say("checking parity with PyTorch")
        contract = dataclasses.replace(contract, parity=parity(nets, plan, framed[0]))
        say(f"walking {len(framed)} cases down 1000 steps")
        references = [_reference(plan, contract, case) for case in framed]
        contract = dataclasses.replace(contract, sampler=recommend(plan, contract, references, say))
        say("checking float16 against float32")
        contract = _with_half(contract, nets, folder, plan, framed)
        write_contract(contract, folder)
        folder.rename(output)
    return load_bundle(output)


def add_half(source: Path, output: Path, data: Path, say: Say) -> Bundle:
    """Writes the bundle `output`: `source` as it is, and its graphs in float16 beside.

    Raises BundleError where those are too far from float32.
    """
    if output.exists():
        raise UsageError(f"{output}: exists already; export to a new folder or remove it")
    contract = load_bundle(source).contract
    nets = Networks(preset_from(contract.training["preset"]), torch.device("cpu"))
    start_from(nets, source)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".export-") as name:
        folder = Path(shutil.copytree(source, Path(name) / output.name))
        framed = list(_framed(data, contract, HALF_CASES))
        say("checking float16 against float32")
        plan = _plan(contract, folder)
        write_contract(_with_half(contract, nets, folder, plan, framed), folder)
        folder.rename(output)
    return load_bundle(output)


def _contract(nets: Networks, card: dict[str, Any], folder: Path, choice: Choice) -> Contract:
    preset = nets.preset
    total, share = sum(preset.depth_weights), choice.optimal_share
    return Contract(
        name=preset.name,
        frame=preset.frame,
        depth_weights=tuple(w / total for w in preset.depth_weights),
        optimal_share=preset.optimal_share if share is None else share,
        classes=CLASSES,
        schedule=Schedule(),
        sampler=Sampler(  # until it is measured
            solver="ddim",
            ladder=(1.0,),
            nfe=1,
            psnr_median_db=0,
            psnr_min_db=0,
            cases=0,
            temperature=choice.temperature,
        ),
        anchoring=choice.anchoring,
        conditioner=write_conditioner(nets, folder / "conditioner.onnx"),
        denoiser=write_denoiser(nets, folder / "denoiser.onnx"),
        training={k: v for k, v in card.items() if k != "experiments"} | {"stages": _brief(card)},
        licence=LICENCE,
    )


def _with_half(
    contract: Contract, nets: Networks, folder: Path, plan: Plan, cases: Sequence[FramedCase]
) -> Contract:
    """With the graphs in float16, and how far they are from `plan`, which is float32."""
    small = halved(nets)
    half = Half(
        conditioner=write_conditioner(small, folder / "conditioner_half.onnx"),
        denoiser=write_denoiser(small, folder / "denoiser_half.onnx"),
    )
    contract = dataclasses.replace(contract, half=half)
    graphs, rounded = _plan(contract, folder, half=True), TorchPlan(small, 1)
    found = half_parity(graphs, rounded, plan, contract, cases[:HALF_CASES])
    return dataclasses.replace(contract, half=dataclasses.replace(half, parity=found))


def _brief(card: dict[str, Any]) -> dict[str, Any]:
    """Each stage's steps, seconds and last line, without the curve in between."""
    return {name: {**x, "history": x["history"][-1:]} for name, x in card["stages"].items()}


def _plan(contract: Contract, folder: Path, *, half: bool = False) -> Plan:
    write_contract(contract, folder)
    return load(load_bundle(folder), Device(kind="cpu", index=0), batch=1, half=half)


def _framed(data: Path, contract: Contract, cases: int) -> Iterator[FramedCase]:
    archive = open_archive(data)
    for index in range(min(cases, archive.cases)):
        try:
            yield frame_case(archive.read(index), contract)
        except CaseError:
            continue


def _walk(
    plan: Plan,
    contract: Contract,
    conditioned: Any,
    noise: Image,
    solver: str,
    ladder: Sequence[float],
) -> Image:
    steps = anchored(rungs(solver, contract.schedule, ladder), contract.anchoring)
    return sample(plan, noise, conditioned, steps)


def _reference(plan: Plan, contract: Contract, case: FramedCase) -> Reference:
    conditioned = condition(plan, [case])
    drawn = gaussian(0, case.key, (1, *case.strip.shape))[None]
    noise = np.float32(contract.sampler.temperature) * drawn
    ladder = uniform_ladder(contract.schedule, contract.schedule.steps)
    image = _walk(plan, contract, conditioned, noise, "ddim", ladder)
    return Reference(case=case, conditioned=conditioned, noise=noise, image=image)


def fidelity(
    plan: Plan,
    contract: Contract,
    references: Sequence[Reference],
    solver: str,
    ladder: Sequence[float],
) -> npt.NDArray[np.float64]:
    """PSNR in dB (range 2, inside the strip) of each case against its 1000-step DDIM result."""
    scores = []
    for x in references:
        image = _walk(plan, contract, x.conditioned, x.noise, solver, ladder)
        scores.append(psnr(image[0, 0], x.image[0, 0], x.case.strip, data_range=2.0))
    return np.array(scores)


def recommend(plan: Plan, contract: Contract, references: Sequence[Reference], say: Say) -> Sampler:
    """The fewest evaluations that reach the bar on the fitting half, scored on the other half.

    Where none does, the most faithful is taken and its figures say so.
    """
    fitting, scoring = references[::2], references[1::2] or references
    best: tuple[float, tuple[float, ...]] = (-np.inf, ())
    for evaluations in EVALUATIONS:
        for last in LAST_LAMBDAS:
            ladder = log_snr_ladder(contract.schedule, evaluations, last=last)
            scores = fidelity(plan, contract, fitting, "dpmpp_2m", ladder)
            if np.median(scores) > best[0]:
                best = (float(np.median(scores)), ladder)
        say(f"{evaluations} evaluations: {best[0]:.1f} dB against 1000-step DDIM")
        if best[0] >= FIDELITY_MEDIAN_DB + 1:
            break
    scores = fidelity(plan, contract, scoring, "dpmpp_2m", best[1])
    return dataclasses.replace(
        contract.sampler,
        solver="dpmpp_2m",
        ladder=best[1],
        nfe=len(best[1]),
        psnr_median_db=round(float(np.median(scores)), 2),
        psnr_min_db=round(float(scores.min()), 2),
        cases=len(scores),
    )
