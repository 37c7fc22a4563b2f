"""What TensorRT made of a graph: the kernels that its build log lists, and what was fused."""

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
    """One launch.  `nodes`: the graph's nodes in it, each "module/operator"."""

    name: str
    kind: str
    nodes: tuple[str, ...]
    bytes: int  # of all it reads and writes

    @property
    def modules(self) -> set[str]:
        return {node.partition("/")[0] for node in self.nodes}

    @property
    def moves(self) -> bool:
        """Only casts, copies or transposes."""
        return self.kind == "kgen" and not ARITHMETIC.search(self.name)


def listed(log: str) -> list[Kernel]:
    """Kernels in the order in which they run, from a verbose, detailed build log."""
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


def summary(kernels: Sequence[Kernel]) -> dict[str, Any]:
    """Counts for a report and for a test: tuner blocks, GroupNorms and attentions, and how many of
    them are fused: a tuner in two convolutions, a GroupNorm's statistics and scale in one kernel,
    an attention's products and softmax in one."""
    tuners = _spread(kernels, r"(tuner\.\d+)/")
    norms = _spread((x for x in kernels if not _clears(x)), r"(.+\.norm)/")
    attentions = _spread(kernels, r"(.+\.attention)/node_(?:Softmax|MatMul|scaled)")
    return {
        "kernels": len(kernels),
        "kinds": dict(Counter(x.kind for x in kernels).most_common()),
        "tuner_blocks": len(tuners),
        "tuner_blocks_fused": sum(map(_tuner_fused, tuners.values())),
        "tuner_kernels": {name: len(found) for name, found in tuners.items()},
        "group_norms": len(norms),
        "group_norms_fused": sum(len(found) == 1 for found in norms.values()),
        "attentions": len(attentions),
        "attentions_fused": sum(len(found) == 1 for found in attentions.values()),
        "moves": sum(x.moves and not _clears(x) for x in kernels),
        "bytes": sum(x.bytes for x in kernels),
    }


def _tuner_fused(kernels: Sequence[Kernel]) -> bool:
    """W_down, its addend and SiLU in one kernel; W_up and both its addends in another."""
    whole = lambda x: x.kind in CONVOLUTIONS and "conv" in " ".join(x.nodes).lower()
    return len(kernels) == 2 and all(map(whole, kernels))


def _clears(kernel: Kernel) -> bool:
    """Sets a GroupNorm's counters to zero: a few bytes."""
    return kernel.moves and kernel.bytes <= 4096


def _spread(kernels: Iterable[Kernel], pattern: str) -> Mapping[str, list[Kernel]]:
    """The kernels that each module's nodes are spread over; `pattern` names the module."""
    found: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        names = {m[1] for node in kernel.nodes if (m := re.match(pattern, node))}
        for name in names:
            found.setdefault(name, []).append(kernel)
    return dict(sorted(found.items()))
