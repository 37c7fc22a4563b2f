"""A day on a lent GPU as one command: `python -m mcdiff_batch.bench.gpu.day` in a checkout.

It runs commands that a user could give, one after the other.  Each has a time limit, writes its
results as it goes, and fails alone.  The same line again skips what is done and continues a
training.  It needs no network.  Parts that do not need a GPU come last; `--only` takes some parts.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click

from mcdiff_batch.bench.common.command import CLI
from mcdiff_batch.engine.backends.gpus import gpus
from mcdiff_batch.engine.model.contract import SHIPPED
from mcdiff_batch.engine.telemetry.machine import cores, machine

TESTS = Path("tests/engine/test_on_gpu.py")
TAIL = 2000  # characters of a part's output that are stored with its result
STATE = "programme.json"
Words = Sequence[str | Path]
Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A command, and the share of the minutes that it may take."""

    name: str
    words: Words
    share: float
    needs: tuple[str, ...] = ()  # parts that must be done before


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The size of a programme; small for the rehearsal."""

    preset: str = "small-morphology-gpu"
    source: Path | None = SHIPPED  # weights to continue from
    train: int  # cases, at most
    held_out: int
    test: int
    night: int  # cases of the run that is as long as one of a clinic
    measured: Path | None  # bundle to measure; None: the exported one
    quick: bool
    budget: float = 1.0  # of the training, which its minutes shorten further
    profiled: str = "small-gpu"  # the preset whose training steps are profiled


DAY = Size(
    train=5000,
    held_out=64,
    test=181,
    night=10_000,
    measured=SHIPPED,  # it has the same networks as the trained one
    quick=False,
)
REHEARSAL = Size(
    train=24,
    held_out=4,
    test=16,
    night=24,
    measured=None,
    quick=True,
    budget=9e-5,  # two steps: a crop and a whole frame
    profiled="toy",
)
TOY = replace(REHEARSAL, preset="toy", source=None, budget=1.0)
DRAWING = 0.15  # share of the minutes for the phantoms of one archive
PACE = 2.0  # phantoms a second and core, at least: less than half of what a Xeon draws


def programme(size: Size, root: Path, device: str, minutes: float) -> tuple[Part, ...]:
    """The parts, the most important first; the training gets most of the time."""
    archives = {name: root / f"{name}.zarr" for name in ("train", "held_out", "unseen", "test")}
    fitting = int(PACE * cores() * DRAWING * 60 * minutes)
    counts = (min(size.train, fitting), size.held_out, size.held_out, size.test)
    seeds = (1000, 3000, 3100, 2025)
    trained, bundle, night = root / "trained", root / "bundle", root / "night"
    training = 0.5
    source = ("--from", size.source) if size.source else ()
    makes = (
        *(
            Part(name=f"phantoms {name}", words=_phantoms(path, count, seed), share=DRAWING)
            for (name, path), count, seed in zip(archives.items(), counts, seeds, strict=True)
        ),
        Part(
            name="training",
            words=(
                *(*CLI, "train", "--data", archives["train"], "--output", trained, *source),
                *("--preset", size.preset, "--budget", str(size.budget)),
                *("--minutes", str(training * minutes)),
            ),
            share=training + 0.3,  # a slow machine reads, scores and draws for longer
            needs=("phantoms train",),
        ),
    )
    exported = (
        Part(
            name="export",
            words=(
                *(*CLI, "export", trained, "--output", bundle, "--data", archives["held_out"]),
                *("--cases", "2"),
            ),
            share=0.2,
            needs=("training", "phantoms held_out"),
        ),
        Part(
            name="gate",
            words=(*CLI, "gate", bundle, "--data", archives["unseen"], "--cases", "4"),
            share=0.1,
            needs=("export", "phantoms unseen"),
        ),
        Part(
            name="run",
            words=(
                *(*CLI, "run", "--input", archives["test"], "--output", night),
                *("--bundle", bundle, "--devices", device),
            ),
            share=0.1,
            needs=("export", "phantoms test"),
        ),
        Part(
            name="evaluation",
            words=(
                *(*CLI, "evaluate", "--run", night, "--truth", archives["test"]),
                *("--bundle", bundle, "--json"),
            ),
            share=0.2,
            needs=("run",),
        ),
    )
    first = Part(name="environment", words=(*CLI, "doctor", "--json"), share=0.1)
    on = ("--bundle", size.measured or bundle, "--devices", device)
    twice = "cpu:2" if device == "cpu" else f"{device},{device}"
    measures = (*_measures(size, root, on, twice), *_night(size, root, on))
    if size.measured:
        return (first, *makes, *measures, *exported)
    return (first, *makes, *exported, *measures)


def _measures(size: Size, root: Path, on: Words, twice: str) -> tuple[Part, ...]:
    """The measures of a bundle on a device.  twice: `--devices` of two workers on it."""
    needs = () if size.measured else ("export",)
    bench = lambda name, *more: (
        *(*CLI, "bench", name, *on, "--output", root / f"{name}.json"),
        *(("--quick",) if size.quick else more),
    )
    batch, repeats = ("2", "1") if size.quick else ("8", "2")
    tests = (sys.executable, "-m", "pytest", "-q", "-m", "gpu", TESTS)
    where = ("--output", root / "profile.json", "--preset", size.profiled)
    return (
        *([] if size.quick else [Part(name="gpu tests", words=tests, share=0.2)]),
        Part(name="peers", words=bench("peers", "--batches", "8,32"), share=0.3, needs=needs),
        Part(
            name="throughput",
            words=(
                *bench(
                    "throughput", "--batches", "8,32", "--repeats", "1", "--samples", str(size.test)
                ),
                *("--input", root / "test.zarr"),
            ),
            share=0.15,
            needs=(*needs, "phantoms test"),
        ),
        Part(
            name="two workers",
            words=(
                *(*CLI, "bench", "throughput", *on[:2], "--devices", twice),
                *("--input", root / "test.zarr", "--output", root / "two_workers.json"),
                *("--batches", batch, "--repeats", repeats, "--samples", str(size.test)),
            ),
            share=0.15,
            needs=(*needs, "phantoms test"),
        ),
        Part(name="step", words=bench("step"), share=0.1, needs=needs),
        Part(
            name="latency",
            words=(*bench("latency", "--batches", "1"), "--input", root / "test.zarr"),
            share=0.1,
            needs=(*needs, "phantoms test"),
        ),
        Part(
            name="profile",
            words=(sys.executable, "-m", "mcdiff_batch.bench.gpu.profile", *where),
            share=0.15,
        ),
    )


def _night(size: Size, root: Path, on: Words) -> tuple[Part, ...]:
    """A run as long as one of a clinic, with its report."""
    source = root / "whole_night.zarr"
    return (
        Part(name="phantoms night", words=_phantoms(source, size.night, 4000), share=0.6),
        Part(
            name="night",
            words=(*CLI, "run", "--input", source, "--output", root / "whole_night", *on),
            share=0.3,
            needs=("phantoms night", *(() if size.measured else ("export",))),
        ),
    )


def _phantoms(path: Path, cases: int, seed: int) -> Words:
    return (*CLI, "phantom", "--output", path, "--cases", str(cases), "--seed", str(seed))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a part ended; stored in programme.json."""

    name: str
    ended: str  # "done", "failed", "ran out of time", "left out"
    code: int | None
    seconds: float
    said: str  # the end of its output


