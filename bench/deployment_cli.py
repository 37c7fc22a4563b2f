"""The commands by which a machine is judged: `bench` itself, and latency, throughput, ... soak."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from .deployment import Gate, Measure, Part
    from .subject import Subject

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
AT_LEAST_1 = click.IntRange(min=1)
ANY = (
    click.option("--quick", is_flag=True, help="A smoke test: as little as gives a table."),
    click.option("--bundle", type=FOLDER, help="Default: the shipped bundle."),
    click.option("--devices", help="As `run` takes it; default: auto."),
    click.option("--input", "archive", type=FOLDER, help="Your archive; default: phantoms."),
    click.option(
        "--scratch", type=FOLDER, help="Where outputs go meanwhile: the disk that is measured."
    ),
    click.option("--output", type=FILE, help="Write the JSON document there too."),
)
GATE = (
    click.option("--require", help="'p95_latency_ms<=400, psnr_db>=45'; exit 8 where not met."),
    click.option("--against", type=FILE, help="JSON of an earlier bench; exit 8 where worse."),
    click.option(
        "--tolerance", default="5%", show_default=True, help="By how much --against may be worse."
    ),
    click.option(
        "--cases", type=AT_LEAST_1, help="With --hours: do so many fit? Exit 8 where not."
    ),
    click.option(
        "--hours", type=click.FloatRange(min=0, min_open=True), help="The night that --cases have."
    ),
)
SAMPLES = click.option("--samples", type=AT_LEAST_1, help="Cases (latency: batches) to measure.")
BATCHES = click.option("--batches", help="Batch sizes, such as 1,2,4.")
QUICK = {"latency": 3, "throughput": 8, "io": 16, "step": 16, "peers": 4, "soak": 8}  # samples
FULL = {"latency": 130, "throughput": 32, "io": 64, "step": 64, "peers": 16, "soak": 32}
SWEEP = {"cpu": (1, 2, 4)}
SWEEP_ELSEWHERE = (4, 8, 16, 32)
Command = Callable[..., Any]


def measuring(command: Command) -> Command:
    """The options that all these commands share."""
    return _with(ANY, command)


def judging(command: Command) -> Command:
    """Those too by which a command's figures are judged."""
    return _with(ANY + GATE, command)


def _with(options: Sequence[Command], command: Command) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def whole(options: dict[str, Any]) -> None:
    """`bench` with no command: the parts that a deployment is decided by."""
    parts = ("latency", "throughput", "io", "step", "fidelity")
    _run(options | {"samples": None, "batches": None}, parts)


@click.command()
@judging
@SAMPLES
@BATCHES
def latency(**options: Any) -> None:
    """One case through frame, condition, steps, relabel and quality: percentiles."""
    _run(options, ("latency",))


@click.command()
@judging
@SAMPLES
@BATCHES
@click.option("--repeats", type=AT_LEAST_1, help="Of every setting, interleaved; default: 3.")
@click.option("--pairs", type=click.IntRange(min=0), default=0, help="Beside the command `run`.")
@click.option("--official", is_flag=True, help="MLPerf's length: 600 s and 24,576 cases or more.")
def throughput(**options: Any) -> None:
    """Cases an hour of the whole pipeline: batch sizes, and one device against all."""
    _run(options, ("throughput",))


@click.command(name="io")
@judging
@SAMPLES
@click.option("--rate", type=float, help="Cases/s of a device that is to be kept busy.")
def io_(**options: Any) -> None:
    """What the host does around the model, its ceiling, and processes a device needs."""
    _run(options | {"batches": None}, ("io",))


@click.command()
@judging
@SAMPLES
@BATCHES
def step(**options: Any) -> None:
    """The denoiser alone, against a matrix product measured in the same run."""
    _run(options, ("step",))


@click.command()
@measuring
@BATCHES
@click.option("--rounds", type=AT_LEAST_1, help="Of all in turn; default: 5.")
def peers(**options: Any) -> None:
    """The same network by PyTorch, diffusers' scheduler and the paper's 1000 steps, in turn."""
    _run(UNJUDGED | options, ("peers",))


@click.command()
@measuring
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=60.0)
def soak(**options: Any) -> None:
    """The same work for long: drift of the rate, growth of memory, throttling."""
    _run(UNJUDGED | options, ("soak",))


COMMANDS = (latency, throughput, io_, step, peers, soak)
UNJUDGED: dict[str, Any] = dict.fromkeys(
    ("require", "against", "cases", "hours", "samples", "batches")
)
UNJUDGED |= {"tolerance": "0%"}


