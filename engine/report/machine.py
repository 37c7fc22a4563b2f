"""What the samples of a run's machine come to: curves over its working time, and their extremes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mcdiff_batch.engine.telemetry.sampling import GPU, abouts, samples

BINS = 240
Json = dict[str, Any]


def collect(out: Path, offsets: Mapping[float, float], seconds: float) -> Json:
    """`offsets`: when each session began, in seconds of work.  `gpus` is empty where none is."""
    found = [x for x in samples(out) if x["began"] in offsets]
    times = [offsets[x["began"]] + x["at"] for x in found]
    about = list(abouts(out))
    indices = sorted({gpu["index"] for x in found for gpu in x["gpus"]})
    whole = {name: [x[name] for x in found] for name in ("cpu_percent", "resident_mib")}
    return {
        "samples": len(found),
        "seconds": round(seconds, 1),
        "notes": sorted({note for x in about for note in x["notes"]})[:20],
        "xids": sorted({xid for x in found for xid in x["xids"]}),
        **{name: _told(times, values, seconds) for name, values in whole.items()},
        "gpus": [_gpu(index, about, found, times, seconds) for index in indices],
    }


def _gpu(
    index: int, about: Sequence[Json], found: Sequence[Json], times: Sequence[float], seconds: float
) -> Json:
    known = [
        (at, gpu)
        for at, x in zip(times, found, strict=True)
        for gpu in x["gpus"]
        if gpu["index"] == index
    ]
    told = {}
    for name in GPU:
        rows = [(at, gpu[name]) for at, gpu in known if name in gpu]
        told[name] = _told([at for at, _ in rows], [value for _, value in rows], seconds)
    slowed = Counter(reason for _, gpu in known for reason in gpu["slowed"])
    names = [x["gpu_names"][index] for x in about if len(x["gpu_names"]) > index]
    return {
        "index": index,
        "name": names[-1] if names else "",
        "slowed_percent": {k: round(100 * n / len(known), 1) for k, n in slowed.items()},
        "used_wh": _used(told["energy_j"]),
        **told,
    }


def _used(energy: Json | None) -> float | None:
    """Watt hours from the first to the last sample; None where the counter began again."""
    spent = energy["last"] - energy["first"] if energy else -1.0
    return round(spent / 3600, 2) if spent >= 0 else None


def _told(times: Sequence[float], values: Sequence[float], seconds: float) -> Json | None:
    """Mean, greatest, and the curve over [0, seconds]; None where it was never told."""
    if not values or not seconds:
        return None
    return {
        "mean": round(float(np.mean(values)), 1),
        "max": round(float(np.max(values)), 1),
        "first": values[0],
        "last": values[-1],
        "curve": _curve(times, values, seconds),
    }


def _curve(times: Sequence[float], values: Sequence[float], seconds: float) -> list[float]:
    """Means of equal parts of the time; a part with no sample goes on as the one before it."""
    count = min(BINS, len(values))
    at = np.clip((np.asarray(times) / seconds * count).astype(int), 0, count - 1)
    weights = np.bincount(at, minlength=count)
    sums = np.bincount(at, np.asarray(values, np.float64), minlength=count)
    known = np.maximum.accumulate(np.where(weights > 0, np.arange(count), 0))
    first = int(np.argmax(weights > 0))
    known = np.where(weights[known] > 0, known, first)
    means: list[float] = np.round(sums[known] / weights[known], 1).tolist()
    return means
