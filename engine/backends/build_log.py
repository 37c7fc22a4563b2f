"""Reads TensorRT's build log: the kernels that a graph became, and which blocks are fused."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SIZES = {"Float": 4, "Half": 2, "BFloat16": 2, "Int32": 4, "Int64": 8, "Int8": 1, "UInt8": 1}
CONVOLUTIONS = ("correlation", "runtime_fusion", "gemm")
ARITHMETIC = re.compile("Add|Sub|Mul|Div|Silu|Mean|Sum|Max|Min|Sqrt|Sin|Cos|norm|nor_|Resi|mha")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One launch on the GPU."""

    name: str
    kind: str
    nodes: tuple[str, ...]  # of the graph, each "module/operator"
    bytes: int  # read and written

    @property
    def modules(self) -> set[str]:
        return {node.partition("/")[0] for node in self.nodes}

    @property
    def moves(self) -> bool:
        """Whether the kernel only casts, copies or transposes."""
        return self.kind == "kgen" and not ARITHMETIC.search(self.name)


def parse_log(log: str) -> list[Kernel]:
    """The kernels in the order in which they run.  The log must be verbose and detailed."""
    _, _, rest = log.partition("Layers:\n")
    lines = rest.partition("\nBindings:")[0].splitlines()
    return [_kernel(line) for line in lines if line.startswith("Name: ")]


def _kernel(line: str) -> Kernel:
    head = re.match(r"Name: (\S+), LayerType: (\w+)", line)
    assert head is not None
    tensors = re.findall(r"Dimensions: \[([\d,]*)\].*?Datatype: (\w+)", line)
    sizes = (math.prod(map(int, d.split(","))) * SIZES.get(kind, 4) for d, kind in tensors if d)
    nodes = tuple(re.findall(r"\[ONNX Layer: ([^\]]+)\]", line))
    return Kernel(name=head[1], kind=head[2], nodes=nodes, bytes=sum(sizes))


def summarise(kernels: Sequence[Kernel]) -> dict[str, Any]:
    """Counts kernels, tuner blocks, GroupNorms and attentions, and how many of these are fused.

    A fused tuner block is two convolutions.  A fused GroupNorm is one kernel, as is a fused
    attention.
    """
    tuners = _kernels_by_module(kernels, r"(tuner\.\d+)/")
    norms = _kernels_by_module((x for x in kernels if not _clears_counters(x)), r"(.+\.norm)/")
    attentions = _kernels_by_module(kernels, r"(.+\.attention)/node_(?:Softmax|MatMul|scaled)")
    return {
        "kernels": len(kernels),
        "kinds": dict(Counter(x.kind for x in kernels).most_common()),
        "tuner_blocks": len(tuners),
        "tuner_blocks_fused": sum(map(_is_fused_tuner, tuners.values())),
        "tuner_kernels": {name: len(x) for name, x in tuners.items()},
        "group_norms": len(norms),
        "group_norms_fused": sum(len(x) == 1 for x in norms.values()),
        "attentions": len(attentions),
        "attentions_fused": sum(len(x) == 1 for x in attentions.values()),
        "moves": sum(x.moves and not _clears_counters(x) for x in kernels),
        "bytes": sum(x.bytes for x in kernels),
    }


def _is_fused_tuner(kernels: Sequence[Kernel]) -> bool:
    """One kernel has W_down, its addend and SiLU; the other has W_up and its two addends."""
    is_whole = lambda x: x.kind in CONVOLUTIONS and "conv" in " ".join(x.nodes).lower()
    return len(kernels) == 2 and all(map(is_whole, kernels))


def _clears_counters(kernel: Kernel) -> bool:
    """Whether the kernel sets the counters of a GroupNorm to zero, which are a few bytes."""
    return kernel.moves and kernel.bytes <= 4096


def _kernels_by_module(kernels: Iterable[Kernel], pattern: str) -> Mapping[str, list[Kernel]]:
    """The kernels that contain nodes of a module; group 1 of `pattern` is the module's name."""
    by_module: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        names = {m[1] for node in kernel.nodes if (m := re.match(pattern, node))}
        for name in names:
            by_module.setdefault(name, []).append(kernel)
    return dict(sorted(by_module.items()))
