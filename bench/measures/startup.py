"""How long a user waits for `mcdiff-batch --help`; each time in a new process."""

import statistics
import subprocess
import time

from mcdiff_batch.bench.common.command import CLI
from mcdiff_batch.engine.telemetry.machine import machine

COMMANDS = (["--help"], ["run", "--help"])


def measure(repeats: int) -> dict[str, object]:
    """The median and range in seconds; leaves out the first call, which has a cold cache."""
    rows = []
    for words in COMMANDS:
        taken = [_seconds(words) for _ in range(repeats + 1)][1:]
        rows.append(
            {
                "command": " ".join(words),
                "median_s": round(statistics.median(taken), 3),
                "min_s": round(min(taken), 3),
                "max_s": round(max(taken), 3),
                "repeats": repeats,
            }
        )
    return {"what": "start-up", "machine": machine(), "runs": rows}


def _seconds(words: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([*CLI, *words], capture_output=True, check=True)
    return time.perf_counter() - started
