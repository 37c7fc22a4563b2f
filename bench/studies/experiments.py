"""Settles the questions of training by experiment: arms that differ in one setting, equal budgets.

Everything is on half the frame and small budgets, so that figures are to be compared with one
another and not with the shipped bundle's.  Truth scores the arms; no arm's training reads it.
Each arm's scores are kept as it is done: the same command again goes on.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.files import file_sha256
from mcdiff_batch.engine.image.frame import Frame, from_frame, to_frame
from mcdiff_batch.engine.telemetry.machine import machine
from mcdiff_batch.train.evaluation.subject import Subject
from mcdiff_batch.train.networks.presets import PAPER_DEPTH_WEIGHTS, Preset
from mcdiff_batch.train.networks.trio import Networks
from mcdiff_batch.train.segmenters.rater import Rater, load_rater
from mcdiff_batch.train.training.data import Dataset, load
from mcdiff_batch.train.training.loop import Setting
from mcdiff_batch.train.training.stages import train_all
from mcdiff_batch.train.training.weights import source_sha256

from . import scoring
from .arms import ALL, ARMS, BASE, FRAMES, REPEATS, SHARED, TABLE_V, WHOLE, Arm, staged

Say = Callable[[str], None]
SEED = 0  # of stages I and II that arms share
EQUAL_DB = 120  # a PSNR beyond this is an image against itself
REFERENCES = ("original", "clean target")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What experiments read, and where they write."""

    data: Path
    held_out: Path
    output: Path
    source: Path | None  # of stages I and II, where they are not to begin at random weights
    rater: Path
    steps: int  # of stage III in an arm; the other budgets are parts of it
    say: Say

    @property
    def work(self) -> Path:
        return self.output.with_suffix(".work")


def experiments(bench: Bench) -> dict[str, Any]:
    """Trains and scores every arm; writes and returns the document, whole or as far as it is."""
    bench.work.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {}
    for name in _scored(bench):
        document = _document(bench)
        bench.output.write_text(json.dumps(document, indent=1) + "\n")
        bench.say(f"{name} is scored")
    return document


def _scored(bench: Bench) -> Iterator[str]:
    """Does what is not done yet, the references first; gives the name of each arm when done."""
    cases = scoring.subjects(bench.held_out, BASE.frame)
    rater = load_rater(bench.rater)
    for name, images in (
        ("original", scoring.originals(cases)),
        ("clean target", scoring.targets(cases)),
    ):
        _keep(bench, name, {"": scoring.measured(images, cases, rater)})
    for arm in ALL:
        if not _path(bench, arm.name).exists():
            nets = _trained(bench, arm)
            _keep(bench, arm.name, _scores(bench, arm, nets, cases, rater))
        yield arm.name


def _scores(
    bench: Bench, arm: Arm, nets: Networks, cases: list[Subject], rater: Rater
) -> dict[str, scoring.Columns]:
    """By the number of evaluations; arms of the frame's question on the larger one."""
    own = cases
    if arm in FRAMES:
        own = scoring.subjects(bench.held_out, nets.preset.frame)
        cases = scoring.subjects(bench.held_out, WHOLE)
    found = {}
    for evaluations in scoring.EVALUATIONS:
        images = scoring.sampled(nets, own, evaluations, arm.temperature)
        if arm in FRAMES:
            back = [from_frame(x, c.case.extent) for x, c in zip(images, cases, strict=True)]
            images = [to_frame(x, WHOLE, black=-1.0) for x in back]
        found[str(evaluations)] = scoring.measured(images, cases, rater)
    return found


def _trained(bench: Bench, arm: Arm) -> Networks:
    """The arm's networks; stages I and II are the shared ones, unless it has its own."""
    if arm.sampled is not None:
        return _trained(bench, next(x for x in ARMS if x.name == arm.sampled))
    if SHARED.keys() <= arm.parts.keys():
        preset = staged(arm.changed(), bench.steps, arm.parts)
        return _train(bench, arm.name, preset, arm.seed)
    _train(bench, "shared", staged(BASE, bench.steps, SHARED), SEED, bench.source)
    folder = bench.work / arm.name
    folder.mkdir(exist_ok=True)
    for stage in SHARED:
        file = f"{stage}.safetensors"
        if not (folder / file).exists():
            shutil.copy(bench.work / "shared" / file, folder / file)
    preset = staged(arm.changed(), bench.steps, {**SHARED, **arm.parts})
    return _train(bench, arm.name, preset, arm.seed)


def _train(
    bench: Bench, name: str, preset: Preset, seed: int, source: Path | None = None
) -> Networks:
    setting = Setting(
        seed=seed,
        device=torch.device("cpu"),
        ema=preset.ema,
        clip=preset.clip,
        folder=bench.work / name,
        source=source,
        notes=1,
    )
    train, unseen = (
        _weighted(_read(x, preset.frame), preset) for x in (bench.data, bench.held_out)
    )
    nets, _ = train_all(preset, train, unseen, setting, lambda text: bench.say(f"{name}: {text}"))
    return nets


@lru_cache(maxsize=2)
def _read(path: Path, frame: Frame) -> Dataset:
    return load(path, frame, PAPER_DEPTH_WEIGHTS, 0.0)


