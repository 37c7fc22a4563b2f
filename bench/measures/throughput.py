"""How many cases per hour `run` does, from the archive to the committed output."""

import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

from mcdiff_batch.bench.common.command import CLI
from mcdiff_batch.bench.common.percentiles import spread
from mcdiff_batch.bench.common.workload import LocalWorker, Workload, describe_devices
from mcdiff_batch.engine.backends.devices import devices
from mcdiff_batch.engine.backends.trial import maker
from mcdiff_batch.engine.errors import UsageError
from mcdiff_batch.engine.report.timings import ended_runs
from mcdiff_batch.engine.run.enhance import enhance
from mcdiff_batch.engine.run.job import UNIT_SIZE
from mcdiff_batch.engine.run.tracker import Progress

OFFICIAL_S, OFFICIAL_CASES = 600, 24_576  # MLPerf Inference, offline
Json = dict[str, Any]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Devices and batch size of a run."""

    devices: str  # as `run` takes it
    batch: int

    def __str__(self) -> str:
        return f"{self.devices} batch {self.batch}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much to measure."""

    cases: int
    repeats: int
    pairs: int = 0  # comparisons with the command `run`


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One run."""

    cases: int  # done
    seconds: float  # of `enhance`, with start-up and manifest
    reported_s: float  # the part of it that `run` reports
    steady: float  # cases/s from the end of every device's first batch to the last case

    @property
    def start_s(self) -> float:
        """The seconds beyond those of the steady rate."""
        return max(0.0, self.seconds - self.cases / self.steady)


def arrangements(text: str) -> tuple[str, ...]:
    """One device, and all of `text`; on a machine without a GPU, one and two devices."""
    chosen = devices(text)
    if text == "auto" and chosen[0].kind == "cpu":
        return "cpu:1", "cpu:2"
    first = "cpu:1" if chosen[0].kind == "cpu" else str(chosen[0])
    return (first,) if len(chosen) == 1 else (first, text)


def steady(points: Sequence[tuple[float, int]], first: int) -> float:
    """The rate in cases/s of points (seconds, cases so far), from `first` cases on."""
    ends = [point for point in points if point[1] >= first]
    most = max((cases for _, cases in ends), default=0)
    start, end = ends[0] if ends else (0.0, 0), next((x for x in ends if x[1] == most), (0.0, 0))
    if end[1] <= start[1]:
        raise UsageError("throughput: too few cases for a rate; give more --samples")
    return (end[1] - start[1]) / (end[0] - start[0])


def unit_size(cases: int, batch: int) -> int:
    """The unit size of `run`; smaller if devices would run out of units unevenly."""
    return batch * max(1, min(UNIT_SIZE, cases // 16) // batch)


def run_session(workload: Workload, setting: Setting, cases: int) -> Session:
    chosen = devices(setting.devices)
    with tempfile.TemporaryDirectory(dir=workload.scratch) as name:
        job = workload.job(
            Path(name) / "out",
            setting.devices,
            batch=setting.batch,
            unit_size=unit_size(cases, setting.batch),
        )
        points: list[tuple[float, int]] = []
        start = perf_counter()

        def note(at: Progress) -> None:
            if not points or at.handled > points[-1][1]:
                points.append((perf_counter() - start, at.handled))

        summary = enhance(
            replace(job, limit=cases), maker(workload.bundle, chosen, setting.batch), note
        )
        seconds = perf_counter() - start
    rate = steady(points, len(chosen) * setting.batch)
    return Session(
        cases=summary.counts["done"], seconds=seconds, reported_s=summary.seconds, steady=rate
    )


def interleave(
    workload: Workload, settings: Sequence[Setting], effort: Effort, say: Say
) -> list[Json]:
    """Measures every setting once, then again (A/B/A/B), so that drifts affect all alike."""
    found: dict[Setting, list[Session]] = {setting: [] for setting in settings}
    for repeat in range(effort.repeats):
        for setting in settings:
            say(f"throughput of {setting}: {effort.cases} cases, {repeat + 1} of {effort.repeats}")
            found[setting].append(run_session(workload, setting, effort.cases))
    return [_row(setting, sessions) for setting, sessions in found.items()]


def _row(setting: Setting, sessions: Sequence[Session]) -> Json:
    an_hour = lambda values: spread([3600 * x for x in values]).as_dict()
    return {
        "devices": setting.devices,
        "batch": setting.batch,
        "cases": sessions[0].cases,
        "seconds": spread([x.seconds for x in sessions]).as_dict(),
        "start_s": spread([x.start_s for x in sessions]).as_dict(),
        "cases_per_hour": an_hour([x.steady for x in sessions]),
        "with_start_per_hour": an_hour([x.cases / x.seconds for x in sessions]),
    }


def rate_calls(workload: Workload, batch: int, cases: int, say: Say) -> float:
    """Cases/s that the first device computes when it need not wait for reading or writing."""
    say(f"the plan's calls alone at batch {batch}, for as many cases")
    work = list(islice(workload.cases(), batch))
    return LocalWorker(workload, batch).rate(work, max(1, cases // batch))


def best(rows: Sequence[Json]) -> Json:
    return max(rows, key=lambda row: float(row["cases_per_hour"]["median"]))


def measure(
    workload: Workload, words: Sequence[str], batches: Sequence[int], effort: Effort, say: Say
) -> Json:
    """Sweeps batch sizes on the first of `words`, then measures all of them at the best size."""
    effort = replace(effort, cases=min(effort.cases, workload.archive.cases))
    cases, sweep, batch = effort.cases, list[Json](), batches[0]
    if len(batches) > 1:
        settings = [Setting(devices=words[0], batch=x) for x in batches]
        sweep = interleave(workload, settings, effort, say)
        batch = int(best(sweep)["batch"])
    calls = [rate_calls(workload, batch, cases, say)]
    rows = interleave(workload, [Setting(devices=x, batch=batch) for x in words], effort, say)
    calls.append(rate_calls(workload, batch, cases, say))
    chosen = best(rows)
    best_setting = Setting(devices=chosen["devices"], batch=chosen["batch"])
    return {
        "sweep": sweep,
        "rows": rows,
        "best": chosen,
        "calls_per_hour": spread([3600 * x for x in calls]).as_dict(),
        "where": describe_devices(devices(best_setting.devices)),
        "official": cases >= OFFICIAL_CASES and chosen["seconds"]["low"] >= OFFICIAL_S,
        "pairs": list(_pairs(workload, best_setting, effort, say)),
    }


def _pairs(workload: Workload, setting: Setting, effort: Effort, say: Say) -> Iterator[Json]:
    """Runs the same cases here and by the command `run`, in turn: cases per hour with start-up."""
    for pair in range(effort.pairs):
        say(f"bench and `run` in turn, pair {pair + 1} of {effort.pairs}")
        here = run_session(workload, setting, effort.cases)
        there = _command(workload, setting, effort.cases)
        seconds, command = there
        yield {
            "bench": round(3600 * here.cases / here.reported_s, 1),
            "run": round(3600 * here.cases / seconds, 1),
            "command_adds_s": round(command - seconds, 2),
        }


def _command(workload: Workload, setting: Setting, cases: int) -> tuple[float, float]:
    """The seconds of `mcdiff-batch run`, as it reports them and as the shell sees them."""
    output = workload.scratch / "by-command"
    options = {
        "--input": workload.path,
        "--output": output,
        "--bundle": workload.bundle.root,
        "--devices": setting.devices,
        "--batch-size": setting.batch,
        "--unit-size": unit_size(cases, setting.batch),
        "--limit": cases,
    }
    words = [str(word) for pair in options.items() for word in pair]
    start = perf_counter()
    done = subprocess.run([*CLI, "run", *words], capture_output=True, text=True)
    seconds = perf_counter() - start
    ended = ended_runs(output)
    shutil.rmtree(output, ignore_errors=True)
    if done.returncode not in (0, 3):
        raise RuntimeError(f"`run` ended with {done.returncode}: {done.stderr[-500:]}")
    return float(ended[-1]["seconds"]), seconds


def measures(document: Json) -> tuple[dict[str, float], dict[str, str]]:
    """The measures of the best setting; memory is that of the largest process."""
    figures = {"cases_per_hour": document["best"]["cases_per_hour"]["median"]}
    figures["memory_mib"] = round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, 1)
    if len(document["rows"]) > 1:
        one, more = (x["cases_per_hour"]["median"] for x in document["rows"])
        figures["devices_over_one"] = round(more / one, 3)
        return figures, {}
    return figures, {"devices_over_one": "there is only one device"}


def as_text(document: Json) -> list[str]:
    """The table, 80 columns."""
    lines = [f"{'throughput, cases/h':<22}{'cases':>6}{'steady':>26}{'with start-up':>16}{'s':>8}"]
    for row in (*document["sweep"], *document["rows"]):
        name = f"{row['devices']} batch {row['batch']}"
        rates = row["cases_per_hour"]
        rate = f"{rates['median']:,.0f}"
        if rates["repeats"] > 1:
            rate += f" ({rates['low']:,.0f}..{rates['high']:,.0f})"
        whole = f"{row['with_start_per_hour']['median']:,.0f}"
        seconds = row["seconds"]["median"]
        lines.append(f"{name:<22}{row['cases']:>6}{rate:>26}{whole:>16}{seconds:>8.1f}")
    chosen = document["best"]
    repeats = chosen["cases_per_hour"]["repeats"]
    measured = f"median (range) of {repeats}" if repeats > 1 else "measured once"
    lines.append(
        f"  best: {chosen['devices']}, batch {chosen['batch']}; {measured}; "
        f"start-up {chosen['start_s']['median']:.1f} s"
    )
    one, calls = document["rows"][0], document["calls_per_hour"]["median"]
    lines.append(
        f"  the plan's calls alone: {calls:,.0f} cases/h; `run` on {one['devices']} reaches "
        f"{one['cases_per_hour']['median'] / calls:.3f} of it"
    )
    if not document["official"]:
        lines.append(f"  not official: that takes {OFFICIAL_S} s and {OFFICIAL_CASES:,} cases")
    if document["pairs"]:
        lines.append(_agreement(document["pairs"]))
    return lines


def _agreement(pairs: Sequence[Json]) -> str:
    ratios = spread([x["run"] / x["bench"] for x in pairs])
    where = "within" if ratios.low <= 1 <= ratios.high else "OUTSIDE"
    more = spread([x["command_adds_s"] for x in pairs]).median
    return (
        f"  `run` over bench, {len(pairs)} in turn: {ratios}; 1 is {where} that range; "
        f"command and report add {more:.1f} s"
    )
