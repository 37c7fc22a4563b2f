"""`python -m tests.campaign`: plays fault histories against runs and counts what came of them."""

import gc
import json
import platform
import random
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from mcdiff_batch.engine.output.runs import software_versions
from mcdiff_batch.engine.telemetry.machine import cores
from tests.support.running import archive, inline, job

from . import clock, division, kernel, machine, meeting, schedule, trees
from .scene import CASES, SCRATCH, make_scenes
from .schedule import Result, Schedule

SHARES = {  # of the schedules; "mixtures" are as many as are then left
    "errors": 0.27,
    "kills": 0.166,
    "power": 0.46,
    "system calls": 0.02,
    "second start": 0.01,
    "parts": 0.01,
    "clock": 0.01,
    "any order": 0.002,
    "process trees": 0.004,
    "system calls of trees": 0.002,
    "clocks of trees": 0.001,
    "mixtures": 1.0,
}
REAL = [name for name in SHARES if "trees" in name]
SHOWN = 20  # broken schedules
NEWS = 500  # schedules between two lines of progress
_schedules: list[Schedule] = []  # of this process and of those that it forks


@dataclass(slots=True)
class Row:
    """What became of one kind."""

    possible: int = 0  # schedules that there are
    played: int = 0
    histories: int = 0
    hows: Counter[str] = field(default_factory=Counter)
    broken: int = 0


