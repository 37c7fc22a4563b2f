"""Summarises the samples of the machine: curves over the working time, means and peaks."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from mcdiff_batch.engine.files import Json
from mcdiff_batch.engine.telemetry.hosts import read_usage
from mcdiff_batch.engine.telemetry.sampling import GPU_FIELDS, read_headers, read_samples
from mcdiff_batch.engine.text import name_device, natural_order

from .parts import Journal
from .usage import Gpu, HostUsage, Machine, Series

BINS = 240
MOST_NOTES = 20
MOST_GPUS = 64
OF_PARTS = "processor and memory: of one part, the mean of those that were at work"
Session = tuple[int, float]  # number of its folder, and when it began


def collect(
    journals: Sequence[Journal],
    offsets: Mapping[Session, float],
    seconds: float,
    on_gpus: bool = True,
) -> Machine:
    """The samples of all sessions, which began at `offsets` of the `seconds` of working time.

    on_gpus: whether the run used any; if not, it is no fault that none could be watched.
    GPUs of parts are numbered one after the other; parts on one machine may count one twice.
    """
    rows: list[Json] = []
    times: list[float] = []
    gpus: list[Gpu] = []
    notes: set[str] = set()
    for number, journal in enumerate(journals):
        own = [x for x in read_samples(journal.folder) if (number, x["began"]) in offsets]
        moments = [offsets[number, x["began"]] + x["at"] for x in own]
        about = list(read_headers(journal.folder))
        notes |= {note for x in about for note in x["notes"] if on_gpus}
        for index in sorted({gpu["index"] for x in own for gpu in x["gpus"]}):
            gpu = _gpu(index, about, own, moments, seconds)
            if journal.prefix:
                name = name_device(f"{journal.prefix}{gpu.name}")
                gpu = replace(gpu, index=len(gpus), name=name)
            gpus.append(gpu)
        rows, times = rows + own, times + moments
    if len({number for number, _ in offsets}) > 1:
        notes.add(OF_PARTS)
    return Machine(
        samples=len(rows),
        seconds=round(seconds, 1),
        notes=sorted(notes)[:MOST_NOTES],
        xids=sorted({xid for x in rows for xid in x["xids"]}),
        cpu_percent=_series(times, [x["cpu_percent"] for x in rows], seconds),
        resident_mib=_series(times, [x["resident_mib"] for x in rows], seconds),
        gpus=gpus[:MOST_GPUS],
        hosts=sorted(_hosts(journals), key=lambda x: natural_order(x.device)),
    )


def _hosts(journals: Iterable[Journal]) -> Iterator[HostUsage]:
    for journal in journals:
        for device, figures in read_usage(journal.folder).items():
            mean, peak = ({name: x[k] for name, x in figures.items()} for k in (0, 1))
            yield HostUsage(device=f"{journal.prefix}{device}", mean=mean, peak=peak)


def _gpu(
    index: int, about: Sequence[Json], rows: Sequence[Json], times: Sequence[float], seconds: float
) -> Gpu:
    own = [
        (at, gpu)
        for at, x in zip(times, rows, strict=True)
        for gpu in x["gpus"]
        if gpu["index"] == index
    ]
    series = {}
    for name in GPU_FIELDS:
        points = [(at, gpu[name]) for at, gpu in own if name in gpu]
        series[name] = _series([at for at, _ in points], [value for _, value in points], seconds)
    slowed = Counter(reason for _, gpu in own for reason in gpu["slowed"])
    names = [x["gpu_names"][index] for x in about if len(x["gpu_names"]) > index]
    return Gpu(
        index=index,
        name=names[-1] if names else "",
        slowed_percent={k: round(100 * n / len(own), 1) for k, n in slowed.items()},
        used_wh=_watt_hours(series["energy_j"]),
        **series,
    )


def _watt_hours(energy: Series | None) -> float | None:
    """From the first to the last sample; None where the counter began again."""
    spent = energy.last - energy.first if energy else -1.0
    return round(spent / 3600, 2) if spent >= 0 else None


def _series(times: Sequence[float], values: Sequence[float], seconds: float) -> Series | None:
    """None where there is no value."""
    if not values or not seconds:
        return None
    return Series(
        mean=round(float(np.mean(values)), 1),
        max=round(float(np.max(values)), 1),
        first=values[0],
        last=values[-1],
        curve=_curve(times, values, seconds),
    )


def _curve(times: Sequence[float], values: Sequence[float], seconds: float) -> list[float]:
    """Means of equal parts of the working time; a part without a sample repeats the one before."""
    count = min(BINS, len(values))
    at = np.clip((np.asarray(times) / seconds * count).astype(int), 0, count - 1)
    weights = np.bincount(at, minlength=count)
    sums = np.bincount(at, np.asarray(values, np.float64), minlength=count)
    latest = np.maximum.accumulate(np.where(weights > 0, np.arange(count), 0))
    first = int(np.argmax(weights > 0))
    latest = np.where(weights[latest] > 0, latest, first)
    means: list[float] = np.round(sums[latest] / weights[latest], 1).tolist()
    return means