def _weighted(data: Dataset, preset: Preset) -> Dataset:
    """With the preset's fusion weights, over the depths that a case has."""
    pairs = zip(data.weights > 0, data.optimal.tolist(), strict=True)
    return replace(data, weights=np.stack([scoring.told_weights(preset, *x) for x in pairs]))


def _path(bench: Bench, name: str) -> Path:
    return bench.work / f"{name}.json"


def _keep(bench: Bench, name: str, scores: dict[str, scoring.Columns]) -> None:
    part = _path(bench, name).with_suffix(".part")
    part.write_text(json.dumps(scores))
    part.replace(_path(bench, name))


def _document(bench: Bench) -> dict[str, Any]:
    """All that is scored so far."""
    held = {x: json.loads(_path(bench, x).read_text())[""] for x in REFERENCES}
    done = [x for x in ALL if _path(bench, x.name).exists()]
    stored = {x.name: json.loads(_path(bench, x.name).read_text()) for x in done}
    base = stored.get(ARMS[0].name, {})
    return {
        "what": "experiments on training; means over cases with bootstrap 95 % intervals",
        "machine": machine(("torch",)) | {"threads": torch.get_num_threads()},
        "seed": SEED,
        "evaluations": scoring.EVALUATIONS,
        "cases": len(held["original"]["psnr"]),
        "rater_sha256": file_sha256(bench.rater),
        "data": {"train": _identity(bench.data), "held_out": _identity(bench.held_out)},
        "from_sha256": source_sha256(bench.source),
        "steps": bench.steps,
        "frame": asdict(BASE.frame),
        "references": {
            name: {m: scoring.interval(x) for m, x in columns.items() if max(x) < EQUAL_DB}
            for name, columns in held.items()
        },
        "table_v": _table_v(stored, held["original"]),
        "runs": [_row(arm, stored[arm.name], base, held) for arm in done],
    }


def _table_v(stored: dict[str, Any], original: scoring.Columns) -> dict[str, Any]:
    """Gains over the original of Table V's conditions, 20 ln: each case's mean over the seeds."""
    table: dict[str, Any] = {}
    for name in TABLE_V:
        names = [name, *(x.name for x in REPEATS if x.name.startswith(f"{name}, "))]
        found = [stored[x] for x in names if x in stored]
        table[name] = {"seeds": len(found)}
        for mode in found[0] if found else ():
            table[name][mode] = {
                m: scoring.interval(
                    np.subtract(np.mean([x[mode][m] for x in found], axis=0), original[m]).tolist()
                )
                for m in ("cnr_ln", "snr_ln")
            }
    return table


def _identity(path: Path) -> dict[str, Any]:
    archive = open_archive(path)
    about = zarr.open_group(path, mode="r", use_consolidated=False).attrs.get("phantom")
    return {"identity": archive.identity, "cases": archive.cases, "phantom": about}


def _row(
    arm: Arm, found: dict[str, Any], base: dict[str, Any], held: dict[str, Any]
) -> dict[str, Any]:
    """Means and intervals of an arm, and the paired difference from the base arm."""
    row: dict[str, Any] = {"arm": arm.name, "question": arm.question}
    for mode, columns in found.items():
        row[mode] = {m: scoring.interval(x) for m, x in columns.items()}
        if arm in FRAMES:
            continue  # on another grid than the references and the base
        over = {m: np.subtract(x, base[mode][m]).tolist() for m, x in columns.items()}
        row[f"{mode}, over base"] = {m: scoring.interval(x) for m, x in over.items()}
        row[f"{mode}, share of the ceiling's gain"] = {
            m: scoring.gain_share(columns, held["original"], held["clean target"], m)
            for m in ("cnr_ln", "snr_ln")
        }
    return row


def as_text(document: dict[str, Any]) -> str:
    """The table for a person: a row for each number of evaluations."""
    names = {
        "psnr": "PSNR",
        "cnr_ln": "CNR, ln",
        "snr_ln": "SNR, ln",
        "dice": "Dice",
        "levels": "levels",
    }
    head = "".join(f"{x:>8}" for x in names.values())
    lines = [f"{'':<28}evaluations{head}"]
    for name, means in document["references"].items():
        lines.append(f"{name:<28}{'':11}{_cells(means, names)}")
    for row in document["runs"]:
        for evaluations in map(str, document["evaluations"]):
            cells = _cells(row[evaluations], names)
            lines.append(f"{row['arm']:<28}{evaluations:>11}{cells}")
    lines.append("TABLE V: gains over the original, 20 ln, mean and 95 % interval over cases")
    for name, found in document["table_v"].items():
        for evaluations in (str(x) for x in document["evaluations"] if str(x) in found):
            gains = (found[evaluations][m] for m in ("cnr_ln", "snr_ln"))
            cells = "".join(f"{a:+8.2f} ({b:+.2f}..{c:+.2f})" for a, b, c in gains)
            lines.append(f"{name:<28}{evaluations:>11}{cells}  {found['seeds']} seeds")
    return "\n".join(lines)


def _cells(means: dict[str, list[float]], names: dict[str, str]) -> str:
    return "".join(f"{means[x][0]:8.2f}" if x in means else f"{'':8}" for x in names)
