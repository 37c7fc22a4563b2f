"""The parts of a bench, and how much each measures, from the command line."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mcdiff_batch.bench.common.workload import Workload, usual_batch
from mcdiff_batch.bench.measures import host, latency, soak, soundness, step, throughput
from mcdiff_batch.engine.errors import UsageError

from .deployment import Json, Part, say

QUICK = {"latency": 3, "throughput": 8, "io": 8, "step": 8, "peers": 4, "soak": 8}  # samples
FULL = {"latency": 130, "throughput": 32, "io": 64, "step": 64, "peers": 16, "soak": 32}
BATCHES = 4  # throughput measures at least so many batches
SWEEP = {"cpu": (1, 2, 4)}  # batch sizes of throughput
SWEEP_ELSEWHERE = (4, 8, 16, 32)
PEERS = {"cpu": (1, 2, 4)}  # batch sizes of peers
PEERS_ELSEWHERE = (1, 8, 32)
CASELESS = ("step", "peers")  # parts whose samples are steps
Options = Mapping[str, Any]


def samples(
    options: Options, names: Sequence[str], fewest: int, sizes: Mapping[str, Sequence[int]]
) -> dict[str, int]:
    """Samples by part: --samples, or the part's default.

    Latency takes at least `fewest`, throughput at least BATCHES batches.
    """
    chosen = dict(QUICK if options["quick"] else FULL)
    chosen["latency"] = max(chosen["latency"], fewest)
    if options.get("official"):
        chosen["throughput"] = throughput.OFFICIAL_CASES
    if "throughput" in names:
        chosen["throughput"] = max(chosen["throughput"], BATCHES * max(sizes["throughput"]))
    return {name: options["samples"] or chosen[name] for name in names if name in chosen}


def batch_sizes(options: Options, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Batch sizes by part; the first is the one that is judged.  Raises UsageError.

    The default is that of a run; for latency it is one case.
    """
    text = options["batches"]
    if text is None:
        usual = usual_batch(options["devices"] or "auto")
        return {name: (1 if name == "latency" else usual,) for name in names}
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) for word in words):
        raise UsageError(f"--batches {text}: write sizes, for example 1,2,4")
    return dict.fromkeys(names, tuple(int(word) for word in words))


def phantoms(counts: Mapping[str, int], sizes: Mapping[str, Sequence[int]]) -> int:
    """The number of phantoms that gives every sample its own cases."""
    needs = {name: count for name, count in counts.items() if name not in CASELESS}
    if "latency" in needs:
        needs["latency"] = (needs["latency"] + latency.WARM_UP) * max(sizes["latency"])
    if "peers" in counts:
        needs["peers"] = max(PEERS_ELSEWHERE)
    return max([*needs.values(), *(x for few in sizes.values() for x in few)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a part is asked to measure."""

    options: Options
    count: int  # samples
    sizes: Sequence[int]  # of batches
    workload: Workload


def parts(
    names: Sequence[str],
    options: Options,
    counts: Mapping[str, int],
    sizes: Mapping[str, Sequence[int]],
    workload: Workload,
) -> list[Part]:
    """The parts, in the order in which they are measured."""
    return [
        PARTS[name](
            Request(
                options=options, count=counts.get(name, 0), sizes=sizes[name], workload=workload
            )
        )
        for name in names
    ]


def _latency(request: Request) -> Part:
    measure = lambda x, _: latency.measure(x, request.sizes, request.count, say)
    return Part(name="latency", module=latency, measure=measure)


def _throughput(request: Request) -> Part:
    """--quick: one device at one batch size.  --official: all devices at one batch size, once."""
    options, sizes = request.options, request.sizes
    quick, official = options["quick"], options.get("official", False)
    words = throughput.arrangements(request.workload.devices)
    words = words[:1] if quick else words[-1:] if official else words
    if options["batches"] is None and not (quick or official):
        sizes = SWEEP.get(request.workload.device.kind, SWEEP_ELSEWHERE)
    effort = throughput.Effort(
        cases=request.count,
        repeats=options.get("repeats") or (1 if quick or official else 3),
        pairs=options.get("pairs", 0),
    )
    measure = lambda x, _: throughput.measure(x, words, sizes, effort, say)
    return Part(name="throughput", module=throughput, measure=measure)


def _io(request: Request) -> Part:
    """Measures at the rate of one device, if throughput was measured before."""

    def measure(workload: Workload, before: Json) -> Json:
        rate = request.options.get("rate")
        if rate is None and "throughput" in before:
            rate = before["throughput"]["rows"][0]["cases_per_hour"]["median"] / 3600
        return host.measure(workload, request.count, rate, say)

    return Part(name="io", module=host, measure=measure)


def _step(request: Request) -> Part:
    measure = lambda x, _: step.measure(x, request.sizes, request.count, say)
    return Part(name="step", module=step, measure=measure)


def _fidelity(_: Request) -> Part:
    return Part(name="fidelity", module=soundness, measure=lambda x, _: soundness.measure(x, say))


def _peers(request: Request) -> Part:
    """Imports its module here, because that imports torch."""
    from mcdiff_batch.bench.measures import peers

    quick = request.options["quick"]
    sizes = request.sizes
    if request.options["batches"] is None and not quick:
        sizes = PEERS.get(request.workload.device.kind, PEERS_ELSEWHERE)
    rounds = request.options["rounds"] or (2 if quick else 5)
    effort = peers.Effort(rounds=rounds, steps=request.count, compiled=not quick)
    measure = lambda x, _: peers.measure(x, sizes, effort, say)
    return Part(name="peers", module=peers, measure=measure)


def _soak(request: Request) -> Part:
    measure = lambda x, _: soak.measure(x, request.sizes[0], request.options["minutes"], say)
    return Part(name="soak", module=soak, measure=measure)


PARTS: dict[str, Callable[[Request], Part]] = {
    "latency": _latency,
    "throughput": _throughput,
    "io": _io,
    "step": _step,
    "fidelity": _fidelity,
    "peers": _peers,
    "soak": _soak,
}