@click.command(help=__doc__)
@click.option("--schedules", type=click.IntRange(min=1), default=10_000, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--only", type=click.Choice(list(SHARES)), help="Play schedules of one kind.")
@click.option("--replay", type=int, metavar="NUMBER", help="Play one schedule of the kind --only.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the result, as JSON.")
def main(
    schedules: int, seed: int, jobs: int, only: str | None, replay: int | None, output: Path | None
) -> None:
    if replay is not None and only is None:
        raise click.UsageError("--replay needs the kind of the schedule: --only KIND")
    begun = time.monotonic()
    failures: list[tuple[Schedule, Result]] = []
    with TemporaryDirectory(dir=SCRATCH if SCRATCH.is_dir() else None) as folder:
        kinds = make_kinds(Path(folder), seed, schedules, only)
        if replay is not None:
            chosen = [kinds[only or ""][replay]]
        else:
            chosen = choose(kinds, schedules, seed)
        rows = {name: Row(possible=len(found)) for name, found in kinds.items()}
        with suppress(KeyboardInterrupt):  # what was played until then counts
            for number, (one, result) in enumerate(play(chosen, jobs), 1):
                count(rows[one.kind], result)
                if result.broken:
                    failures.append((one, result))
                    show_failure(one, result, seed, len(failures))
                if number % NEWS == 0:
                    click.echo(f"{number} of {len(chosen)}, {len(failures)} broken", err=True)
    click.echo(draw_table(rows))
    seconds = time.monotonic() - begun
    if output is not None:
        document = describe(rows, failures, schedules, seed, jobs, seconds)
        output.write_text(json.dumps(document, indent=1) + "\n")
    sys.exit(bool(failures))


def make_kinds(folder: Path, seed: int, count: int, only: str | None) -> dict[str, list[Schedule]]:
    """All schedules of each kind, or of one."""
    warm_up(folder)
    scenes = make_scenes(folder)
    stage = trees.make_stage(folder) if only in (None, *REAL) else None
    share = lambda name: count if only else max(1, round(count * SHARES[name]))
    makers = {
        "errors": lambda: schedule.errors(scenes, seed),
        "kills": lambda: schedule.kills(scenes, seed),
        "power": lambda: schedule.cuts(scenes, seed),
        "system calls": lambda: kernel.system_calls(scenes, seed),
        "second start": lambda: meeting.meetings(scenes, seed),
        "parts": lambda: division.divisions(scenes, seed),
        "clock": lambda: clock.clock_jumps(scenes, seed),
        "any order": lambda: machine.any_order(scenes, seed, share("any order")),
        "process trees": lambda: trees.tree_kills(stage, seed, share("process trees")),
        "system calls of trees": lambda: trees.tree_calls(
            stage, seed, share("system calls of trees")
        ),
        "clocks of trees": lambda: trees.tree_clocks(stage, seed, share("clocks of trees")),
        "mixtures": lambda: schedule.mixtures(scenes, seed, count),
    }
    return {name: make() for name, make in makers.items() if only in (None, name)}


def warm_up(folder: Path) -> None:
    """Imports and caches once what every night would."""
    inline(job(archive(folder / "warm.zarr", CASES), folder / "warm"))
    gc.collect()
    gc.freeze()  # children share the memory


def choose(kinds: dict[str, list[Schedule]], count: int, seed: int) -> list[Schedule]:
    """The share of each kind, by chance where there are more, in any order."""
    chosen: list[Schedule] = []
    for name, found in kinds.items():
        share = count if len(kinds) == 1 else max(1, round(count * SHARES[name]))
        wanted = min(len(found), share, max(0, count - len(chosen)))
        chosen += random.Random(f"{seed} {name}").sample(found, wanted)
    random.Random(seed).shuffle(chosen)
    return chosen


def play(chosen: Sequence[Schedule], jobs: int) -> Iterator[tuple[Schedule, Result]]:
    """Plays schedules in `jobs` processes."""
    _schedules[:] = chosen
    if jobs == 1:
        yield from ((one, _play(number)[1]) for number, one in enumerate(chosen))
        return
    with get_context("fork").Pool(jobs) as pool:
        for number, result in pool.imap_unordered(_play, range(len(chosen)), chunksize=4):
            yield chosen[number], result


def _play(number: int) -> tuple[int, Result]:
    try:
        return number, _schedules[number].play()
    except Exception as error:
        text = f"the campaign itself failed: {type(error).__name__}\n{traceback.format_exc()}"
        return number, Result(how="not played", broken=(text,))


def count(row: Row, result: Result) -> None:
    row.played += 1
    row.histories += result.histories
    row.hows[result.how.split(", ")[0]] += 1
    row.broken += bool(result.broken)


def show_failure(one: Schedule, result: Result, seed: int, number: int) -> None:
    if number > SHOWN:
        return
    click.echo(f"BROKEN {one.kind} #{one.number}: {one.text}")
    for text in result.broken[:5]:
        click.echo(f"  {text}")
    words = f'--seed {seed} --only "{one.kind}" --replay {one.number}'
    click.echo(f"  replay: python -m tests.campaign {words}")


def draw_table(rows: dict[str, Row]) -> str:
    lines = [f"{'kind':<22} {'possible':>8} {'played':>7} {'broken':>7}  how the first night ended"]
    for name, row in rows.items():
        hows = ", ".join(f"{how} {number}" for how, number in sorted(row.hows.items()))
        lines.append(f"{name:<22} {row.possible:>8} {row.histories:>7} {row.broken:>7}  {hows}")
    played, broken = (sum(getattr(x, y) for x in rows.values()) for y in ("histories", "broken"))
    return "\n".join([*lines, f"{'all':<22} {'':>8} {played:>7} {broken:>7}"])


def describe(
    rows: dict[str, Row],
    failures: Sequence[tuple[Schedule, Result]],
    schedules: int,
    seed: int,
    jobs: int,
    seconds: float,
) -> dict[str, Any]:
    return {
        "command": f"python -m tests.campaign --schedules {schedules} --seed {seed} --jobs {jobs}",
        "commit": _commit(),
        "machine": f"{_processor()}, {cores()} cores",
        "system": platform.platform(),
        "python": platform.python_version(),
        "software": software_versions(),
        "seconds": round(seconds),
        "schedules": sum(row.histories for row in rows.values()),
        "broken": len(failures),
        "kinds": {
            name: {
                "possible": row.possible,
                "played": row.histories,
                "first_night": dict(sorted(row.hows.items())),
                "broken": row.broken,
            }
            for name, row in rows.items()
        },
        "failures": [
            f"{x.kind} #{x.number}: {x.text}: {y.broken[0].splitlines()[0]}"
            for x, y in failures[:SHOWN]  # tracebacks hold paths of the machine
        ],
    }


def _commit() -> str:
    try:
        words = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    main()
