"""Shows `card.json` as one HTML page, without scripts, that loads nothing."""

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from mcdiff_batch.engine.page.parts import (
    CAUTION,
    MINUS,
    STYLE,
    document,
    figure,
    html,
    join,
    seconds,
    section,
    table,
    tiles,
)
from mcdiff_batch.engine.page.svg import Axis, bottom, canvas, line, path, text, ticks
from mcdiff_batch.engine.text import clean

Json = Mapping[str, Any]
OWN_STYLE = Markup("""
.loss, .seen { fill: none; stroke-width: 1.6; }
.loss { stroke: var(--before); } .seen { stroke: var(--after); }
.plot { max-width: 460px; }
.arms td:nth-child(2), .arms th:nth-child(2) { text-align: left; color: var(--muted); }
.examples { max-width: 100%; } .examples figcaption { margin-bottom: 8px; }
.examples img { height: 256px; max-width: 100%; object-fit: contain; object-position: left;
  image-rendering: pixelated; }
""")
METRICS = {
    "loss": "training loss",
    "psnr": "held-out PSNR of the estimated image over all times, dB",
    "psnr_T": "held-out PSNR of one evaluation, dB",
    "dice": "held-out Dice",
}
BASE = "base"  # the arm of the experiments that the others are compared with
MEASURES = {"psnr": "PSNR", "cnr_ln": "CNR", "snr_ln": "SNR"}  # of the experiments
TABLES_V = {"table_v": "Table V", "table_v_papers_way": "Table V, the paper's way"}
SAMPLES = {
    "foundation": "of each case: the mean of its depths, the optimal depth, and 1 and 4 "
    "evaluations from that depth",
    "tuner": "of each case: the mean of its depths, the optimal depth, and 1 and 4 evaluations "
    "from all depths",
}


def page(card: Json, pictures: Mapping[str, bytes]) -> str:
    """pictures: PNG by name, "stage_step"."""
    return document(
        f"mcdiff-batch: training {card['preset']['name']}",
        STYLE + OWN_STYLE,
        _masthead(card),
        section("Data", *_data(card)),
        *(_stage(name, card, pictures) for name in card["stages"]),
        section("Settings", *_settings(card["preset"])),
        *_experiments(card["experiments"]),
        section("Provenance", *_provenance(card)),
    )


def _masthead(card: Json) -> Markup:
    return html(
        '<header><p class="muted">mcdiff-batch, card of a training</p>'
        '<h1>Preset {name}, seed {seed}</h1><p class="lede">{lede}</p>'
        '<p class="muted">{caution}</p>{tiles}</header>',
        name=card["preset"]["name"],
        seed=figure(card["seed"]),
        lede=" ".join(_lede(card)),
        caution=CAUTION,
        tiles=tiles(_tiles(card)),
    )


def _tiles(card: Json) -> Iterator[tuple[str, Markup]]:
    sides = card["sides"]
    yield "cases to train on", figure(sides["train"]["cases"])
    yield "of them artifact-free", figure(sides["train"]["artifact_free"])
    yield "cases held out", figure(sides["held_out"]["cases"])
    yield "training time", seconds(sum(x["seconds"] for x in card["stages"].values()))
    for stage, metrics in card["held_out"].items():
        for metric, value in metrics.items():
            yield f"{METRICS[metric]}, {stage}", figure(value, f"{value:.4f}")


def _lede(card: Json) -> Iterator[str]:
    yield f"{', '.join(card['stages'])}, on {clean(card['device'])}."
    yield "No stage reads a clean target."
    start = card["from_sha256"]
    yield f"Started from weights {start[:12]}." if start else "Started from random weights."


def _data(card: Json) -> Iterator[Markup]:
    counts = ("patients", "cases", "artifact_free")
    rows = [
        (name.replace("_", " "), *(figure(side[x]) for x in counts))
        for name, side in card["sides"].items()
    ]
    yield table(("split by patient", "patients", "cases", "artifact-free"), rows, "numbers")
    yield _pairs({"SHA-256": card["data"]["sha256"], "phantom": card["data"].get("phantom")})


def _stage(name: str, card: Json, pictures: Mapping[str, bytes]) -> Markup:
    record = card["stages"][name]
    spent = html("<p>{} steps, {}</p>", figure(record["steps"]), seconds(record["seconds"]))
    metrics = [x for x in record["history"][0] if x != "step"]
    curves = join(_curve(record["history"], x) for x in metrics)
    samples = [_sample(name, x, png) for x, png in pictures.items() if x.startswith(f"{name}_")]
    panels = html('<div class="panels">{}</div>', curves)
    return section(name.capitalize(), spent, panels, *samples)