def perform(parts: Sequence[Part], root: Path, minutes: float) -> Iterator[Outcome]:
    """Runs the parts that are not done; yields every part's outcome and stores it."""
    outcomes = {x["name"]: Outcome(**x) for x in _read(root)}
    done = {name for name, x in outcomes.items() if x.ended == "done"}
    end = time.monotonic() + 60 * minutes
    for part in parts:
        if part.name not in done:
            left = end - time.monotonic()
            outcomes[part.name] = _perform(part, root, min(60 * minutes * part.share, left), done)
            done |= {part.name} if outcomes[part.name].ended == "done" else set()
            _write(root, list(outcomes.values()), minutes)
        yield outcomes[part.name]


def _perform(part: Part, root: Path, limit: float, done: set[str]) -> Outcome:
    missing = [x for x in part.needs if x not in done]
    if missing or limit <= 0:
        why = f"needs {', '.join(missing)}" if missing else "no time was left"
        return Outcome(name=part.name, ended="left out", code=None, seconds=0.0, said=why)
    start = time.monotonic()
    log = root / f"{part.name.replace(' ', '_')}.log"
    with log.open("w") as file:
        try:
            words = list(map(str, part.words))
            code = subprocess.run(words, stdout=file, stderr=subprocess.STDOUT, timeout=limit)
            ended = "failed" if code.returncode else "done"
            found: int | None = code.returncode
        except subprocess.TimeoutExpired:
            ended, found = "ran out of time", None
    return Outcome(
        name=part.name,
        ended=ended,
        code=found,
        seconds=round(time.monotonic() - start, 1),
        said=log.read_text(errors="replace")[-TAIL:],
    )


