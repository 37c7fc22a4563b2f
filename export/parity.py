"""Parity: how near exported graphs are to PyTorch, and float16 to float32."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mcdiff_batch.engine.errors import BundleError
from mcdiff_batch.engine.image.frame import Image, Mask
from mcdiff_batch.engine.image.metrics import psnr
from mcdiff_batch.engine.model.batch import condition, scans
from mcdiff_batch.engine.model.contract import Contract
from mcdiff_batch.engine.model.framing import FramedCase
from mcdiff_batch.engine.model.ladder import recommended_rungs
from mcdiff_batch.engine.model.noise import gaussian
from mcdiff_batch.engine.model.plan import Conditioning, Plan
from mcdiff_batch.engine.model.sampler import sample
from mcdiff_batch.engine.model.solver import Rung, rungs
from mcdiff_batch.train.networks.graphs import condition_names
from mcdiff_batch.train.networks.plan import TorchPlan
from mcdiff_batch.train.networks.trio import Networks

TIMES = (5.0, 60.0, 180.0, 350.0, 520.0, 700.0, 880.0, 990.0)
PARITY_DB = 90.0  # float32 against float32; far above what an 8-bit image can show
HALF_X0_DB, HALF_RUN_DB = 65.0, 55.0  # bars for float16: x0-hat, and the image of a run


def parity(nets: Networks, plan: Plan, contract: Contract, case: FramedCase) -> dict[str, Any]:
    """Compares ONNX Runtime with PyTorch: conditions, and x0-hat at eight t, in dB at range 2.

    Raises BundleError below PARITY_DB.
    """
    torch_plan = TorchPlan(nets, 1)
    mine, theirs = condition(plan, [case]), condition(torch_plan, [case])
    conditions: Any = mine.conditions
    expected: Any = theirs.conditions
    pairs = zip(condition_names(nets), expected[-1], strict=True)
    x0 = {t: _x0_between(plan, torch_plan, contract, t, case, mine, theirs) for t in TIMES}
    report = {
        "against": f"torch {torch.__version__} eager float32",
        "conditions_max_abs": max(float(np.abs(conditions[n] - x.numpy()).max()) for n, x in pairs),
        "labels_equal": bool((theirs.label == mine.label).all()),
        "x0_psnr_db": _rounded(x0),
    }
    if min(x0.values()) < PARITY_DB:
        raise BundleError(
            f"ONNX Runtime and PyTorch disagree: {report}; expected {PARITY_DB:g} dB or more; "
            "compare the versions of torch, onnx and onnxruntime"
        )
    return report


def half_parity(
    graphs: Plan, torch_half: Plan, whole: Plan, contract: Contract, cases: Sequence[FramedCase]
) -> dict[str, Any]:
    """Compares float16 with `whole`, which is float32: the lowest dB (range 2) over the cases.

    Measures x0-hat at eight t, and the image of the recommended walk at temperatures 0 and 1.
    `torch_half` rounds after every operator, as GPUs do.  `graphs`, the float16 graphs on ONNX
    Runtime's CPU, rounds less often and shows that the export is right.  All plans have batch
    size 1.  Raises BundleError below the bars.
    """
    walk = recommended_rungs(contract)
    x0: dict[float, float] = dict.fromkeys(TIMES, float("inf"))
    run: dict[float, float] = dict.fromkeys((0.0, 1.0), float("inf"))
    for case in cases:
        expected = condition(whole, [case])
        for plan in (graphs, torch_half):
            mine = condition(plan, [case])
            for t in TIMES:
                x0[t] = min(x0[t], _x0_between(plan, whole, contract, t, case, mine, expected))
        for heat in run:
            db = _run_between(torch_half, whole, walk, heat, case, mine, expected)
            run[heat] = min(run[heat], db)
    report = {
        "against": "ONNX Runtime CPU float32",
        "cases": len(cases),
        "x0_psnr_db": _rounded(x0),
        "run_psnr_db_at_temperature": _rounded(run),
    }
    if min(x0.values()) < HALF_X0_DB or min(run.values()) < HALF_RUN_DB:
        raise BundleError(
            f"float16 is too far from float32: {report}; expected {HALF_X0_DB:g} dB for x0-hat "
            f"and {HALF_RUN_DB:g} dB for a run; look for activations beyond 65504"
        )
    return report


def _x0_between(
    first: Plan,
    second: Plan,
    contract: Contract,
    t: float,
    case: FramedCase,
    mine: Conditioning,
    theirs: Conditioning,
) -> float:
    """PSNR of x0-hat between two plans, dB; x_t is the scan itself, noised."""
    (rung,) = rungs("ddim", contract.schedule, (t,))
    eps = gaussian(0, f"parity/{t}", (1, 1, *case.strip.shape))
    x = np.float32(rung.signal) * scans([case]) + np.float32(rung.noise) * eps
    a, b = (
        np.asarray(plan.step(x, np.zeros_like(x), rung, held)[1])[0, 0]
        for plan, held in ((first, mine), (second, theirs))
    )
    return _decibel(a, b, case.strip)


def _run_between(
    first: Plan,
    second: Plan,
    walk: Sequence[Rung],
    temperature: float,
    case: FramedCase,
    mine: Conditioning,
    theirs: Conditioning,
) -> float:
    noise = np.float32(temperature) * gaussian(0, case.key, (1, *case.strip.shape))[None]
    a, b = sample(first, noise, mine, walk), sample(second, noise, theirs, walk)
    return _decibel(a[0, 0], b[0, 0], case.strip)


def _decibel(a: Image, b: Image, where: Mask) -> float:
    """PSNR in dB; -inf if `a` is not finite, because an overflow is no agreement."""
    return psnr(a, b, where, data_range=2.0) if np.isfinite(a).all() else float("-inf")


def _rounded(decibels: Mapping[float, float]) -> dict[str, float]:
    return {f"{key:g}": round(x, 1) for key, x in decibels.items()}
