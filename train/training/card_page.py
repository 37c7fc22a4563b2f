"""The card as one HTML page: no script, nothing loaded, light and dark; from card.json's data."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mcdiff_batch.engine.page.markup import Html, element, joined
from mcdiff_batch.engine.page.page import CAUTION, POLICY
from mcdiff_batch.engine.page.parts import MINUS, STYLE, decibel, figure, seconds, section, table
from mcdiff_batch.engine.page.svg import Axis, bottom, canvas, line, text, ticks
from mcdiff_batch.engine.text import clean

Json = Mapping[str, Any]
OWN_STYLE = """
.loss, .seen { fill: none; stroke-width: 1.6; }
.loss { stroke: var(--before); } .seen { stroke: var(--after); }
.plot { max-width: 460px; }
.shot img { height: 256px; max-width: 100%; object-fit: contain; object-position: left;
  image-rendering: pixelated; }
"""
METRICS = {
    "loss": "training loss",
    "psnr": "held-out PSNR of x0-hat over times, dB",
    "psnr_T": "held-out PSNR of one evaluation, dB",
    "dice": "held-out Dice",
}
WHAT = {
    "foundation": "of each case: mean of its depths, optimal depth, 1 and 4 evaluations from that",
    "tuner": "of each case: mean of its depths, optimal depth, 1 and 4 evaluations from all",
}


def page(card: Json, pictures: Mapping[str, bytes]) -> str:
    """pictures: PNG by name, "stage_step"."""
    name = f"mcdiff-batch: training {card['preset']['name']}"
    head = (
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", name),
        element("style", Html(STYLE + OWN_STYLE)),
    )
    body = (
        _masthead(card),
        section("Data", *_data(card)),
        *(_stage(name, card, pictures) for name in card["stages"]),
        section("Settings", *_settings(card["preset"])),
        *_experiments(card["experiments"]),
        section("Provenance", *_provenance(card)),
    )
    whole = element("html", element("head", *head), element("body", *body), lang="en")
    return f"<!doctype html>\n{whole}\n"


def _masthead(card: Json) -> Html:
    spent = sum(x["seconds"] for x in card["stages"].values())
    sides = card["sides"]
    tiles = {
        "cases to train on": figure(sides["train"]["cases"]),
        "of them artifact-free": figure(sides["train"]["artifact_free"]),
        "cases held out": figure(sides["held_out"]["cases"]),
        "of training": seconds(spent),
        **{
            f"{METRICS[k]}, {name}": figure(v, f"{v:.4f}")
            for name, found in card["held_out"].items()
            for k, v in found.items()
        },
    }
    pairs = (element("div", element("dd", v), element("dt", k)) for k, v in tiles.items())
    return element(
        "header",
        element("p", "mcdiff-batch, card of a training", class_="muted"),
        element("h1", f"Preset {card['preset']['name']}, seed ", figure(card["seed"])),
        element("p", *_lede(card), class_="lede"),
        element("p", CAUTION, class_="muted"),
        element("dl", *pairs, class_="tiles"),
    )


def _lede(card: Json) -> Iterator[str]:
    yield f"{', '.join(card['stages'])}, on {clean(card['device'])}. "
    yield "No stage reads a clean target. "
    start = card["from_sha256"]
    yield f"Started from weights {start[:12]}." if start else "Started from random weights."


def _data(card: Json) -> Iterator[Html]:
    rows = [
        (name.replace("_", " "), *(figure(side[k]) for k in ("patients", "cases", "artifact_free")))
        for name, side in card["sides"].items()
    ]
    yield table(("split by patient", "patients", "cases", "artifact-free"), rows, "numbers")
    yield _pairs({"SHA-256": card["data"]["sha256"], "phantom": card["data"].get("phantom")})


def _stage(name: str, card: Json, pictures: Mapping[str, bytes]) -> Html:
    record = card["stages"][name]
    took = element("p", figure(record["steps"]), " steps, ", seconds(record["seconds"]))
    metrics = [x for x in record["history"][0] if x != "step"]
    drawn = (_curve(record["history"], x) for x in metrics)
    shots = [_shot(name, x, png) for x, png in pictures.items() if x.startswith(f"{name}_")]
    return section(name.capitalize(), took, element("div", *drawn, class_="panels"), *shots)


def _curve(history: Sequence[Json], metric: str) -> Html:
    """A metric against the step; the upright axis spans what was found."""
    width, height, left = 420, 170, 56
    steps, values = [x["step"] for x in history], [x[metric] for x in history]
    across = Axis(low=0, high=max(steps), left=left, right=width - 8)
    room = 0.06 * (max(values) - min(values)) or 0.01
    up = Axis(low=min(values) - room, high=max(values) + room, left=height - 30, right=8)
    grid = [
        joined(
            line(left, up(y), width - 8, up(y), "grid"),
            text(left - 6, up(y) + 4, f"{y:g}", "tick", "end"),
        )
        for y in ticks(up.low, up.high, 4)
    ]
    points = (f"{across(x)} {up(y)}" for x, y in zip(steps, values, strict=True))
    path = element("path", d="M" + " L".join(points), class_="loss" if metric == "loss" else "seen")
    drawn = canvas(width, height + 4, metric, *grid, path, bottom(across, height - 12, "step"))
    caption = element("figcaption", METRICS[metric], ", last ", figure(values[-1]))
    return element("figure", caption, drawn, class_="plot")


def _shot(stage: str, name: str, png: bytes) -> Html:
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    step = int(name.rpartition("_")[2])
    caption = element("figcaption", "After ", figure(step), f" steps: {WHAT[stage]}")
    return element("figure", caption, element("img", src=source, alt=name), class_="shot")


def _settings(preset: Json) -> Iterator[Html]:
    stages = preset["stages"]
    yield table(tuple(x.replace("_", " ") for x in stages[0]), [x.values() for x in stages])
    yield _pairs({k: v for k, v in preset.items() if k != "stages"})


def _experiments(found: Json | None) -> Iterator[Html]:
    """Each arm by evaluations, and what its one change makes of the base, with its interval."""
    if found is None:
        return
    names = {"psnr": "PSNR", "cnr_ln": "CNR, 20 ln"}
    rows = [
        (
            row["arm"],
            figure(n),
            *(decibel(row[str(n)].get(m, (None,))[0]) for m in names),
            *(_difference(row.get(f"{n}, over base", {}).get(m)) for m in names),
        )
        for row in found["runs"]
        for n in found["evaluations"]
    ]
    more = (f"{x} over base" for x in names.values())
    columns = ("arm", "evaluations", *names.values(), *more)
    told = (
        f"What settled them, on {found['frame']['height']} x {found['frame']['width']} px: "
        f"{found['steps']} steps of stage III an arm, {found['cases']} held-out phantoms, "
        "95 % intervals of paired differences in brackets. Figures are to be compared with one "
        "another, not with the bundle's. "
    )
    yield section("Experiments", element("p", told), table(columns, rows, "numbers"))


def _difference(interval: Sequence[float] | None) -> Html:
    if interval is None:
        return figure(None)
    mean, low, high = interval
    words = f"{mean:+.2f} ({low:+.2f} to {high:+.2f})".replace("-", MINUS)
    return figure(mean, words)


def _provenance(card: Json) -> Iterator[Html]:
    machine = card["machine"]
    yield _pairs(
        {
            "command": card["command"],
            "weights": card["weights_sha256"],
            "started from": card["from_sha256"],
            **{k: v for k, v in machine.items() if k != "versions"},
            **machine["versions"],
        }
    )


def _pairs(rows: Json) -> Html:
    told = ((k.replace("_", " "), clean(_words(v))) for k, v in rows.items() if v is not None)
    return table((), told, "pairs")


def _words(value: object) -> object:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_words(v)}" for k, v in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
