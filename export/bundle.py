"""Makes a bundle from trained weights: graphs, parity, recommended sampler, contract, card."""

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mcdiff_batch.engine.backends.ort import CPU, OnnxRuntime
from mcdiff_batch.engine.errors import UsageError
from mcdiff_batch.engine.files import workplace
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

from .card import write_card
from .onnx import write_conditioner, write_denoiser
from .parity import half_parity, parity
from .recommend import describe, published_samplers, recommend, score
from .references import Reference, read_framed, read_with_truth, walk_reference

Say = Callable[[str], None]

HALF_CASES = 2  # PyTorch takes seconds for a float16 step on a CPU
LICENCE = "Synthetic phantoms only; research use. Not a medical device."


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How the bundle is sampled, apart from its ladder."""

    temperature: float
    optimal_share: float | None = None  # None: as it was trained


def export_bundle(
    trained: Path, output: Path, data: Path, cases: int, choice: Choice, say: Say
) -> Bundle:
    """Writes the bundle `output` from the training folder `trained`.

    data: held-out cases, on which the sampler is chosen (recommend.py).  Raises BundleError if ONNX
    Runtime and PyTorch disagree.  `output` appears only when the bundle is complete.
    """
    if output.exists():
        raise UsageError(f"{output}: exists already; export to a new folder or remove it")
    nets, card = read_weights(trained)
    if nets.preset.conditions != "depths":
        raise UsageError(
            f"{trained}: was trained with --conditions {nets.preset.conditions}, which a bundle "
            "cannot hold; train with --conditions depths"
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    with workplace(output) as folder:
        folder.mkdir()
        say("writing graphs")
        contract = _contract(nets, card, folder, choice)
        plan = _plan(contract, folder)
        cases_with_truth = list(read_with_truth(data, contract, cases))
        say("checking parity with PyTorch")
        agreement = parity(nets, plan, contract, cases_with_truth[0][0])
        contract = dataclasses.replace(contract, parity=agreement)
        say(f"walking {len(cases_with_truth)} cases down 1000 steps")
        references = [
            walk_reference(plan, contract, case, truth=truth) for case, truth in cases_with_truth
        ]
        contract = _recommend(plan, contract, references, say)
        say("checking float16 against float32")
        contract = _with_half(contract, nets, folder, plan, [case for case, _ in cases_with_truth])
        write_contract(contract, folder)
        write_card(load_bundle(folder))
        folder.rename(output)
    return load_bundle(output)


def add_half(source: Path, output: Path, data: Path, say: Say) -> Bundle:
    """Copies the bundle `source` to `output` and adds its graphs in float16.

    Raises BundleError if they are too far from float32.
    """
    if output.exists():
        raise UsageError(f"{output}: exists already; export to a new folder or remove it")
    contract = load_bundle(source).contract
    nets = Networks(preset_from(contract.training["preset"]), torch.device("cpu"))
    start_from(nets, source)
    output.parent.mkdir(parents=True, exist_ok=True)
    with workplace(output) as folder:
        shutil.copytree(source, folder)
        cases = [case for case, _ in read_framed(data, contract, HALF_CASES)]
        say("checking float16 against float32")
        plan = _plan(contract, folder)
        write_contract(_with_half(contract, nets, folder, plan, cases), folder)
        write_card(load_bundle(folder))
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
        sampler=Sampler(  # a placeholder until samplers are scored
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


def _recommend(
    plan: Plan, contract: Contract, references: Sequence[Reference], say: Say
) -> Contract:
    """The contract with the best of the published samplers."""
    samplers = []
    for x in published_samplers(contract):
        samplers.append(score(plan, contract, x, references))
        say(describe(samplers[-1]))
    return recommend(contract, samplers, references)


def _with_half(
    contract: Contract, nets: Networks, folder: Path, plan: Plan, cases: Sequence[FramedCase]
) -> Contract:
    """Writes the graphs in float16; the contract with their distance from `plan`, in float32."""
    half_nets = to_half(nets)
    half = Half(
        conditioner=write_conditioner(half_nets, folder / "conditioner_half.onnx"),
        denoiser=write_denoiser(half_nets, folder / "denoiser_half.onnx"),
    )
    contract = dataclasses.replace(contract, half=half)
    graphs, torch_plan = _plan(contract, folder, half=True), TorchPlan(half_nets, 1)
    distance = half_parity(graphs, torch_plan, plan, contract, cases[:HALF_CASES])
    return dataclasses.replace(contract, half=dataclasses.replace(half, parity=distance))


def _brief(card: dict[str, Any]) -> dict[str, Any]:
    """The record of each stage, with only the last line of its history."""
    return {name: {**x, "history": x["history"][-1:]} for name, x in card["stages"].items()}


def _plan(contract: Contract, folder: Path, *, half: bool = False) -> Plan:
    write_contract(contract, folder)
    return OnnxRuntime(half=half).load(load_bundle(folder), CPU, batch=1)
