"""How near what was exported comes to what was trained, and float16 to float32."""

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
from mcdiff_batch.engine.model.ladder import recommended
from mcdiff_batch.engine.model.noise import gaussian
from mcdiff_batch.engine.model.plan import Conditioned, Plan
from mcdiff_batch.engine.model.sampler import sample
from mcdiff_batch.engine.model.solver import Rung, rungs
from mcdiff_batch.train.networks.graphs import condition_names
from mcdiff_batch.train.networks.plan import TorchPlan
from mcdiff_batch.train.networks.trio import Networks

TIMES = (5.0, 60.0, 180.0, 350.0, 520.0, 700.0, 880.0, 990.0)
PARITY_DB = 90.0  # float32 against float32: far above what an 8-bit image can show
HALF_X0_DB, HALF_RUN_DB = 65.0, 55.0  # PERFORMANCE.md


def parity(nets: Networks, plan: Plan, contract: Contract, case: FramedCase) -> dict[str, Any]:
    """ONNX Runtime against PyTorch: conditions, and x0-hat at eight t.  Range 2, in dB.

    Raises BundleError below PARITY_DB.
    """
    torch_plan = TorchPlan(nets, 1)
    mine, theirs = condition(plan, [case]), condition(torch_plan, [case])
    held: Any = mine.conditions
    told: Any = theirs.conditions
    pairs = zip(condition_names(nets), told[-1], strict=True)
    x0 = {t: _x0_between(plan, torch_plan, contract, t, case, mine, theirs) for t in TIMES}
    found = {
        "against": f"torch {torch.__version__} eager float32",
        "conditions_max_abs": max(float(np.abs(held[n] - x.numpy()).max()) for n, x in pairs),
        "labels_equal": bool((theirs.label == mine.label).all()),
        "x0_psnr_db": _rounded(x0),
    }
    if min(x0.values()) < PARITY_DB:
        raise BundleError(f"ONNX Runtime and PyTorch disagree: {found}; expected {PARITY_DB} dB")
    return found


def half_parity(
    graphs: Plan, torch_half: Plan, whole: Plan, contract: Contract, cases: Sequence[FramedCase]
) -> dict[str, Any]:
    """float16 against `whole`, which is float32, over held-out cases: x0-hat at eight t, and the
    result of the recommended walk from no noise and from all of it.  dB, range 2; the lowest.

    `torch_half` rounds after every operator, as GPUs do.  `graphs`, the float16 graphs on ONNX
    Runtime's CPU, which leaves most of that out, show that they were exported right.  All plans
    take one case.  Raises BundleError below the bars.
    """
    walk = recommended(contract)
    x0: dict[float, float] = dict.fromkeys(TIMES, float("inf"))
    run: dict[float, float] = dict.fromkeys((0.0, 1.0), float("inf"))
    for case in cases:
        told = condition(whole, [case])
        for plan in (graphs, torch_half):
            mine = condition(plan, [case])
            for t in TIMES:
                x0[t] = min(x0[t], _x0_between(plan, whole, contract, t, case, mine, told))
        for heat in run:
            found = _run_between(torch_half, whole, walk, heat, case, mine, told)
            run[heat] = min(run[heat], found)
    report = {
        "against": "ONNX Runtime CPU float32",
        "cases": len(cases),
        "x0_psnr_db": _rounded(x0),
        "run_psnr_db_at_temperature": _rounded(run),
    }
    if min(x0.values()) < HALF_X0_DB or min(run.values()) < HALF_RUN_DB:
        raise BundleError(
            f"float16 is too far from float32: {report}; expected {HALF_X0_DB:g} dB of x0-hat "
            f"and {HALF_RUN_DB:g} dB of a run; look for activations beyond 65504"
        )
    return report


def _x0_between(
    first: Plan,
    second: Plan,
    contract: Contract,
    t: float,
    case: FramedCase,
    mine: Conditioned,
    theirs: Conditioned,
) -> float:
    """Of x0-hat, where x_t is the scan itself, noised."""
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
    mine: Conditioned,
    theirs: Conditioned,
) -> float:
    noise = np.float32(temperature) * gaussian(0, case.key, (1, *case.strip.shape))[None]
    a, b = sample(first, noise, mine, walk), sample(second, noise, theirs, walk)
    return _decibel(a[0, 0], b[0, 0], case.strip)


def _decibel(a: Image, b: Image, where: Mask) -> float:
    """-inf where `a` is not finite: an overflow is no agreement."""
    return psnr(a, b, where, data_range=2.0) if np.isfinite(a).all() else float("-inf")


def _rounded(decibels: Mapping[float, float]) -> dict[str, float]:
    return {f"{key:g}": round(x, 1) for key, x in decibels.items()}
