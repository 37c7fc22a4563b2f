"""From trained weights to a bundle: graphs, parity, the recommended sampler, contract."""

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mcdiff_batch.engine.contract import (
    Bundle,
    Contract,
    Half,
    Sampler,
    load_bundle,
    write_contract,
)
from mcdiff_batch.engine.errors import UsageError
from mcdiff_batch.engine.ladder import walk
from mcdiff_batch.engine.ort import load
from mcdiff_batch.engine.plan import Device, Plan
from mcdiff_batch.engine.reader import FramedCase
from mcdiff_batch.engine.schedule import Schedule, log_snr_ladder
from mcdiff_batch.engine.solver import SOLVERS
from mcdiff_batch.train.networks import CLASSES, Networks, halved
from mcdiff_batch.train.plan import TorchPlan
from mcdiff_batch.train.presets import preset_from
from mcdiff_batch.train.weights import read_weights, start_from

from .fidelity import Reference, Scores, fidelity, framed, reference, samples
from .onnx import write_conditioner, write_denoiser
from .parity import half_parity, parity
from .steps import MEDIAN_DB

Say = Callable[[str], None]

HALF_CASES = 2  # PyTorch takes seconds for a step in float16 on a CPU
EVALUATIONS = (6, 8, 10, 12, 16, 20, 25, 32)
LAST_LAMBDAS = (2.5, 3.0, 3.5, 4.0)
LICENCE = "Synthetic phantoms only; research use. Not a medical device."


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How the bundle is to be sampled, beside its ladder."""

    anchoring: str  # as in the contract
    temperature: float
    optimal_share: float | None = None  # None: as trained


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
        unseen = [case for case, _ in framed(data, contract, cases)]
        say("checking parity with PyTorch")
        contract = dataclasses.replace(contract, parity=parity(nets, plan, unseen[0]))
        say(f"walking {len(unseen)} cases down 1000 steps")
        references = [reference(plan, contract, case) for case in unseen]
        contract = dataclasses.replace(contract, sampler=recommend(plan, contract, references, say))
        say("checking float16 against float32")
        contract = _with_half(contract, nets, folder, plan, unseen)
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
        unseen = [case for case, _ in framed(data, contract, HALF_CASES)]
        say("checking float16 against float32")
        plan = _plan(contract, folder)
        write_contract(_with_half(contract, nets, folder, plan, unseen), folder)
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


def recommend(plan: Plan, contract: Contract, references: Sequence[Reference], say: Say) -> Sampler:
    """The fewest evaluations that reach the bar on the fitting half, scored on the other half.

    Where none does, the most faithful is taken and its figures say so.
    """
    fitting, scoring = references[::2], references[1::2] or references
    best: tuple[float, str, tuple[float, ...]] = (-np.inf, "", ())
    for evaluations in EVALUATIONS:
        for solver, last in product(SOLVERS, LAST_LAMBDAS):
            ladder = log_snr_ladder(contract.schedule, evaluations, last=last)
            median = float(np.median(_scores(plan, contract, fitting, solver, ladder)))
            best = max(best, (median, solver, ladder))
        say(f"{evaluations} evaluations: {best[0]:.1f} dB against 1000-step DDIM")
        if best[0] >= MEDIAN_DB + 1:
            break
    _, solver, ladder = best
    scores = _scores(plan, contract, scoring, solver, ladder)
    return dataclasses.replace(
        contract.sampler,
        solver=solver,
        ladder=ladder,
        nfe=len(ladder),
        psnr_median_db=round(float(np.median(scores)), 2),
        psnr_min_db=round(float(scores.min()), 2),
        cases=len(scores),
    )


def _scores(
    plan: Plan,
    contract: Contract,
    references: Sequence[Reference],
    solver: str,
    ladder: Sequence[float],
) -> Scores:
    images = samples(plan, references, walk(contract, solver, ladder))
    return fidelity(references, images)
