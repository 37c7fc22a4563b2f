"""What a model card says of an evaluation: how good a bundle is, and where it fails."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from mcdiff_batch.engine.errors import UsageError, explain
from mcdiff_batch.engine.files import read_named
from mcdiff_batch.engine.model.contract import Bundle
from mcdiff_batch.engine.text import clean

from .card_page import Section, Table, count, find, round_to, say

ORIGINAL, ENHANCED = "original", "enhanced"
MEASURES = {  # of an evaluation: title, digits, and whether more is better
    "cnr_ln": ("CNR, 20 ln", 1, True),
    "snr_ln": ("SNR, 20 ln", 1, True),
    "psnr": ("PSNR to clean, dB", 1, True),
    "ms_ssim": ("MS-SSIM", 3, True),
    "dice": ("Dice of bone", 3, True),
    "thoracic_off": ("thoracic angle off, deg", 2, False),
    "lumbar_off": ("lumbar angle off, deg", 2, False),
    "lost": ("levels lost", 2, False),
    "invented": ("levels invented", 2, False),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    title: str
    measured: float | None
    bar: float | None
    at_most: bool
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """What the card takes from the JSON of `mcdiff-batch evaluate`."""

    cases: int
    about: dict[str, Any]
    methods: tuple[str, ...]
    groups: dict[str, dict[str, dict[str, float | None]]]  # group -> method -> measure -> mean
    sizes: dict[str, int]
    bars: tuple[Bar, ...]


def read_evaluation(path: Path, bundle: Bundle) -> Evaluated:
    """Raises UsageError."""
    try:
        found = msgspec.convert(json.loads(read_named(path)), Evaluated)
    except OSError as error:
        raise explain(error, path) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{path}: is no evaluation ({clean(error)}); expected what `mcdiff-batch evaluate "
            "--json` prints"
        ) from error
    if found.about.get("bundle") != bundle.sha256:
        other = clean(found.about.get("bundle"))[:12]
        raise UsageError(
            f"{path}: is of another bundle ({other}), expected {bundle.sha256[:12]}; enhance with "
            "this bundle and evaluate again"
        )
    return found


def describe_evaluation(found: Evaluated | None) -> Section:
    if found is None:
        text = "No evaluation was given: `mcdiff-batch evaluate` makes one, `card` adds it."
        return Section(title="How good it is", text=(text,))
    seed = find(found.about, "phantom", "seed")
    what = "synthetic scans" if seed is not None else "scans"
    shown = {
        k: x
        for k, x in MEASURES.items()
        if any(_mean(found, g, ENHANCED, k) is not None for g in found.groups)
    }
    tables = [
        Table(
            columns=(
                f"{clean(group)} ({say(found.sizes.get(group))})",
                *(x[0] for x in shown.values()),
            ),
            rows=tuple(
                (
                    clean(method),
                    *(round_to(_mean(found, group, method, key), shown[key][1]) for key in shown),
                )
                for method in found.methods
                if method in means
            ),
        )
        for group, means in found.groups.items()
    ]
    origin = (
        f"{count(found.cases, 'case')}: {what}{'' if seed is None else f' of seed {say(seed)}'}"
    )
    return Section(
        title="How good it is",
        text=(f"{origin}. Means; 'original' is the depth that a rater would choose.",),
        tables=tuple(tables),
    )


def _mean(found: Evaluated, group: str, method: str, key: str) -> float | None:
    return found.groups.get(group, {}).get(method, {}).get(key)


def describe_failures(synthetic: bool, found: Evaluated | None) -> Section:
    text = [
        "Bone that the model draws can look sound and be wrong: compare each result with its "
        "original.",
    ]
    if synthetic:
        text.append("How it behaves on patients is not known: it has seen synthetic scans only.")
    if found is None:
        text.append("Where else it fails was not measured.")
        return Section(title="Where it fails", text=tuple(text))
    missed = [x for x in found.bars if x.verdict == "missed"]
    worse = tuple(_worse(found))
    tables = []
    if missed:
        rows = tuple(
            (
                clean(x.title),
                say(x.measured),
                f"{'at most' if x.at_most else 'at least'} {say(x.bar)}",
            )
            for x in missed
        )
        tables.append(Table(columns=("bar that is missed", "measured", "bar"), rows=rows))
    if worse:
        head = ("worse than the original", "group", ORIGINAL, ENHANCED)
        tables.append(Table(columns=head, rows=worse))
    else:
        text.append("No mean of the evaluation is worse than that of the originals.")
    return Section(title="Where it fails", text=tuple(text), tables=tuple(tables))


def _worse(found: Evaluated) -> Iterator[tuple[str, ...]]:
    for group in found.groups:
        for key, (title, digits, more_is_better) in MEASURES.items():
            before, after = (_mean(found, group, x, key) for x in (ORIGINAL, ENHANCED))
            if before is None or after is None or (after > before) == more_is_better:
                continue
            shown = round_to(before, digits), round_to(after, digits)
            if shown[0] != shown[1]:
                yield title, clean(group), *shown
