"""How much each part of a bench measures, by what was asked for on the command line."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mcdiff_batch.bench.common.workload import Workload, usual_batch
from mcdiff_batch.bench.measures import host, latency, soak, soundness, step, throughput
from mcdiff_batch.engine.errors import UsageError

from .deployment import Json, Part, say

QUICK = {"latency": 3, "throughput": 8, "io": 16, "step": 16, "peers": 4, "soak": 8}  # samples
FULL = {"latency": 130, "throughput": 32, "io": 64, "step": 64, "peers": 16, "soak": 32}
BATCHES = 4  # of throughput, at least
SWEEP = {"cpu": (1, 2, 4)}  # batch sizes of throughput
SWEEP_ELSEWHERE = (4, 8, 16, 32)
PEERS = {"cpu": (1, 2, 4)}  # batch sizes of peers
PEERS_ELSEWHERE = (1, 8, 32)
CASELESS = ("step", "peers")  # samples of these are steps
Options = Mapping[str, Any]


def samples(
    options: Options, names: Sequence[str], fewest: int, sizes: Mapping[str, Sequence[int]]
) -> dict[str, int]:
    """As asked for; else by the part, for latency `fewest` or more, for a rate some batches."""
    chosen = dict(QUICK if options["quick"] else FULL)
    chosen["latency"] = max(chosen["latency"], fewest)
    if options.get("official"):
        chosen["throughput"] = throughput.OFFICIAL_CASES
    if "throughput" in names:
        chosen["throughput"] = max(chosen["throughput"], BATCHES * max(sizes["throughput"]))
    return {name: options["samples"] or chosen[name] for name in names if name in chosen}


def batch_sizes(options: Options, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """By part: those to be measured; the first is what the gate is told of.  Raises UsageError.

    Unless asked otherwise, what a run takes; for latency, one case.
    """
    text = options["batches"]
    if text is None:
        usual = usual_batch(options["devices"] or "auto")
        return {name: (1 if name == "latency" else usual,) for name in names}
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) for word in words):
        raise UsageError(f"--batches {text}: expected sizes such as 1,2,4")
    return dict.fromkeys(names, tuple(int(word) for word in words))


def phantoms(counts: Mapping[str, int], sizes: Mapping[str, Sequence[int]]) -> int:
    """How many give every sample cases of its own."""
    needs = {name: count for name, count in counts.items() if name not in CASELESS}
    if "latency" in needs:
        needs["latency"] = (needs["latency"] + latency.WARM_UP) * max(sizes["latency"])
    if "peers" in counts:
        needs["peers"] = max(PEERS_ELSEWHERE)
    return max([*needs.values(), *(x for few in sizes.values() for x in few)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
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
    """In the order in which they are measured."""
    return [
        KNOWN[name](
            Asked(options=options, count=counts.get(name, 0), sizes=sizes[name], workload=workload)
        )
        for name in names
    ]


def _latency(asked: Asked) -> Part:
    measure = lambda x, _: latency.measure(x, asked.sizes, asked.count, say)
    return Part(name="latency", module=latency, measure=measure)


def _throughput(asked: Asked) -> Part:
    """Quick: one device at one batch size.  Official: all devices at one batch size, once."""
    options, sizes = asked.options, asked.sizes
    quick, official = options["quick"], options.get("official", False)
    words = throughput.arrangements(asked.workload.devices)
    words = words[:1] if quick else words[-1:] if official else words
    if options["batches"] is None and not (quick or official):
        sizes = SWEEP.get(asked.workload.device.kind, SWEEP_ELSEWHERE)
    effort = throughput.Effort(
        cases=asked.count,
        repeats=options.get("repeats") or (1 if quick or official else 3),
        pairs=options.get("pairs", 0),
    )
    measure = lambda x, _: throughput.measure(x, words, sizes, effort, say)
    return Part(name="throughput", module=throughput, measure=measure)


def _io(asked: Asked) -> Part:
    """At the rate of one device, where throughput was measured before."""

    def measure(workload: Workload, before: Json) -> Json:
        rate = asked.options.get("rate")
        if rate is None and "throughput" in before:
            rate = before["throughput"]["rows"][0]["cases_per_hour"]["median"] / 3600
        return host.measure(workload, asked.count, rate, say)

    return Part(name="io", module=host, measure=measure)


def _step(asked: Asked) -> Part:
    measure = lambda x, _: step.measure(x, asked.sizes, asked.count, say)
    return Part(name="step", module=step, measure=measure)


def _fidelity(_: Asked) -> Part:
    return Part(name="fidelity", module=soundness, measure=lambda x, _: soundness.measure(x, say))


def _peers(asked: Asked) -> Part:
    """Imported here, because it imports torch."""
    from mcdiff_batch.bench.measures import peers

    quick = asked.options["quick"]
    sizes = asked.sizes
    if asked.options["batches"] is None and not quick:
        sizes = PEERS.get(asked.workload.device.kind, PEERS_ELSEWHERE)
    rounds = asked.options["rounds"] or (2 if quick else 5)
    effort = peers.Effort(rounds=rounds, steps=asked.count, compiled=not quick)
    measure = lambda x, _: peers.measure(x, sizes, effort, say)
    return Part(name="peers", module=peers, measure=measure)


def _soak(asked: Asked) -> Part:
    measure = lambda x, _: soak.measure(x, asked.sizes[0], asked.options["minutes"], say)
    return Part(name="soak", module=soak, measure=measure)


KNOWN: dict[str, Callable[[Asked], Part]] = {
    "latency": _latency,
    "throughput": _throughput,
    "io": _io,
    "step": _step,
    "fidelity": _fidelity,
    "peers": _peers,
    "soak": _soak,
}
