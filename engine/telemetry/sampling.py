"""Samples of the machine while a run works, taken in a thread of the parent, once a second.

`report/telemetry.jsonl` never holds more than MOST samples: when it would, neighbours are merged
and the period doubles.  Whatever fails here is a note; the run goes on.
"""

import json
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

from mcdiff_batch.engine.files import json_lines
from mcdiff_batch.engine.signals import SIGNALS
from mcdiff_batch.engine.text import clean

from .gauges import Gpus, processes

SAMPLES = "report/telemetry.jsonl"
PERIOD = 1.0  # s
MOST = 1024
MEANS = ("cpu_percent", "utilisation_percent", "power_w", "clock_mhz", "memory_clock_mhz")
LISTS = ("slowed", "xids")  # of everything else, the greatest is kept
GPU = (
    *("utilisation_percent", "memory_mib", "power_w", "energy_j", "temperature_c"),
    *("clock_mhz", "memory_clock_mhz", "ecc_errors"),
)
Json = dict[str, Any]


class Telemetry:
    """`began` and `start`: the run's, on the wall and on the monotonic clock."""

    def __init__(self, root: Path, began: float, start: float, nvml: Any) -> None:
        self.path, self.began, self.start = root / SAMPLES, began, start
        self.gpus = Gpus(nvml)
        self.lines = list(json_lines(self.path))[-MOST:]
        self.period = PERIOD
        self.spent, self.at = processes()[0], time.monotonic()
        self.latest: Json = {}

    def run(self, end: Event) -> None:
        """Until `end`, and once more."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # the main thread's affair
        self.gpus.open()
        try:
            self.gpus.read()  # what is not told is found out
            about = {"gpu_names": self.gpus.names, "notes": sorted(self.gpus.notes.values())}
            self._keep({"began": self.began, **about})
            while not end.wait(self.period):
                self.add(self.sample())
            self.add(self.sample())
        except OSError:
            return  # a full disk is the run's to report
        finally:
            self.gpus.close()

    def sample(self) -> Json:
        spent, resident = processes()
        now = time.monotonic()
        share = max(0.0, spent - self.spent) / max(now - self.at, 1e-9)
        self.spent, self.at = spent, now
        return {
            "began": self.began,
            "at": round(now - self.start, 3),
            "cpu_percent": round(100 * share, 1),  # 100: one core
            "resident_mib": round(resident, 1),
            "gpus": self.gpus.read(),
            "xids": self.gpus.xids(),
        }

    def add(self, sample: Json) -> None:
        self.latest = sample
        self._keep(sample)
        if len(self.lines) < MOST:
            return
        self.lines, self.period = halved(self.lines), 2 * self.period
        spare = self.path.with_suffix(".tmp")
        spare.write_text("".join(json.dumps(x) + "\n" for x in self.lines))
        spare.replace(self.path)

    def _keep(self, line: Json) -> None:
        self.lines.append(line)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def samples(out: Path) -> Iterator[Json]:
    """In the order of time; a line that is none of ours is left out."""
    for raw in json_lines(out / SAMPLES):
        with suppress(AttributeError, KeyError, TypeError, ValueError):
            yield checked(raw)


def checked(raw: Json) -> Json:
    """A sample as it should be.  Raises AttributeError, KeyError, TypeError, ValueError."""
    numbers = ("began", "at", "cpu_percent", "resident_mib")
    return {name: float(raw[name]) for name in numbers} | {
        "gpus": [_gpu(x) for x in raw["gpus"]],
        "xids": [int(x) for x in raw["xids"]],
    }


def _gpu(raw: Json) -> Json:
    slowed = [clean(x) for x in raw.get("slowed", [])]
    told = {name: float(raw[name]) for name in GPU if name in raw}
    return {"index": int(raw["index"]), **told, "slowed": slowed}


def abouts(out: Path) -> Iterator[Json]:
    """Of each session: the names of its GPUs, and notes on what was not told."""
    for raw in json_lines(out / SAMPLES):
        names, notes = raw.get("gpu_names"), raw.get("notes")
        if isinstance(names, list) and isinstance(notes, list):
            yield {"gpu_names": [clean(x) for x in names], "notes": [clean(x) for x in notes]}


def halved(lines: Sequence[Json]) -> list[Json]:
    """Samples of one session by twos; notes as they are."""
    out: list[Json] = []
    single: Json | None = None
    for line in lines:
        if "at" not in line:
            out.append(line)
        elif single is not None and single["began"] == line["began"]:
            out[-1] = merged(single, line)
            single = None
        else:
            out.append(line)
            single = line
    return out


def merged(first: Json, second: Json) -> Json:
    """Two samples as one: means, and the greatest of what must not be lost."""
    gpus = {x["index"]: x for x in first["gpus"]}
    for x in second["gpus"]:
        gpus[x["index"]] = _joined(gpus.get(x["index"], x), x)
    numbers = _joined(*({k: v for k, v in x.items() if k != "gpus"} for x in (first, second)))
    return numbers | {"gpus": list(gpus.values())}


def _joined(first: Json, second: Json) -> Json:
    return first | {
        name: _both(name, first[name], value) if name in first else value
        for name, value in second.items()
    }


def _both(name: str, first: Any, second: Any) -> Any:
    if name in LISTS:
        return sorted({*first, *second})
    return round((first + second) / 2, 2) if name in MEANS else max(first, second)


@contextmanager
def sampling(root: Path, began: float, start: float, nvml: Any = None) -> Iterator[Telemetry]:
    """Samples until the end of the block."""
    telemetry, end = Telemetry(root, began, start, nvml or library()), Event()
    thread = Thread(target=telemetry.run, args=(end,), name="telemetry", daemon=True)
    thread.start()
    try:
        yield telemetry
    finally:
        end.set()
        thread.join(timeout=5 * PERIOD)  # a driver that hangs is left behind


def library() -> Any:
    """NVIDIA's, which is there without a GPU too."""
    import pynvml

    return pynvml
