"""Two runs side by side: what each came to, and which settings differ."""

from collections.abc import Iterator, Mapping
from typing import Any

from .markup import Html, element
from .parts import DASH, decibel, figure, moment, seconds, table

Json = Mapping[str, Any]


def plain(value: float | None) -> Html:
    return figure(value, "" if value is None else f"{value:,.4g}" if value % 1 else f"{value:,.0f}")


FIGURES = {  # row: where it is in report.json, how it reads
    "cases done": ("cases.done", plain),
    "failed": ("cases.failed", plain),
    "open": ("cases.open", plain),
    "flagged": ("flagged.total", plain),
    "incidents": ("incidents.total", plain),
    "of work": ("work.seconds", seconds),
    "cases an hour": ("work.cases_per_hour", plain),
    "batch, p50, s": ("latency.batch.p50", plain),
    "batch, p95, s": ("latency.batch.p95", plain),
    "case, p50, s": ("latency.case.p50", plain),
    "most memory, MiB": ("machine.resident_mib.max", plain),
    "CNR before, median, 20 log10": ("quality.cnr_log10.before.median", decibel),
    "CNR after, median, 20 log10": ("quality.cnr_log10.after.median", decibel),
    "SNR before, median, 20 log10": ("quality.snr_log10.before.median", decibel),
    "SNR after, median, 20 log10": ("quality.snr_log10.after.median", decibel),
    "label agreement, median": ("quality.label_agreement.after.median", plain),
}


def compared(this: Json, other: Json) -> dict[str, Any]:
    """Of two reports' data: the figures of FIGURES, and the settings that are not the same."""
    settings = [x["provenance"]["settings"] for x in (this, other)]
    names = sorted({*settings[0], *settings[1]})
    return {
        "finished_at": [x["work"]["finished_at"] or "" for x in (this, other)],
        "figures": {row: _figures(this, other, path) for row, (path, _) in FIGURES.items()},
        "devices": [[_device(x) for x in data["stages"]] for data in (this, other)],
        "settings": {
            name: [x.get(name, "") for x in settings]
            for name in names
            if settings[0].get(name) != settings[1].get(name)
        },
    }


def _figures(this: Json, other: Json, path: str) -> Json:
    """`ratio`: of what is a number of things, not of decibels."""
    first, second = _at(this, path), _at(other, path)
    known = first is not None and second is not None and second > 0 and "log10" not in path
    ratio = round(first / second, 3) if known and first and second else None
    return {"this": first, "other": second, "ratio": ratio}


def _at(data: Any, path: str) -> float | None:
    for name in path.split("."):
        data = None if data is None else data.get(name)
    number: float | None = data
    return number


def _device(stages: Json) -> Json:
    return {name: stages[name] for name in ("device", "waiting_percent", "accounted_percent")}


def side_by_side(found: Json) -> Iterator[Html]:
    this, other = map(moment, found["finished_at"])
    when = (f"this, {this}", f"other, {other}")
    rows = [_row(name, found["figures"][name]) for name in FIGURES]
    rows += [("devices wait", *(_waits(x) for x in found["devices"]), "")]
    yield table(("", *when, "this / other"), rows, "numbers")
    if found["settings"]:
        told = [(name.replace("_", " "), *pair) for name, pair in found["settings"].items()]
        yield element("h3", "Settings that differ")
        yield table(("", "this", "other"), told, "pairs")
    else:
        yield element("p", "The same settings.", class_="muted")


def _row(name: str, found: Json) -> tuple[object, ...]:
    shown = FIGURES[name][1]
    this, other = (DASH if found[x] is None else shown(found[x]) for x in ("this", "other"))
    return name, this, other, plain(found["ratio"])


def _waits(devices: list[Json]) -> Html:
    parts = [(x["device"], " ", figure(x["waiting_percent"]), " % ") for x in devices]
    return element("span", *(y for x in parts for y in x))
