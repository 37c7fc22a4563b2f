"""The metrics of a run as a file for the node exporter of Prometheus (its textfile collector)."""

import math
import os
import platform
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from mcdiff_batch.engine.errors import UsageError, explain

from .machine import package_version

PREFIX = "mcdiff_"
ENDING = ".prom"  # the node exporter reads no other files
MODE = 0o644  # the node exporter is another user
LARGEST = 1 << 16  # bytes of an earlier file
BUILD, SUCCESS, EXIT = "build_info", "run_last_success_timestamp_seconds", "run_exit_code"
HELP = {  # every metric is a gauge: a run counts the cases of its output, and that may shrink
    BUILD: "1; the version of mcdiff-batch and of Python.",
    "run_active": "1 while a run works, 0 once it has ended.",
    "run_start_timestamp_seconds": "When the last run began.",
    "run_update_timestamp_seconds": "When these metrics were written.",
    "run_duration_seconds": "How long the last run has taken so far, or took.",
    SUCCESS: "When a run last ended with exit code 0.",
    EXIT: "Exit code of the last run that ended.",
    "run_selected_cases": "Cases that the run is to enhance.",
    "run_cases": "Cases by status, those of earlier runs of the output too; left: not done yet.",
    "run_flagged_cases": "Cases that someone should look at; known when the run has ended.",
    "run_incidents": "Killed or hung workers and read errors of this run.",
    "run_cases_per_second": "Cases per second of this run.",
}
Value = float | Mapping[str, float]  # of a metric; or by status


class MetricsFile:
    """A file of metrics, replaced as a whole by each write.

    It keeps the time of the last success and the last exit code from the file before it.  Every
    series has the label `run`, the name of the file: several files have no series in common.
    """

    def __init__(self, path: Path) -> None:
        """Raises UsageError where `path` cannot be used; reads it, and writes nothing."""
        if path.suffix != ENDING or path.stem.startswith("."):
            raise UsageError(
                f"{path}: expected a file that ends in {ENDING}, such as "
                f"/var/lib/prometheus/node-exporter/night{ENDING}; the node exporter reads no other"
            )
        self.path = path
        earlier = self._read()
        self.lasting = {name: earlier[name] for name in (SUCCESS, EXIT) if name in earlier}

    def _read(self) -> dict[str, float]:
        """The metrics of an earlier file, without those by status; none if there is no file."""
        if not os.path.lexists(self.path):
            return {}
        if not self.path.is_file() or self.path.is_symlink():
            raise UsageError(f"{self.path}: is no plain file; choose another name")
        try:
            with self.path.open("rb") as file:
                text = file.read(LARGEST).decode(errors="replace")
        except OSError as error:
            raise explain(error, self.path) from error
        if text.strip() and f"# TYPE {PREFIX}" not in text:
            raise UsageError(f"{self.path}: holds metrics of another program; choose another name")
        metrics = {}
        for name, value in re.findall(rf"^{PREFIX}(\w+)\{{run=.*\}} (\S+)$", text, re.M):
            with suppress(ValueError):
                if math.isfinite(float(value)):
                    metrics[name] = float(value)
        return metrics

    def write(self, values: Mapping[str, Value]) -> None:
        """values: by the names of HELP; exit code 0 is a success.  Raises OSError."""
        now = round(time.time(), 3)
        if EXIT in values:
            self.lasting |= {EXIT: float(values[EXIT])}  # type: ignore[arg-type]
            self.lasting |= {} if values[EXIT] else {SUCCESS: now}
        whole = {BUILD: 1, "run_update_timestamp_seconds": now, **self.lasting, **values}
        spare = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            spare.unlink(missing_ok=True)
            descriptor = os.open(spare, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                os.fchmod(descriptor, MODE)
                file.write(as_text(self.path.stem, whole))
            spare.replace(self.path)
        except BaseException:
            with suppress(OSError):
                spare.unlink(missing_ok=True)
            raise


def as_text(run: str, values: Mapping[str, Value]) -> str:
    """The text format of Prometheus, version 0.0.4."""
    lines = []
    for name, text in HELP.items():
        if name not in values:
            continue
        labels = {"run": run} | (_versions() if name == BUILD else {})
        value = values[name]
        rows = {"": value} if isinstance(value, (int, float)) else value
        lines += [f"# HELP {PREFIX}{name} {text}", f"# TYPE {PREFIX}{name} gauge"]
        for status, number in rows.items():
            own = labels | ({"status": status} if status else {})
            pairs = ",".join(f'{key}="{_escape(x)}"' for key, x in own.items())
            lines.append(f"{PREFIX}{name}{{{pairs}}} {number}")
    return "\n".join(lines) + "\n"


def _versions() -> dict[str, str]:
    return {"version": package_version("mcdiff-batch"), "python": platform.python_version()}


def _escape(text: str) -> str:
    """The value of a label; the name of a file may be no UTF-8."""
    sound = text.encode(errors="backslashreplace").decode()
    return sound.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
