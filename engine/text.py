"""Text for people: safe to print, on one line; durations, sizes and devices in words."""

import math
import re
from typing import Any

LONGEST = 300  # characters of a text that came from data
_shown: dict[str, str] = {}  # paths that stand for something else


def show_as(path: str, name: str) -> None:
    """From now on `make_printable` puts `name` in the place of a path."""
    _shown[path] = name


def make_printable(text: str) -> str:
    """`text` with control, bidi and other unprintable characters escaped (P10).

    Line breaks stay.
    """
    for path, name in _shown.items():
        text = text.replace(path, name)
    return "".join(
        x if x.isprintable() or x == "\n" else x.encode("unicode_escape").decode() for x in text
    )


def clean(value: object) -> str:
    """A text from data, made safe for a page, a terminal and a JSON reader.

    It is on one line, has no control or bidi characters, and is cut after 300 characters.
    """
    text = str(value)
    cut = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    return make_printable(" ".join(cut.split()))


def format_duration(seconds: float) -> str:
    """For example 3h05, 12 min or 40 s; "?" if `seconds` is not finite."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60}h{minutes % 60:02d}"


def format_bytes(count: float) -> str:
    """For example "less than 1 KiB", "12 KiB", "35 MiB" or "1.4 GiB"; rounded up."""
    if count < 1 << 10:
        return "less than 1 KiB"
    for exponent, unit in ((10, "KiB"), (20, "MiB")):
        if count <= 1000 << exponent:
            return f"{math.ceil(count / (1 << exponent))} {unit}"
    return f"{math.ceil(10 * count / (1 << 30)) / 10:.1f} GiB"


def pluralise(number: int, noun: str) -> str:
    """For example "1 case" or "2 cases"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def name_device(device: str) -> str:
    """A device as people say it: "CPU" for cpu:0, "CPU worker 2" for cpu:1, "GPU 0" for cuda:0,
    "GPU 0 worker 2" for cuda:0.1, "GPU 0 of host 2" for host2/cuda:0, "CPU of part 3" for
    part3/cpu:0."""
    if there := re.fullmatch("(host|part)([0-9]+)/(.+)", device):
        return f"{name_device(there[3])} of {there[1]} {there[2]}"
    kind, _, index = device.partition(":")
    if kind == "cpu" and index.isdecimal():
        return "CPU" if index == "0" else f"CPU worker {int(index) + 1}"
    index, _, worker = index.partition(".")
    also = f" worker {int(worker) + 1}" if worker.isdecimal() else ""
    return f"GPU {index}{also}" if kind == "cuda" else device


def natural_order(text: str) -> tuple[Any, ...]:
    """A sort key that puts depth_2 before depth_10, and cuda:2 before cuda:10."""
    parts = re.split(r"([0-9]+)", text)
    return [int(x) if k % 2 else x for k, x in enumerate(parts)], text
