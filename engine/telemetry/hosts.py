"""What the hosts of a cluster used during a run: means and peaks, a line for each worker."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from mcdiff_batch.engine.files import append_json, json_lines
from mcdiff_batch.engine.text import clean

from .numbers import parse_number

HOSTS = "report/hosts.jsonl"


class UsageSums:
    """Sums and peaks of the samples of one worker; the size does not grow with their number."""

    def __init__(self) -> None:
        self.samples: Counter[str] = Counter()
        self.sums: defaultdict[str, float] = defaultdict(float)
        self.peaks: dict[str, float] = {}

    def add(self, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self.samples[name] += 1
            self.sums[name] += value
            self.peaks[name] = max(value, self.peaks.get(name, value))

    @property
    def figures(self) -> dict[str, list[float]]:
        """Mean and peak by name."""
        return {
            name: [round(self.sums[name] / count, 1), round(self.peaks[name], 1)]
            for name, count in self.samples.items()
        }


def write_usage(root: Path, began: float, usage: Mapping[str, UsageSums]) -> None:
    """Adds a line for each worker of a run.  Raises OSError."""
    for device, used in usage.items():
        append_json(root / HOSTS, {"began": began, "device": device, "figures": used.figures})


def read_usage(root: Path) -> dict[str, dict[str, tuple[float, float]]]:
    """Mean and peak by device and name, of the last run that used hosts; each run numbers its hosts
    anew.  A damaged line is left out."""
    runs: dict[float, dict[str, dict[str, tuple[float, float]]]] = defaultdict(dict)
    for raw in json_lines(root / HOSTS):
        with suppress(AttributeError, KeyError, TypeError, ValueError):
            figures = {
                clean(name): (parse_number(mean), parse_number(peak))
                for name, (mean, peak) in raw["figures"].items()
            }
            runs[parse_number(raw["began"])][clean(raw["device"])] = figures
    return runs[max(runs)] if runs else {}
