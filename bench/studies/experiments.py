"""Experiments on training: arms that differ in one setting, with equal budgets.

All arms have half the frame and small budgets, so their figures compare with one another and not
with the shipped bundle's.  Arms are scored against the truth, which no training reads.  The scores
of each arm are stored when it is done, and the same command again continues.
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
from mcdiff_batch.train.cases.data import Dataset, load
from mcdiff_batch.train.evaluation.subject import Subject
from mcdiff_batch.train.networks.presets import PAPER_DEPTH_WEIGHTS, Preset
from mcdiff_batch.train.networks.trio import Networks
from mcdiff_batch.train.segmenters.rater import Rater, load_rater
from mcdiff_batch.train.training.loop import Setting
from mcdiff_batch.train.training.stages import train_all
from mcdiff_batch.train.training.weights import source_sha256

from . import scoring
from .arms import ALL, ARMS, BASE, COMMON, FRAMES, REPEATS, TABLE_V, WHOLE, Arm, with_stages

Say = Callable[[str], None]
SEED = 0  # of stages I and II that arms share
EQUAL_DB = 120  # a PSNR beyond this is an image against itself
REFERENCES = ("original", "clean target")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the experiments read, and where they write."""

    data: Path
    held_out: Path
    output: Path
    source: Path | None  # weights from which stages I and II start; None: random weights
    rater: Path
    steps: int  # of stage III in an arm; the other stages take a part of them
    say: Say

    @property
    def work(self) -> Path:
        return self.output.with_suffix(".work")


def run_experiments(options: Options) -> dict[str, Any]:
    """Trains and scores every arm; writes the document after each and returns the last one."""
    options.work.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {}
    for name in _score_arms(options):
        document = _document(options)
        options.output.write_text(json.dumps(document, indent=1) + "\n")
        options.say(f"{name} is scored")
    return document


def _score_arms(options: Options) -> Iterator[str]:
    """Scores the references, then each arm that is not scored yet; yields the name of each arm."""
    cases = scoring.subjects(options.held_out, BASE.frame)
    rater = load_rater(options.rater)
    for name, images in (
        ("original", scoring.originals(cases)),
        ("clean target", scoring.targets(cases)),
    ):
        _store(options, name, {"": scoring.measure_images(images, cases, rater)})
    for arm in ALL:
        if not _path(options, arm.name).exists():
            nets = _train_arm(options, arm)
            _store(options, arm.name, _scores(options, arm, nets, cases, rater))
        yield arm.name


def _scores(
    options: Options, arm: Arm, nets: Networks, cases: list[Subject], rater: Rater
) -> dict[str, scoring.Columns]:
    """Scores by number of evaluations; arms of FRAMES are scored on the larger frame."""
    own = cases
    if arm in FRAMES:
        own = scoring.subjects(options.held_out, nets.preset.frame)
        cases = scoring.subjects(options.held_out, WHOLE)
    scores = {}
    for evaluations in scoring.EVALUATIONS:
        images = scoring.sample_cases(nets, own, evaluations, arm.temperature)
        if arm in FRAMES:
            back = [from_frame(x, c.case.extent) for x, c in zip(images, cases, strict=True)]
            images = [to_frame(x, WHOLE, black=-1.0) for x in back]
        scores[str(evaluations)] = scoring.measure_images(images, cases, rater)
    return scores


def _train_arm(options: Options, arm: Arm) -> Networks:
    """Trains the arm's networks; stages I and II are the common ones unless it has its own."""
    if arm.sampled is not None:
        return _train_arm(options, next(x for x in ARMS if x.name == arm.sampled))
    if COMMON.keys() <= arm.parts.keys():
        preset = with_stages(arm.preset(), options.steps, arm.parts)
        return _train(options, arm.name, preset, arm.seed)
    _train(options, "shared", with_stages(BASE, options.steps, COMMON), SEED, options.source)
    folder = options.work / arm.name
    folder.mkdir(exist_ok=True)
    for stage in COMMON:
        file = f"{stage}.safetensors"
        if not (folder / file).exists():
            shutil.copy(options.work / "shared" / file, folder / file)
    preset = with_stages(arm.preset(), options.steps, {**COMMON, **arm.parts})
    return _train(options, arm.name, preset, arm.seed)


