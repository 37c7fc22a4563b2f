"""From trained weights to a bundle: graphs, parity, the recommended sampler, contract."""

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mcdiff_batch.engine.backends.ort import CPU, OnnxRuntime
from mcdiff_batch.engine.errors import UsageError
from mcdiff_batch.engine.model.contract import (
    Bundle,
    Contract,
    Half,
    Sampler,
    load_bundle,
    write_contract,
)
from mcdiff_batch.engine.model.framing import FramedCase
from mcdiff_batch.engine.model.plan import Plan
from mcdiff_batch.engine.model.schedule import Schedule
from mcdiff_batch.train.networks.plan import TorchPlan
from mcdiff_batch.train.networks.presets import preset_from
from mcdiff_batch.train.networks.trio import CLASSES, Networks, to_half
from mcdiff_batch.train.training.weights import read_weights, start_from

from .fidelity import Reference, framed, reference, with_truth
from .onnx import write_conditioner, write_denoiser
from .parity import half_parity, parity
from .recommend import published, recommended, said, scored

Say = Callable[[str], None]

HALF_CASES = 2  # PyTorch takes seconds for a step in float16 on a CPU
LICENCE = "Synthetic phantoms only; research use. Not a medical device."


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How the bundle is to be sampled, beside its ladder."""

    temperature: float
    optimal_share: float | None = None  # None: as trained


def export_bundle(
    trained: Path, output: Path, data: Path, cases: int, choice: Choice, say: Say
) -> Bundle:
    """Writes the bundle `output` from the training folder `trained`.

    `data` are held-out cases, by which the way down is chosen (recommend.py).  Raises BundleError
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
        unseen = list(with_truth(data, contract, cases))
        say("checking parity with PyTorch")
        found = parity(nets, plan, contract, unseen[0][0])
        contract = dataclasses.replace(contract, parity=found)
        say(f"walking {len(unseen)} cases down 1000 steps")
        references = [reference(plan, contract, case, truth=truth) for case, truth in unseen]
        contract = _recommended(plan, contract, references, say)
        say("checking float16 against float32")
        contract = _with_half(contract, nets, folder, plan, [case for case, _ in unseen])
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
        conditioner=write_conditioner(nets, folder / "conditioner.onnx"),
        denoiser=write_denoiser(nets, folder / "denoiser.onnx"),
        training={k: v for k, v in card.items() if k != "experiments"} | {"stages": _brief(card)},
        licence=LICENCE,
    )


def _recommended(
    plan: Plan, contract: Contract, references: Sequence[Reference], say: Say
) -> Contract:
    """With the best of the published ways down."""
    found = []
    for x in published(contract):
        found.append(scored(plan, contract, x, references))
        say(said(found[-1]))
    return recommended(contract, found, references)


def _with_half(
    contract: Contract, nets: Networks, folder: Path, plan: Plan, cases: Sequence[FramedCase]
) -> Contract:
    """With the graphs in float16, and how far they are from `plan`, which is float32."""
    small = to_half(nets)
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
    return OnnxRuntime(half=half).load(load_bundle(folder), CPU, batch=1)