def _read(root: Path) -> list[Json]:
    path = root / STATE
    return list(json.loads(path.read_text())["parts"]) if path.is_file() else []


def _write(root: Path, outcomes: Sequence[Outcome], minutes: float) -> None:
    about = {
        "what": "the programme of a day on a GPU",
        "machine": machine(("torch",)),
        "minutes": minutes,
        "parts": [asdict(x) for x in outcomes],
    }
    part = root / f"{STATE}.part"
    part.write_text(json.dumps(about, indent=1) + "\n")
    part.replace(root / STATE)


@click.command()
@click.option(
    "--minutes",
    type=click.FloatRange(min=0.1),
    default=20,
    show_default=True,
    help="Time for all parts together.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("gpu-day"),
    show_default=True,
    help="Folder for everything that is made.",
)
@click.option("--devices", "device", default="cuda:0", show_default=True, help="As for `run`.")
@click.option("--rehearse", is_flag=True, help="Use few cases, on any machine.")
@click.option("--toy", is_flag=True, help="Rehearse with the preset toy, which takes less time.")
@click.option("--only", multiple=True, help="Run this part, such as training; may be repeated.")
def main(
    minutes: float,
    output: Path,
    device: str,
    rehearse: bool,
    toy: bool,
    only: tuple[str, ...],
) -> None:
    """Train, export, run, evaluate and measure on a lent GPU within some minutes."""
    if toy and not rehearse:
        raise click.UsageError("--toy: is for a rehearsal; add --rehearse, or leave it out")
    output.mkdir(parents=True, exist_ok=True)
    if not gpus() and not rehearse:
        raise click.UsageError("no GPU found; use --rehearse --devices cpu to try it without one")
    size = (TOY if toy else REHEARSAL) if rehearse else DAY
    bad = []
    parts = programme(size, output, device, minutes)
    unknown = set(only) - {x.name for x in parts}
    if unknown:
        names = ", ".join(x.name for x in parts)
        raise click.UsageError(f"--only {', '.join(sorted(unknown))}: expected parts of {names}")
    chosen = [x for x in parts if not only or x.name in only]
    for outcome in perform(chosen, output, minutes):
        last = outcome.said.strip().splitlines()[-1:] if outcome.ended != "done" else []
        click.echo(f"{outcome.name:<18}{outcome.ended:<17}{outcome.seconds:>7.1f} s")
        bad += [outcome.name] if outcome.ended != "done" else []
        for line in last:
            click.echo(f"  {line[:100]}")
    click.echo(json.dumps({"parts": len(_read(output)), "not_done": bad, "output": str(output)}))
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
