"""The arms of the experiments, as data: each changes one setting."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mcdiff_batch.engine.image.frame import Frame
from mcdiff_batch.train.networks.presets import PAPER_WAY, PRESETS, Preset, Stage

HALF = Frame(height=256, width=64)
WHOLE = Frame(height=512, width=128)


# All settings but the frame are those of the preset `small`.
BASE = replace(PRESETS["small"], name="experiment", frame=HALF)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A training, or another way to sample the training of another arm."""

    name: str
    question: str
    changes: Mapping[str, Any] = field(default_factory=dict)  # to the base preset
    sampled: str | None = None  # the arm whose networks are sampled
    start: str | None = None  # the arm whose stages I and II it shares; None: the common ones
    temperature: float = 1.0
    seed: int = 0
    parts: Mapping[str, float] = field(default_factory=lambda: {"tuner": 1.0})  # steps by stage

    def preset(self) -> Preset:
        return replace(BASE, **self.changes)


COMMON = {"foundation": 0.5, "extractor": 1.0}  # stages I and II, which most arms have in common
ALONE = {**COMMON, "tuner": 1.0}  # arms with other networks train all three stages


def _other(name: str, question: str, **changes: Any) -> Arm:
    return Arm(name=name, question=question, changes=changes, parts=ALONE)


def _repeat(arms: Iterable[Arm], question: str) -> tuple[Arm, ...]:
    """Stage III of each arm with other seeds."""
    arms = tuple(arms)
    return tuple(
        replace(x, name=f"{x.name}, seed {seed}", question=question, seed=seed)
        for seed in (1, 2)
        for x in arms
    )


ARMS = (  # the most important first, in case a run is cut short
    Arm(name="base", question="the preset `small` on half its frame"),
    Arm(name="no noise", question="temperature", sampled="base", temperature=0.0),
    Arm(name="all depths read", question="optimal depth left out", changes={"left_out": 0.0}),
    Arm(name="always left out", question="optimal depth left out", changes={"left_out": 1.0}),
    Arm(name="no corruption", question="corruption", changes={"corruption": 0.0}),
    Arm(name="optimal features", question="Table V", changes={"conditions": "optimal"}),
    Arm(name="optimal segmentation", question="Table V", changes={"conditions": "segmentation"}),
    Arm(name="all cases", question="cases of stage III", changes={"tuner_artifact_free": False}),
    Arm(name="not the clearest half", question="cases of stage III", changes={"clearest": 1.0}),
    Arm(name="late fusion", question="fusion", changes={"early_fusion": False}),
    _other("network reads the estimate", "what the network reads", reads="estimate"),
    _other("network reads x_t", "what the network reads", reads="x"),
    _other("plain regression", "diffusion", regression=True),
    Arm(name="regression in stage III", question="diffusion", changes={"regression": True}),
    _other("v", "second observation", prediction="v"),
    Arm(name="tuners alone", question="what stage III trains", changes={"tunes": "tuner"}),
    Arm(name="decoder", question="what stage III trains", changes={"tunes": "decoder"}),
    _other("no condition in the middle", "middle block", middle=False),
    Arm(name="width C", question="tuner width", changes={"tuner_share": 1.0}),
    Arm(name="power 2", question="loss weights", changes={"loss_power": 2.0}),
    _other("sigma_b 0.15", "sigma_b", sigma_b=0.15),
    _other("sigma_b 0.4", "sigma_b", sigma_b=0.4),
    _other("sigma_b as an input", "sigma_b", sigma_b_input=True),
)
TABLE_V = ("base", "optimal features", "optimal segmentation")
REPEATS = _repeat((x for x in ARMS if x.name in TABLE_V), "Table V")
WAYS = (  # several settings at once
    _other("the paper's way", "second observation", **PAPER_WAY),
    Arm(
        name="all cases, always left out",
        question="cases of stage III",
        changes={"tuner_artifact_free": False, "left_out": 1.0},
    ),
)
PAPERS_TABLE_V = (  # no network reads the scan itself
    WAYS[0],
    *(
        Arm(
            name=f"the paper's way, optimal {words}",
            question="Table V, the paper's way",
            changes={**PAPER_WAY, "conditions": kind},
            start="the paper's way",
        )
        for words, kind in (("features", "optimal"), ("segmentation", "segmentation"))
    ),
)
PAPERS = (
    *PAPERS_TABLE_V[1:],
    *(
        replace(x, parts={"tuner": 1.0}, start="the paper's way")
        for x in _repeat(PAPERS_TABLE_V, "Table V, the paper's way")
    ),
)
TOLD = tuple(  # one training, told another sigma_b than it was centred on
    Arm(
        name=f"sigma_b as an input, {told}",
        question="sigma_b",
        sampled="sigma_b as an input",
        changes={"sigma_b": told},
    )
    for told in (0.15, 0.4)
)
FRAMES = (  # scored on the larger grid; with equal multiply-adds per step
    _other("256 x 64, patch 2", "frame", widths=replace(BASE.widths, patch=2)),
    _other("512 x 128, patch 4", "frame", frame=WHOLE),
)
CONDITIONS = tuple(x for x in (*ARMS[1:], *REPEATS) if x.question == "Table V")
ALL = (  # in the order in which they are trained: Table V first
    ARMS[0],
    *CONDITIONS,
    *(x for x in ARMS[1:] if x not in CONDITIONS),
    *WAYS,
    *FRAMES,
    *PAPERS,
    *TOLD,
)


def with_stages(preset: Preset, steps: int, parts: Mapping[str, float]) -> Preset:
    """The preset with the stages of `parts`, each with its part of `steps`, in small batches."""
    stages = tuple(
        Stage(
            name=name,
            steps=round(part * steps),
            crop_steps=0,
            batch=8,
            learning_rate=1e-3,
            draws=4 if name == "tuner" else 1,
            warmup=10,
        )
        for name, part in parts.items()
    )
    return replace(preset, stages=stages, ema=0.98)
