"""Presets: the sizes of the networks and the budgets of the stages, as data."""

from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from mcdiff_batch.engine.errors import UsageError
from mcdiff_batch.engine.image.frame import Frame

from .losses import Prediction
from .unet import Widths

Conditions = Literal["depths", "optimal", "segmentation"]
Reads = Literal["estimate", "x", "both"]  # the linear estimate; x_t; the estimate and the scan b
Tunes = Literal["tuner", "decoder", "all"]
STAGES = ("foundation", "extractor", "tuner")  # I, II and III
PAPER_DEPTH_WEIGHTS = (0.109, 0.205, 0.252, 0.259, 0.174)  # superficial to deep; add to 0.999


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage's budget: of its `steps`, the first `crop_steps` run on crops (data.py)."""

    name: str
    steps: int
    crop_steps: int
    batch: int
    learning_rate: float
    draws: int = 1  # (t, eps) pairs for each case; `batch` counts pairs
    warmup: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """All settings of a training except its data and seed."""

    name: str
    frame: Frame
    widths: Widths
    stages: tuple[Stage, ...]
    depth_weights: tuple[float, ...] = PAPER_DEPTH_WEIGHTS
    optimal_share: float = 0.0  # share of the fusion weights that goes to the optimal depth first
    prediction: Prediction = "scan"  # "v" is the paper's way: no second observation
    reads: Reads = "estimate"  # what the foundation reads of the two observations
    sigma_b: float = 0.25  # sd of the scan's error as an observation of x_0, in [-1, 1]
    sigma_b_input: bool = False  # training draws sigma_b around that and tells the foundation
    loss_power: float = 1.0  # exponent of the loss's weight; 2: error of x0-hat, 0: of the output
    regression: bool = False  # train at t = T alone: plain regression, sampled by one evaluation
    any_depth: bool = True  # stage II: take half the images from other depths; False: optimal only
    residual: bool = True  # eq. 8 plus f_i, so it starts at the pretrained model; False: as written
    early_fusion: bool = True  # fuse the depths before they are decoded; False: after (eq. 5)
    middle: bool = False  # whether the middle block has a condition too
    tuner_share: float = 0.5  # the tuner's width, as a share of its skip's channels
    tunes: Tunes = "all"  # what stage III trains: "tuner" is the paper's way
    tuner_artifact_free: bool = True  # stage III: artifact-free cases only; False: all cases
    clearest: float = 1.0  # stage III: share of its cases, by contrast of bone, to learn towards
    evened: float = 0.0  # share of the tissue's uneven brightness that the targets lose
    morphology: float = 0.0  # stage III: weight of the extractor's loss on x0-hat
    varied: float = 0.0  # share of stage II's images that get other proportions and tones
    conditions: Conditions = "depths"  # Table V; only "depths" can be exported
    corruption: float = 0.7  # share of the cases that are corrupted before the networks read them
    left_out: float = 0.5  # share of stage III's stacks whose optimal depth is replaced
    ema: float = 0.999
    clip: float = 1.0


def _stages(
    foundation: tuple[int, int] | None,
    extractor: tuple[int, int],
    tuner: tuple[int, int],
    batch: int,
    warmup: int = 100,
    learning_rate: float = 1e-3,
) -> tuple[Stage, ...]:
    """The paper's three stages, each from (steps, steps on crops); None leaves a stage out."""
    budgets = {"foundation": foundation, "extractor": extractor, "tuner": tuner}
    return tuple(
        Stage(
            name=name,
            steps=steps,
            crop_steps=crop_steps,
            batch=batch,
            learning_rate=learning_rate,
            draws=3 if name == "tuner" else 1,
            warmup=warmup,
        )
        for name, budget in budgets.items()
        if budget is not None
        for steps, crop_steps in [budget]
    )


def adjust(preset: Preset, budget: float, changes: Mapping[str, Any]) -> Preset:
    """The preset with every stage `budget` times as long and with `changes` that are not None."""
    settings: dict[str, Any] = {name: x for name, x in changes.items() if x is not None}
    return replace(scale(preset, budget), **settings)


