"""What the experiments compare: one setting changed at a time, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mcdiff_batch.engine.frame import Frame
from mcdiff_batch.train.presets import PRESETS, Preset, Stage
from mcdiff_batch.train.unet import Widths

HALF = Frame(height=128, width=32)
WHOLE = Frame(height=256, width=64)


# The settings are those of the preset `small`, whatever they are.
BASE = replace(PRESETS["small"], name="experiment", frame=HALF)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A training, or only another way to sample a training that is there."""

    name: str
    question: str
    changes: Mapping[str, Any] = field(default_factory=dict)  # of the base preset
    sampled: str | None = None  # the arm whose networks these are
    anchoring: str = "none"  # while sampling
    temperature: float = 0.0
    parts: Mapping[str, float] = field(default_factory=lambda: {"tuner": 1.0})  # of the steps

    def changed(self) -> Preset:
        return replace(BASE, **self.changes)


ARMS = (  # what matters most first: a run that is cut short has scored that
    Arm(name="base", question="the preset `small` on half its frame"),
    Arm(name="low band at the end", question="anchoring", sampled="base", anchoring="end"),
    Arm(name="low band every step", question="anchoring", sampled="base", anchoring="every"),
    Arm(name="from noise", question="temperature", sampled="base", temperature=1.0),
    Arm(name="optimal features", question="Table V", changes={"conditions": "optimal"}),
    Arm(name="optimal segmentation", question="Table V", changes={"conditions": "segmentation"}),
    Arm(name="half to the optimal depth", question="fusion", changes={"optimal_share": 0.5}),
    Arm(name="uniform weights", question="fusion", changes={"depth_weights": (0.2,) * 5}),
    Arm(name="all cases", question="cases of stage III", changes={"tuner_artifact_free": False}),
    Arm(name="no corruption", question="corruption", changes={"corruption": 0.0}),
    Arm(name="eq. 8 as written", question="residual", changes={"residual": False}),
    Arm(name="tuner x0 cap 0", question="cap of the x0 weight", changes={"tuner_x0_cap": 0.0}),
    Arm(name="tuner x0 cap 5", question="cap of the x0 weight", changes={"tuner_x0_cap": 5.0}),
    Arm(name="tuner x0 cap 50", question="cap of the x0 weight", changes={"tuner_x0_cap": 50.0}),
)
WHOLE_TRAINING = {"foundation": 0.75, "extractor": 0.25, "tuner": 0.5}
FROM_SCRATCH = (  # all three stages; as many multiply-adds a step: four times the px, half as wide
    Arm(name="128 x 32, base 16", question="frame", changes={"frame": HALF}, parts=WHOLE_TRAINING),
    Arm(
        name="256 x 64, base 8",
        question="frame",
        changes={"frame": WHOLE, "widths": Widths(base=8)},
        parts=WHOLE_TRAINING,
    ),
)
CAPS = tuple(  # stage I alone, scored by the eps and x0 errors of unconditional steps
    Arm(
        name=f"foundation x0 cap {cap:g}",
        question="cap of the x0 weight",
        changes={"x0_cap": cap, "widths": Widths(base=8)},
        parts={"foundation": 0.5},
    )
    for cap in (0.0, 5.0, 20.0)
)
SHARED = {"foundation": 0.25, "extractor": 0.125}  # stages I and II that ARMS have in common


def staged(preset: Preset, steps: int, parts: Mapping[str, float]) -> Preset:
    """The preset with the stages named, each of its part of `steps`, in small batches."""
    stages = tuple(
        Stage(
            name=name,
            steps=round(part * steps),
            half_steps=0,
            batch=8,
            learning_rate=1e-3,
            draws=4 if name == "tuner" else 1,
            warmup=10,
        )
        for name, part in parts.items()
    )
    return replace(preset, stages=stages, ema=0.98)
