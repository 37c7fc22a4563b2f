"""The time of a step by family of kernels, beside the time of its FLOPs at a ceiling.

The family comes from a kernel's name, so a 1x1 convolution that cuDNN computes as a matrix product
counts as a matrix product.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from mcdiff_batch.bench.common.ceilings import Ceilings

GAPS = 3
HEAVIEST, NAME = 10, 100  # kernels that are listed, characters of a name
REST = "rest"
# Parts of the name of a kernel (on a CPU, an operator), in small letters; the first match counts.
FAMILIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("optimizer, foreach", ("multi_tensor_apply", "foreach", "optimizer", "lpnorm", "adam")),
    (REST, ("spatialsoftmax", "log_softmax", "nll_loss", "logsoftmax", "nllloss")),
    ("attention", ("flash", "fmha", "attention", "sdpa", "softmax")),
    (
        "group norm",
        (
            *("groupnorm", "group_norm", "rowwisemoments", "computefusedparams", "gammabeta"),
            *("computeinternalgradients", "computebackwardfusedparams"),
        ),
    ),
    (
        "convolution backward",
        ("dgrad", "wgrad", "bgrad", "convolution_backward", "convolutionbackward"),
    ),
    (
        "copy, cast, transpose",
        (
            *("copy", "memcpy", "memset", "nchwtonhwc", "nhwctonchw", "transpose"),
            *("converttensor", "::to", "::cat", "::clone", "contiguous"),
        ),
    ),
    (
        "convolution forward",
        ("fprop", "convol", "conv2d", "implicit_gemm", "winograd", "fft", "cudnn"),
    ),
    (
        "matrix product",
        ("gemm", "gemv", "cublas", "nvjet", "cutlass", "splitk", "::mm", "::bmm", "addmm"),
    ),
    ("reduction", ("reduce", "aten::sum", "aten::mean", "vector_norm")),
    (
        "elementwise",
        (
            *("elementwise", "::add", "::mul", "::div", "::sub", "silu", "::lerp", "::fill"),
            *("::clamp", "::zero", "::where", "::square", "::pow", "::sqrt", "::neg"),
        ),
    ),
)
NAMES = (*dict.fromkeys(name for name, _ in FAMILIES if name != REST), REST)
Step = Callable[[], object]
Json = dict[str, Any]


class KernelTimes(NamedTuple):
    """Milliseconds and number of launches over `steps` steps, by the name of a kernel."""

    ms: dict[str, float]
    many: Counter[str]
    steps: int


def family(name: str) -> str:
    """The family of a kernel or an operator."""
    small = name.lower()
    return next((x for x, parts in FAMILIES if any(p in small for p in parts)), REST)


def wait(device: torch.device) -> None:
    """Waits for everything that is queued on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def profile_steps(step: Step, device: torch.device, steps: int) -> KernelTimes:
    """Profiles kernels on a GPU; on a CPU operators, each without those that it calls."""
    on_gpu = device.type == "cuda"
    wanted = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    wait(device)
    with profile(activities=[wanted]) as found:
        for _ in range(steps):
            step()
        wait(device)
    ms: dict[str, float] = defaultdict(float)
    many: Counter[str] = Counter()
    for event in found.events() or ():
        if (event.device_type.name == "CUDA") == on_gpu and event.name != "Context Sync":
            taken = event.time_range.elapsed_us() if on_gpu else event.self_cpu_time_total
            ms[event.name] += taken / 1000
            many[event.name] += 1
    return KernelTimes(ms, many, steps)


def flops(step: Step) -> Counter[str]:
    """The FLOPs of one step by family: convolutions, matrix products and attention."""
    with FlopCounterMode(display=False) as counter:
        step()
    found: Counter[str] = Counter()
    for operator, many in counter.get_flop_counts().get("Global", {}).items():
        found[family(f"aten::{str(operator).removeprefix('aten.')}")] += many
    return found


def split_by_family(kernels: KernelTimes, work: Counter[str], top: Ceilings) -> Json:
    """The milliseconds of a step by family, beside the time of its FLOPs at the ceiling."""
    ms: dict[str, float] = defaultdict(float)
    many: Counter[str] = Counter()
    for name, taken in kernels.ms.items():
        ms[family(name)] += taken / kernels.steps
        many[family(name)] += kernels.many[name]
    rows = {
        name: {
            "ms": round(ms[name], 4),
            "kernels": round(many[name] / kernels.steps, 1),
            "gflop": round(work[name] / 1e9, 3),
            "at_ceiling_ms": round(1000 * work[name] / top.flops_per_s, 4),
        }
        for name in NAMES
    }
    heaviest = [
        {
            "name": name[:NAME],
            "family": family(name),
            "ms": round(taken / kernels.steps, 4),
            "count": round(kernels.many[name] / kernels.steps, 1),
        }
        for name, taken in sorted(kernels.ms.items(), key=lambda x: -x[1])[:HEAVIEST]
    ]
    total = sum(kernels.ms.values()) / kernels.steps
    return {"kernels_ms": round(total, 4), "families": rows, "heaviest": heaviest}


def add_gaps(row: Json, top: Ceilings) -> Json:
    """The row with its FLOPs, their share of the ceiling, and the widest gaps of its step."""
    step = row.get("recorded_ms", row["eager_ms"])
    work = sum(x["gflop"] for x in row["families"].values())
    above = {k: x["ms"] - x["at_ceiling_ms"] for k, x in row["families"].items()}
    widest = sorted((x for x in above if above[x] > 0), key=lambda x: -above[x])[:GAPS]
    gaps = [
        {"family": x, "ms": round(above[x], 4), "step_ms_without": round(step - above[x], 4)}
        for x in widest
    ]
    return row | {
        "gflop": round(work, 3),
        "tflops": round(work / step, 4),
        "matrix_share": round(1e12 * work / step / top.flops_per_s, 4),
        "gaps": gaps,
    }