def choose_stages(preset: Preset, names: Collection[str], source: Path | None) -> Preset:
    """The preset with only the stages in `names`, or with all if there are none.

    Raises UsageError if the preset has no such stage, or if there is no `source` of the weights
    that stages which are left out would train.
    """
    stages = tuple(x for x in preset.stages if not names or x.name in names)
    absent = sorted(set(names) - {x.name for x in stages})
    if absent:
        own = ", ".join(x.name for x in preset.stages)
        raise UsageError(
            f"--stage {absent[0]}: the preset {preset.name} has the stages {own}; name one of "
            "these, or another --preset"
        )
    if source is None and len(stages) < len(STAGES):
        asked = f"--stage {', '.join(names)}" if names else f"--preset {preset.name}"
        raise UsageError(
            f"{asked}: the networks of the other stages would keep random weights; add --from with "
            "a training folder or a bundle"
        )
    return replace(preset, stages=stages)


def scale(preset: Preset, budget: float) -> Preset:
    """The preset with every stage `budget` times as long."""
    times = lambda steps: max(1, round(budget * steps))
    stages = tuple(
        replace(
            x,
            steps=times(x.steps),
            crop_steps=times(x.crop_steps) if x.crop_steps else 0,
            warmup=min(x.warmup, times(x.steps)),
        )
        for x in preset.stages
    )
    return replace(preset, stages=stages)


SMALL = Preset(
    name="small",
    frame=Frame(height=512, width=128),
    widths=Widths(base=32, multipliers=(1, 2, 3), blocks=1, patch=4),
    stages=_stages((400, 360), (500, 440), (6300, 5400), batch=24),
    reads="both",
    middle=True,
    left_out=0.85,
    corruption=0.85,
    clearest=0.5,
    evened=0.4,
    varied=0.3,
)
MORPHOLOGY = Stage(
    name="tuner",
    steps=6000,
    crop_steps=5000,
    batch=18,
    learning_rate=3e-4,
    draws=2,
    warmup=40,
)
PAPER_WAY: dict[str, Any] = {  # frozen foundation, no second observation, every depth read
    "prediction": "v",
    "tunes": "tuner",
    "loss_power": 0.0,
    "left_out": 0.0,
    "corruption": 0.0,
    "early_fusion": False,
    "clearest": 1.0,
    "evened": 0.0,
    "varied": 0.0,
    "tuner_artifact_free": False,
}
PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            name="toy",
            frame=Frame(height=64, width=16),
            widths=Widths(base=8, multipliers=(1, 2), blocks=1),
            stages=_stages((60, 30), (60, 30), (60, 30), batch=8, warmup=10),
            ema=0.9,
        ),
        SMALL,
        replace(  # continues from a trained `small` (--from); its foundation learns in stage III
            SMALL,
            name="small-more",
            stages=_stages(None, (1600, 1440), (8000, 6900), batch=24, learning_rate=6e-4),
        ),
        replace(  # continues from a trained `small` (--from): stage III with the morphology loss
            SMALL, name="small-morphology", stages=(MORPHOLOGY,), morphology=0.6
        ),
        replace(  # the same on a GPU
            SMALL,
            name="small-morphology-gpu",
            stages=(
                replace(MORPHOLOGY, steps=20000, crop_steps=16000, batch=72, learning_rate=6e-4),
            ),
            morphology=0.6,
        ),
        replace(  # the same networks with a GPU's budget
            SMALL,
            name="small-gpu",
            stages=_stages((12000, 8000), (4000, 2400), (48000, 24000), batch=64),
        ),
        replace(SMALL, name="small-regression", regression=True),
        replace(SMALL, name="small-paper-way", **PAPER_WAY),
        Preset(
            name="paper",
            frame=Frame(height=256, width=256),
            widths=Widths(base=128, multipliers=(1, 2, 3, 4), blocks=3),
            stages=_stages((40000, 0), (4000, 0), (30000, 0), batch=16),
            **PAPER_WAY,
        ),
    )
}


def with_defaults(raw: dict[str, Any]) -> dict[str, Any]:
    """A preset's JSON form, with the settings that did not exist yet when it was stored."""
    return {x.name: x.default for x in fields(Preset) if x.default is not MISSING} | raw


def preset_from(raw: dict[str, Any]) -> Preset:
    """Reads a preset from its JSON form, which dataclasses.asdict made."""
    widths = Widths(**{**raw["widths"], "multipliers": tuple(raw["widths"]["multipliers"])})
    nested = {
        "frame": Frame(**raw["frame"]),
        "widths": widths,
        "stages": tuple(Stage(**stage) for stage in raw["stages"]),
        "depth_weights": tuple(raw["depth_weights"]),
    }
    return Preset(**{**raw, **nested})