def _curve(history: Sequence[Json], metric: str) -> Markup:
    """A metric by step; the vertical axis spans its values."""
    width, height, left = 420, 170, 56
    steps, values = [x["step"] for x in history], [x[metric] for x in history]
    across = Axis(low=0, high=max(steps), left=left, right=width - 8)
    room = 0.06 * (max(values) - min(values)) or 0.01
    up = Axis(low=min(values) - room, high=max(values) + room, left=height - 30, right=8)
    grid = [
        line(left, up(y), width - 8, up(y), "grid")
        + text(left - 6, up(y) + 4, f"{y:g}", "tick", "end")
        for y in ticks(up.low, up.high, 4)
    ]
    points = " L".join(f"{across(x)} {up(y)}" for x, y in zip(steps, values, strict=True))
    course = path(f"M{points}", "loss" if metric == "loss" else "seen")
    return html(
        '<figure class="plot"><figcaption>{}, last {}</figcaption>{}</figure>',
        METRICS[metric],
        figure(values[-1]),
        canvas(width, height + 4, metric, *grid, course, bottom(across, height - 12, "step")),
    )


def _sample(stage: str, name: str, png: bytes) -> Markup:
    return html(
        '<figure class="examples"><figcaption>After {} steps, {}</figcaption>'
        '<img src="data:image/png;base64,{}" alt="{}"></figure>',
        figure(int(name.rpartition("_")[2])),
        SAMPLES[stage],
        base64.b64encode(png).decode(),
        name,
    )


def _settings(preset: Json) -> Iterator[Markup]:
    stages = preset["stages"]
    yield table(tuple(x.replace("_", " ") for x in stages[0]), [x.values() for x in stages])
    yield _pairs({k: v for k, v in preset.items() if k != "stages"})


def experiments(document: Json) -> Iterator[Markup]:
    """The arms by question, with their difference from the base arm; Table V; more evaluations.

    document: the output of `bench experiments`.
    """
    fewest, *more = document["evaluations"]
    yield html(
        "<p>The experiments that settled the settings, on {} x {} px: {} steps of stage III per "
        "arm, {} held-out phantoms, 95 % intervals of paired differences in brackets. All are dB; "
        "those of CNR and SNR are 20 ln. Compare the figures with one another, not with those of a "
        "bundle.</p>",
        document["frame"]["height"],
        document["frame"]["width"],
        figure(document["steps"]),
        figure(document["cases"]),
    )
    yield html("<h3>{} {}</h3>", figure(fewest), "evaluation" if fewest == 1 else "evaluations")
    yield _arms(document, fewest)
    for key, title in TABLES_V.items():
        yield from _table_v(document.get(key, {}), fewest, title)
    for evaluations in more:
        yield html(
            "<details><summary>{} evaluations</summary>{}</details>",
            evaluations,
            _arms(document, evaluations),
        )


def _arms(document: Json, evaluations: int) -> Markup:
    """The references, and the arms, those of one question together."""
    runs, mode = document["runs"], str(evaluations)
    references = document.get("references", {}).items()
    rows = [(name, "", *_means(x), *[figure(None)] * len(MEASURES)) for name, x in references]
    for question in dict.fromkeys(row["question"] for row in runs):
        for row in (x for x in runs if x["question"] == question):
            over = row.get(f"{mode}, over base", {}) if row["arm"] != BASE else {}
            differences = (_difference(over.get(m)) for m in MEASURES)
            asked = question if row["arm"] != BASE else ""
            rows.append((row["arm"], asked, *_means(row[mode]), *differences))
    more = (f"{x} over base" for x in MEASURES.values())
    return table(("arm", "question", *MEASURES.values(), *more), rows, "numbers arms")


def _means(measures: Json) -> list[Markup]:
    means = (_finite(measures.get(m, (None,))[0]) for m in MEASURES)
    return [figure(x, "" if x is None else f"{x:.2f}".replace("-", MINUS)) for x in means]


def _table_v(conditions: Json, evaluations: int, title: str) -> Iterator[Markup]:
    """The gain of each condition over the original."""
    mode, measures = str(evaluations), ("cnr_ln", "snr_ln")
    rows = [
        (name, figure(x["seeds"]), *(_difference(x[mode][m]) for m in measures))
        for name, x in conditions.items()
        if mode in x
    ]
    if rows:
        yield html("<h3>{}: gain over the original</h3>", title)
        columns = ("condition", "seeds", *(MEASURES[m] for m in measures))
        yield table(columns, rows, "numbers")


def _difference(interval: Sequence[float] | None) -> Markup:
    if interval is None or _finite(interval[0]) is None:
        return figure(None)
    mean, low, high = interval
    words = f"{mean:+.2f} ({low:+.2f} to {high:+.2f})".replace("-", MINUS)
    return figure(mean, words)


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _experiments(document: Json | None) -> Iterator[Markup]:
    if document is not None:
        yield section("Experiments", *experiments(document))


def _provenance(card: Json) -> Iterator[Markup]:
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


def _pairs(values: Json) -> Markup:
    rows = ((k.replace("_", " "), clean(_listed(v))) for k, v in values.items() if v is not None)
    return table((), rows, "pairs")


def _listed(value: object) -> object:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_listed(v)}" for k, v in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
