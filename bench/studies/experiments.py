"""Experiments on training: arms that differ in one setting, with equal budgets.

All arms have half the frame and small budgets, so their figures compare with one another and not
with the shipped bundle's.  Arms are scored against the truth, which no training reads.  The scores
of each arm are stored when it is done, and the same command again continues.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.errors import FingerprintError, UsageError
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
from .arms import ALL, BASE, COMMON, FRAMES, WHOLE, Arm, with_stages
from .summary import summarise

Say = Callable[[str], None]
SEED = 0  # of stages I and II that arms share
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
    arms: Sequence[str]  # names of the arms to play; empty: all
    say: Say

    @property
    def work(self) -> Path:
        return self.output.with_suffix(".work")


def run_experiments(options: Options) -> dict[str, Any]:
    """Trains and scores the arms; writes the document after each and returns the last one.

    Raises UsageError for the name of no arm, FingerprintError if the work folder belongs to other
    data, steps or weights.
    """
    unknown = [x for x in options.arms if x not in {arm.name for arm in ALL}]
    if unknown:
        names = "; ".join(x.name for x in ALL)
        raise UsageError(f"--arm {unknown[0]!r}: is no arm; expected one of: {names}")
    options.work.mkdir(parents=True, exist_ok=True)
    _pin(options)
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
        if options.arms and arm.name not in options.arms:
            continue
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
    """Trains the arm's networks; stages I and II are shared unless the arm has its own."""
    if arm.sampled is not None:
        nets = _train_arm(options, _named(arm.sampled))
        nets.preset = replace(nets.preset, **arm.changes)
        return nets
    if COMMON.keys() <= arm.parts.keys():
        preset = with_stages(arm.preset(), options.steps, arm.parts)
        return _train(options, arm.name, preset, arm.seed)
    if arm.start is None:
        _train(options, "shared", with_stages(BASE, options.steps, COMMON), SEED, options.source)
    else:
        _train_arm(options, _named(arm.start))
    folder = options.work / arm.name
    folder.mkdir(exist_ok=True)
    for stage in COMMON:
        file = f"{stage}.safetensors"
        if not (folder / file).exists():
            shutil.copy(options.work / (arm.start or "shared") / file, folder / file)
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


def _named(name: str) -> Arm:
    return next(x for x in ALL if x.name == name)


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
    done = [x.name for x in ALL if _path(options, x.name).exists()]
    stored = {x: json.loads(_path(options, x).read_text()) for x in done}
    return {
        "what": "experiments on training; means over cases with bootstrap 95 % intervals",
        "machine": machine(("torch",)) | {"threads": torch.get_num_threads()},
        "seed": SEED,
        "evaluations": scoring.EVALUATIONS,
        **_inputs(options),
        "frame": asdict(BASE.frame),
        **summarise(stored, *(references[x] for x in REFERENCES)),
    }


def _inputs(options: Options) -> dict[str, Any]:
    """What decides the scores, besides the arms."""
    return {
        "rater_sha256": file_sha256(options.rater),
        "data": {"train": _identity(options.data), "held_out": _identity(options.held_out)},
        "from_sha256": source_sha256(options.source),
        "steps": options.steps,
    }


def _pin(options: Options) -> None:
    """Writes what the work folder belongs to, or compares it."""
    path, mine = options.work / "inputs.json", _inputs(options)
    if not path.exists():
        path.write_text(json.dumps(mine, indent=1) + "\n")
    theirs = json.loads(path.read_text())
    for key, value in json.loads(json.dumps(mine)).items():
        if theirs[key] != value:
            raise FingerprintError(
                f"{path}: these experiments have other {key}: {theirs[key]}, this command has "
                f"{value}; use another --output, or the same options as before"
            )


def _identity(path: Path) -> dict[str, Any]:
    archive = open_archive(path)
    about = zarr.open_group(path, mode="r", use_consolidated=False).attrs.get("phantom")
    return {"identity": archive.identity, "cases": archive.cases, "phantom": about}