def _run(options: dict[str, Any], names: Sequence[str]) -> None:
    from .deployment import carry_out, gate, subject

    asked = gate(options, names)
    if options["quick"] and "psnr_db" not in asked.wanted:
        names = [name for name in names if name != "fidelity"]
    samples, batches = _samples(options, names, asked), _batches(options)
    with subject(options, _cases(samples, batches)) as found:
        parts = [_part(name, options, samples.get(name, 0), batches, found) for name in names]
        carry_out(found, parts, asked, options["output"])


def _samples(options: dict[str, Any], names: Sequence[str], asked: "Gate") -> dict[str, int]:
    """As asked for; none: by the part, and what the percentiles required can be told from."""
    from .throughput import OFFICIAL_CASES

    chosen = dict(QUICK if options["quick"] else FULL)
    chosen["latency"] = max(chosen["latency"], asked.samples)
    if options.get("official"):
        chosen["throughput"] = OFFICIAL_CASES
    return {name: options["samples"] or chosen[name] for name in names if name in chosen}


def _batches(options: dict[str, Any]) -> tuple[int, ...]:
    """Those to be measured; the first is what the gate is told of.  Raises UsageError."""
    from mcdiff_batch.engine.errors import UsageError

    from .subject import usual_batch

    text = options["batches"]
    if text is None:
        return (usual_batch(options["devices"] or "auto"),)
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) for word in words):
        raise UsageError(f"--batches {text}: expected sizes such as 1,2,4")
    return tuple(int(word) for word in words)


def _cases(samples: dict[str, int], batches: Sequence[int]) -> int:
    """How many phantoms give every sample cases of its own."""
    from .latency import WARM_UP

    needs = {name: count for name, count in samples.items() if name not in ("step", "peers")}
    if "latency" in needs:
        needs["latency"] = (needs["latency"] + WARM_UP) * max(batches)
    return max([*needs.values(), *batches, 4])


def _part(
    name: str,
    options: dict[str, Any],
    samples: int,
    batches: Sequence[int],
    found: "Subject",
) -> "Part":
    from . import fidelity, host, latency, soak, step
    from .deployment import Part, say

    parts: dict[str, tuple[Any, Measure]] = {
        "latency": (latency, lambda x, _: latency.measure(x, batches, samples, say)),
        "throughput": _throughput(options, samples, batches, found),
        "io": (
            host,
            lambda x, before: host.measure(x, samples, options.get("rate") or _rate(before), say),
        ),
        "step": (step, lambda x, _: step.measure(x, batches, samples, say)),
        "fidelity": (fidelity, lambda x, _: fidelity.measure(x, say)),
        "soak": (soak, lambda x, _: soak.measure(x, batches[0], options["minutes"], say)),
    }
    module, measure = _peers(options, samples, batches) if name == "peers" else parts[name]
    return Part(name=name, module=module, measure=measure)


def _peers(options: dict[str, Any], samples: int, batches: Sequence[int]) -> "tuple[Any, Measure]":
    """Apart, because importing it imports torch."""
    from . import peers
    from .deployment import say

    quick = options["quick"]
    if options["batches"] is None and not quick:
        batches = (1, 2, 4)
    rounds = options["rounds"] or (2 if quick else 5)
    effort = peers.Effort(rounds=rounds, steps=samples, compiled=not quick)
    return peers, lambda x, _: peers.measure(x, batches, effort, say)


def _throughput(
    options: dict[str, Any], samples: int, batches: Sequence[int], found: "Subject"
) -> "tuple[Any, Measure]":
    """Quick: one device at one batch size.  Official: all devices at one batch size, once."""
    from . import throughput
    from .deployment import say

    quick, official = options["quick"], options.get("official", False)
    words = throughput.arrangements(found.devices)
    words = words[:1] if quick else words[-1:] if official else words
    if options["batches"] is None and not (quick or official):
        batches = SWEEP.get(found.device.kind, SWEEP_ELSEWHERE)
    effort = throughput.Effort(
        cases=samples,
        repeats=options.get("repeats") or (1 if quick or official else 3),
        pairs=options.get("pairs", 0),
    )
    return throughput, lambda x, _: throughput.measure(x, words, batches, effort, say)


def _rate(before: Any) -> float | None:
    """Cases/s of one device, where throughput was measured before."""
    if "throughput" not in before:
        return None
    return float(before["throughput"]["rows"][0]["cases_per_hour"]["median"]) / 3600