def _train(
    options: Options, name: str, preset: Preset, seed: int, source: Path | None = None
) -> Networks:
    setting = Setting(
        seed=seed,
        device=torch.device("cpu"),
        ema=preset.ema,
        clip=preset.clip,
        folder=options.work / name,
        source=source,
        notes=1,
    )
    read = lambda path: _weighted(_read(path, preset.frame, preset.evened), preset)
    train, unseen = read(options.data), read(options.held_out)
    nets, _ = train_all(preset, train, unseen, setting, lambda text: options.say(f"{name}: {text}"))
    return nets


@lru_cache(maxsize=4)
def _read(path: Path, frame: Frame, evened: float) -> Dataset:
    return load(path, frame, PAPER_DEPTH_WEIGHTS, 0.0, evened)


def _weighted(data: Dataset, preset: Preset) -> Dataset:
    """The dataset with the preset's fusion weights over the depths that each case has."""
    pairs = zip(data.weights > 0, data.optimal.tolist(), strict=True)
    return replace(data, weights=np.stack([scoring.preset_weights(preset, *x) for x in pairs]))


def _path(options: Options, name: str) -> Path:
    return options.work / f"{name}.json"


def _store(options: Options, name: str, scores: dict[str, scoring.Columns]) -> None:
    part = _path(options, name).with_suffix(".part")
    part.write_text(json.dumps(scores))
    part.replace(_path(options, name))


def _document(options: Options) -> dict[str, Any]:
    """The document of everything that is scored so far."""
    references = {x: json.loads(_path(options, x).read_text())[""] for x in REFERENCES}
    done = [x for x in ALL if _path(options, x.name).exists()]
    stored = {x.name: json.loads(_path(options, x.name).read_text()) for x in done}
    base = stored.get(ARMS[0].name, {})
    return {
        "what": "experiments on training; means over cases with bootstrap 95 % intervals",
        "machine": machine(("torch",)) | {"threads": torch.get_num_threads()},
        "seed": SEED,
        "evaluations": scoring.EVALUATIONS,
        "cases": len(references["original"]["psnr"]),
        "rater_sha256": file_sha256(options.rater),
        "data": {"train": _identity(options.data), "held_out": _identity(options.held_out)},
        "from_sha256": source_sha256(options.source),
        "steps": options.steps,
        "frame": asdict(BASE.frame),
        "references": {
            name: {m: scoring.interval(x) for m, x in columns.items() if max(x) < EQUAL_DB}
            for name, columns in references.items()
        },
        "table_v": _table_v(stored, references["original"]),
        "runs": [_row(arm, stored[arm.name], base, references) for arm in done],
    }


def _table_v(stored: dict[str, Any], original: scoring.Columns) -> dict[str, Any]:
    """Gains over the original of Table V's conditions, 20 ln: each case's mean over the seeds."""
    table: dict[str, Any] = {}
    for name in TABLE_V:
        names = [name, *(x.name for x in REPEATS if x.name.startswith(f"{name}, "))]
        stored_arms = [stored[x] for x in names if x in stored]
        table[name] = {"seeds": len(stored_arms)}
        for mode in stored_arms[0] if stored_arms else ():
            table[name][mode] = {
                m: scoring.interval(
                    np.subtract(
                        np.mean([x[mode][m] for x in stored_arms], axis=0), original[m]
                    ).tolist()
                )
                for m in ("cnr_ln", "snr_ln")
            }
    return table


def _identity(path: Path) -> dict[str, Any]:
    archive = open_archive(path)
    about = zarr.open_group(path, mode="r", use_consolidated=False).attrs.get("phantom")
    return {"identity": archive.identity, "cases": archive.cases, "phantom": about}


def _row(
    arm: Arm, found: dict[str, Any], base: dict[str, Any], references: dict[str, Any]
) -> dict[str, Any]:
    """A row: means and intervals of an arm, and its paired difference from the base arm."""
    row: dict[str, Any] = {"arm": arm.name, "question": arm.question}
    for mode, columns in found.items():
        row[mode] = {m: scoring.interval(x) for m, x in columns.items()}
        if arm in FRAMES:
            continue  # on another grid than the references and the base
        over = {m: np.subtract(x, base[mode][m]).tolist() for m, x in columns.items()}
        row[f"{mode}, over base"] = {m: scoring.interval(x) for m, x in over.items()}
        row[f"{mode}, share of the ceiling's gain"] = {
            m: scoring.gain_share(columns, references["original"], references["clean target"], m)
            for m in ("cnr_ln", "snr_ln")
        }
    return row


def as_text(document: dict[str, Any]) -> str:
    """The table, for a person: one row per arm and number of evaluations."""
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
