"""Samples the machine while a run works, in a thread of the parent, once a second.

`report/telemetry.jsonl` never holds more than MOST samples: when it is full, neighbours are merged
and the period doubles.  A failure to sample becomes a note; the run goes on.
"""

import json
import os
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import Any

from mcdiff_batch.engine.files import Json, append_json, json_lines, replace_text
from mcdiff_batch.engine.signals import SIGNALS
from mcdiff_batch.engine.text import clean

from .gauges import GpuGauges, ProcessGauge
from .numbers import parse_count, parse_number

SAMPLES = "report/telemetry.jsonl"
PERIOD = 1.0  # s
MOST = 1024
MEANS = ("cpu_percent", "utilisation_percent", "power_w", "clock_mhz", "memory_clock_mhz")
LISTS = ("slowed", "xids")  # merged samples keep the greatest of every other field
GPU_FIELDS = (
    *("utilisation_percent", "memory_mib", "power_w", "energy_j", "temperature_c"),
    *("clock_mhz", "memory_clock_mhz", "ecc_errors"),
)


class Telemetry:
    """Takes samples and keeps them in a file.

    `began` and `start` are the beginning of the run, on the wall clock and the monotonic clock;
    `nvml` is NVIDIA's management library.
    """

    def __init__(self, root: Path, began: float, start: float, nvml: Any) -> None:
        self.path, self.began, self.start = root / SAMPLES, began, start
        self.gpus = GpuGauges(nvml)
        self.lines: list[Json] = []
        with suppress(OSError):  # another user's, for example
            self.lines = list(deque(read_lines(root), maxlen=MOST))
        self.period = PERIOD
        self.processes = ProcessGauge()
        self.latest: Json = {}

    def run(self, end: Event) -> None:
        """Samples until `end` is set, and once more."""
        self.gpus.open()
        try:
            self.gpus.read()  # collects the notes
            header = {"gpu_names": self.gpus.names, "notes": sorted(self.gpus.notes.values())}
            self._append({"began": self.began, **header})
            while not end.wait(self.period):
                self.add(self.sample())
            self.add(self.sample())
        finally:
            self.gpus.close()

    def sample(self) -> Json:
        percent, resident = self.processes.read()
        return {
            "began": self.began,
            "at": round(self.processes.at - self.start, 3),
            "cpu_percent": round(percent, 1),
            "resident_mib": round(resident, 1),
            "gpus": self.gpus.read(),
            "xids": self.gpus.xids(),
        }

    def add(self, sample: Json) -> None:
        self.latest = sample
        self._append(sample)
        if len(self.lines) < MOST:
            return
        self.lines, self.period = merge_pairs(self.lines), 2 * self.period
        with suppress(OSError):  # for display only, and the disk may be full
            replace_text(self.path, "".join(json.dumps(x) + "\n" for x in self.lines))

    def _append(self, line: Json) -> None:
        self.lines.append(line)
        with suppress(OSError):
            append_json(self.path, line)


class HostSampler:
    """Samples the processes below this one, and the GPUs that Ray has given them."""

    def __init__(self) -> None:
        self.gpus = GpuGauges(load_nvml())
        if "CUDA_VISIBLE_DEVICES" in os.environ:  # else Ray has given none
            self.gpus.open()
        self.processes = ProcessGauge()

    def sample(self) -> dict[str, float] | None:
        """Figures, those of GPUs as means; None if PERIOD has not passed since the last ones."""
        if monotonic() - self.processes.at < PERIOD:
            return None
        percent, resident = self.processes.read()
        own = self.gpus.read()
        names = ("utilisation_percent", "memory_mib", "power_w", "temperature_c")
        means = {name: sum(x[name] for x in own if name in x) / len(own) for name in names if own}
        return {"cpu_percent": percent, "resident_mib": resident, **means}


def read_samples(out: Path) -> Iterator[Json]:
    """Samples in the order of time."""
    return (x for x in read_lines(out) if "at" in x)


def read_headers(out: Path) -> Iterator[Json]:
    """The first line of each run: names of the GPUs, and notes on figures that are missing."""
    return (x for x in read_lines(out) if "at" not in x)


def read_lines(out: Path) -> Iterator[Json]:
    """Headers and samples in the order of time; a line of another kind is left out."""
    for raw in json_lines(out / SAMPLES):
        with suppress(AttributeError, KeyError, TypeError, ValueError):
            yield _parse_header(raw) if "gpu_names" in raw else parse_sample(raw)


def _parse_header(raw: Json) -> Json:
    names = ("gpu_names", "notes")
    if not all(isinstance(raw[x], list) for x in names):
        raise TypeError("expected lists of texts")
    began = parse_number(raw.get("began", 0))
    return {"began": began, **{x: list(map(clean, raw[x])) for x in names}}


def parse_sample(raw: Json) -> Json:
    """A sample with every field of its type.

    Raises AttributeError, KeyError, TypeError, ValueError.
    """
    numbers = ("began", "at", "cpu_percent", "resident_mib")
    return {name: parse_number(raw[name]) for name in numbers} | {
        "gpus": [_parse_gpu(x) for x in raw["gpus"]],
        "xids": [parse_count(x) for x in raw["xids"]],
    }


def _parse_gpu(raw: Json) -> Json:
    slowed = [clean(x) for x in raw.get("slowed", [])]
    figures = {name: parse_number(raw[name]) for name in GPU_FIELDS if name in raw}
    return {"index": parse_count(raw["index"]), **figures, "slowed": slowed}


def merge_pairs(lines: Sequence[Json]) -> list[Json]:
    """Merges the samples of each run two by two; leaves headers as they are."""
    out: list[Json] = []
    single: Json | None = None
    for line in lines:
        if "at" not in line:
            out.append(line)
        elif single is not None and single["began"] == line["began"]:
            out[-1] = merge(single, line)
            single = None
        else:
            out.append(line)
            single = line
    return out


def merge(first: Json, second: Json) -> Json:
    """Two samples as one: the mean of MEANS, all of LISTS, the greatest of every other field."""
    gpus = {x["index"]: x for x in first["gpus"]}
    for x in second["gpus"]:
        gpus[x["index"]] = _merge_fields(gpus.get(x["index"], x), x)
    numbers = ({k: v for k, v in x.items() if k != "gpus"} for x in (first, second))
    return _merge_fields(*numbers) | {"gpus": list(gpus.values())}


def _merge_fields(first: Json, second: Json) -> Json:
    return first | {
        name: _merge_values(name, first[name], value) if name in first else value
        for name, value in second.items()
    }


def _merge_values(name: str, first: Any, second: Any) -> Any:
    if name in LISTS:
        return sorted({*first, *second})
    return round((first + second) / 2, 2) if name in MEANS else max(first, second)


@contextmanager
def sampling(root: Path, began: float, start: float, nvml: Any) -> Iterator[Telemetry]:
    """Samples in a thread until the end of the block; arguments as for Telemetry."""
    telemetry, end = Telemetry(root, began, start, nvml), Event()
    thread = Thread(target=_sample, args=(telemetry, end), name="telemetry", daemon=True)
    thread.start()
    try:
        yield telemetry
    finally:
        end.set()
        thread.join(timeout=5 * PERIOD)  # a driver may hang: the thread is then left behind


def _sample(telemetry: Telemetry, end: Event) -> None:
    """Leaves signals to the main thread."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    telemetry.run(end)


def load_nvml() -> Any:
    """NVIDIA's management library, which is installed without a GPU too."""
    import pynvml

    return pynvml
