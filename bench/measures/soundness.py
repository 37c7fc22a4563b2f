"""How near results are to what they should be, in dB: the ladder's and the plan's fidelity."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from mcdiff_batch.bench.common.workload import Workload
from mcdiff_batch.engine.backends.devices import devices
from mcdiff_batch.engine.backends.ort import CPU, REFERENCE
from mcdiff_batch.engine.backends.trial import maker, self_test

Json = dict[str, Any]


def measure(workload: Workload, say: Callable[[str], None]) -> Json:
    """Measures fidelity.  ladder: against 1000-step DDIM, at export; plan: against float32, now."""
    say("self-test of the plan")
    device = devices(workload.devices)[0]
    plan = maker(workload.bundle, (device,), workload.batch)(device, workload.batch)
    reference = REFERENCE.load(workload.bundle, CPU, batch=1)
    verdict = self_test(plan, workload.bundle.contract, reference)
    sampler = workload.bundle.contract.sampler
    return {
        "ladder": {"psnr_median_db": sampler.psnr_median_db, "cases": sampler.cases},
        "plan": asdict(verdict) | {"faults": verdict.faults},
    }


def measures(document: Json) -> tuple[dict[str, float], dict[str, str]]:
    """The worse of the two figures."""
    if document["plan"]["faults"]:
        return {}, {"psnr_db": "the plan failed its self-test: " + document["plan"]["faults"][0]}
    return {"psnr_db": min(document["ladder"]["psnr_median_db"], document["plan"]["psnr_db"])}, {}


def as_text(document: Json) -> list[str]:
    ladder, plan = document["ladder"], document["plan"]
    return [
        f"fidelity, dB: ladder {ladder['psnr_median_db']:g} against 1000-step DDIM "
        f"({ladder['cases']} cases, at export); plan {plan['psnr_db']:.0f} against float32",
        *(f"  FAULT: {fault}" for fault in plan["faults"]),
    ]
