"""The report's section on the machine: CPU and memory of the run, and the GPUs where there are."""

from collections.abc import Iterator, Mapping
from typing import Any

from . import svg
from .markup import Html, element, joined
from .parts import DASH, figure, table

SIZE = (340.0, 110.0)  # px of a curve
CURVES = {  # of a GPU: title, unit
    "utilisation_percent": ("Utilisation", "%"),
    "power_w": ("Power", "W"),
    "temperature_c": ("Temperature", "°C"),
    "memory_mib": ("Memory", "MiB"),
}
Json = Mapping[str, Any]


def machine(found: Json) -> Iterator[Html]:
    if not found["samples"]:
        yield element("p", "Nothing was sampled.")
        return
    panels = [
        _panel("CPU of all processes, 100 % a core", found["cpu_percent"], "%", found["seconds"]),
        _panel("Resident memory", found["resident_mib"], "MiB", found["seconds"]),
    ]
    for gpu in found["gpus"]:
        for name, (title, unit) in CURVES.items():
            if gpu[name]:
                words = f"{title} of GPU {gpu['index']}"
                panels.append(_panel(words, gpu[name], unit, found["seconds"]))
    yield element("div", *panels, class_="panels")
    if found["gpus"]:
        columns = ("GPU", "mean clock", "energy", "slowed down", "ECC errors")
        yield table(columns, [_row(gpu) for gpu in found["gpus"]])
    if found["xids"]:
        numbers = joined(*(joined(" ", figure(x)) for x in found["xids"]))
        yield element("p", element("b", "Driver errors (XID):"), numbers, class_="bad")
    yield from (element("p", note, class_="muted") for note in found["notes"])


def _panel(title: str, found: Json, unit: str, seconds: float) -> Html:
    mean, most = (figure(found[x], f"{found[x]:,.0f} {unit}") for x in ("mean", "max"))
    words = ("mean ", mean, ", most ", most)
    caption = element("figcaption", element("b", title), element("br"), *words)
    return element("figure", caption, svg.curve(found["curve"], seconds, label=title, size=SIZE))


def _row(gpu: Json) -> tuple[object, ...]:
    shares = gpu["slowed_percent"].items()
    slowed = [joined(f"{reason} ", figure(share), " % ") for reason, share in shares]
    clock, errors = gpu["clock_mhz"], gpu["ecc_errors"]
    return (
        f"{gpu['index']} {gpu['name']}",
        figure(clock["mean"], f"{clock['mean']:,.0f} MHz") if clock else DASH,
        joined(figure(gpu["used_wh"]), " Wh"),
        joined(*slowed) if slowed else "no",
        figure(errors["last"]) if errors else DASH,
    )
