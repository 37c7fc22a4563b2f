"""The pictures of README: before and after, the paper's conditions, and uncertainty.

One rule chooses the cases: the difficult phantoms at fixed percentiles of the gain in PSNR to
clean.  Nothing is sharpened or stretched.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from PIL import Image as Picture

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.errors import UsageError
from mcdiff_batch.engine.image.frame import Image, Mask
from mcdiff_batch.engine.image.metrics import psnr
from mcdiff_batch.engine.model.contract import Bundle
from mcdiff_batch.train.evaluation.sources import Source, run_source
from mcdiff_batch.train.evaluation.subject import Subject, read_subject

from .panels import Group, Panel, Pixels, around, heat, sheet
from .real_image import SPACING_MM, enhance

THREE, TWO = (10, 50, 90), (25, 75)  # percentiles of the gain
STEP = 10  # the end of a scale is a multiple of so many grey levels
ARMS = {  # arms of `bench experiments`, and the words below them
    "optimal segmentation": "optimal-depth\nsegmentation",
    "optimal features": "optimal-depth\nfeatures",
    "base": "multi-depth\nfeatures",
}
ORIGINAL, ENHANCED, CLEAN = "original", "enhanced", "clean target\n(never seen)"
REAL = "real scan (SA2Net, MIT)"
Images = dict[str, Image]  # by the words below them


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A case to show; images [H, W] in [0, 1] on the frame."""

    original: Image
    enhanced: Image
    strip: Mask
    words: str
    clean: Image | None = None
    spread: Image | None = None


def before_after(
    run: Path, truth: Path, bundle: Bundle, path: Path, real: Path | None = None
) -> list[str]:
    """Writes a PNG: original, enhanced and clean target of three phantoms; and a real scan.

    Returns the words below each case.
    """
    cases = _shown_cases(run, truth, bundle, THREE, real)
    groups = []
    for case in cases:
        shown: Images = {ORIGINAL: case.original, ENHANCED: case.enhanced}
        if case.clean is not None:
            shown[CLEAN] = case.clean
        groups.append(_group(case, shown))
    _save(sheet(groups), path)
    return [x.words for x in cases]


def uncertainty(
    run: Path, truth: Path, bundle: Bundle, path: Path, real: Path | None = None
) -> list[str]:
    """Writes a PNG: mean of draws, spread and true error of two phantoms; and a real scan.

    Returns the words below each case.  Raises UsageError for a run with one draw.
    """
    cases = _shown_cases(run, truth, bundle, TWO, real)
    maps = [_heats(case) for case in cases]
    most = {words: _most(words, cases, maps) for words in maps[0]}
    groups = []
    for case, of in zip(cases, maps, strict=True):
        shown = {ORIGINAL: case.original, "enhanced\n(mean of draws)": case.enhanced}
        hot = {words: heat(levels, most[words]) for words, levels in of.items()}
        groups.append(_group(case, shown, hot))
    scales = {words.replace("\n", " "): levels for words, levels in most.items()}
    _save(sheet(groups, scales), path)
    return [x.words for x in cases]


def _most(words: str, cases: Sequence[Shown], maps: Sequence[Images]) -> int:
    """The grey levels at the end of a scale, below which 99 % of the px lie."""
    inside = [of[words][x.strip] for x, of in zip(cases, maps, strict=True) if words in of]
    return STEP * max(1, int(np.ceil(np.percentile(np.concatenate(inside), 99) / STEP)))


def _heats(case: Shown) -> Images:
    """Spread and error in grey levels, by the words below them."""
    if case.spread is None:
        raise UsageError("the run has no spread; make one with `mcdiff-batch run --draws 8`")
    maps = {"spread\nof draws": 255 * case.spread}
    if case.clean is not None:
        maps["true\nerror"] = 255 * np.abs(case.enhanced - case.clean)
    return maps


def conditions(
    work: Path, truth: Path, path: Path, evaluations: int, temperature: float
) -> list[str]:
    """Writes a PNG like the paper's Fig. 8: two cases, enhanced under each of its conditions.

    work: the folder of trainings from `bench experiments`; its base arm chooses the cases.
    """
    from mcdiff_batch.train.training.weights import read_weights

    from .scoring import sample_cases, subjects

    nets = {arm: read_weights(work / arm)[0] for arm in ARMS}
    cases = [x for x in subjects(truth, nets["base"].preset.frame) if x.truth.difficult]
    images = [_unit(x) for x in sample_cases(nets["base"], cases, evaluations, temperature)]
    groups = []
    for k, words in _pick(cases, images, TWO).items():
        made = {
            said: _unit(sample_cases(nets[arm], [cases[k]], evaluations, temperature)[0])
            for arm, said in ARMS.items()
        }
        case = _phantom(cases[k], images[k], words)
        assert case.clean is not None
        groups.append(_group(case, {ORIGINAL: case.original, **made, CLEAN: case.clean}))
    _save(sheet(groups), path)
    return [x.words for x in groups]


def _shown_cases(
    run: Path, truth: Path, bundle: Bundle, percentiles: Sequence[int], real: Path | None
) -> list[Shown]:
    """The phantoms that the rule chooses, and the real image, enhanced alike."""
    archive, group = open_archive(truth), zarr.open_group(truth, mode="r", use_consolidated=False)
    source, frame = run_source(run, archive, bundle), bundle.contract.frame
    if "difficult" not in group:
        raise UsageError(f"{truth}: has no 'difficult'; give an archive of phantoms as --truth")
    flags: Any = group["difficult"]
    hard = [k for k in source.cases if flags[k]]
    cases = [read_subject(archive, group, k, bundle.contract) for k in hard]
    images = [source.image(k, frame) for k in hard]
    shown = []
    for k, words in _pick(cases, images, percentiles).items():
        spread = source.spread(hard[k], frame) if source.spread else None
        shown.append(_phantom(cases[k], images[k], words, spread))
    return shown if real is None else [*shown, _real(real, bundle, source)]


def _real(image: Path, bundle: Bundle, source: Source) -> Shown:
    """The real image, enhanced with the settings of the run."""
    about = source.about
    options_by_name = {
        "--sampler": about["solver"],
        "--steps": len(about["ladder"]),
        "--seed": about["seed"],
        "--draws": about.get("draws", 1),
        "--temperature": about["temperature"],
    }
    options = [str(x) for pair in options_by_name.items() for x in pair]
    result = enhance(image, bundle, SPACING_MM, options)
    return Shown(
        original=result.original.image,
        enhanced=result.enhanced.image,
        strip=result.case.strip,
        spread=result.spread,
        words=REAL,
    )


def _pick(
    cases: Sequence[Subject], images: Sequence[Image], percentiles: Sequence[int]
) -> Mapping[int, str]:
    """The cases to show -> the words below each."""
    gains = [_gain(x, image) for x, image in zip(cases, images, strict=True)]
    places = choose_cases(gains, percentiles)
    return {
        k: f"{at}th percentile of gain: {gains[k]:+.1f} dB PSNR"
        for k, at in zip(places, percentiles, strict=True)
    }


def choose_cases(gains: Sequence[float], percentiles: Sequence[int]) -> list[int]:
    """The indices of the gains that are nearest in rank to the percentiles, all different."""
    if len(gains) < len(percentiles):
        raise UsageError(
            f"the run has {len(gains)} difficult cases, the picture needs {len(percentiles)}"
        )
    order = np.argsort(gains, kind="stable")
    return [int(order[round(at / 100 * (len(gains) - 1))]) for at in percentiles]


def _gain(case: Subject, image: Image) -> float:
    """The gain in PSNR to clean, dB, as in `evaluate`."""
    clean, strip = case.truth.clean, case.case.strip
    return psnr(image, clean, strip) - psnr(_original(case), clean, strip)


def _original(case: Subject) -> Image:
    return case.depths[case.case.optimal]


def _phantom(case: Subject, image: Image, words: str, spread: Image | None = None) -> Shown:
    return Shown(
        original=_original(case),
        enhanced=image,
        strip=case.case.strip,
        words=words,
        clean=case.truth.clean,
        spread=spread,
    )


def _group(case: Shown, images: Images, more: Mapping[str, Pixels] | None = None) -> Group:
    """A group of panels, cut to the scan."""
    shown: dict[str, Pixels] = {words: _bytes(x) for words, x in images.items()}
    shown |= more or {}
    inside = around(case.strip)
    panels = tuple(Panel(image=x[inside], words=words) for words, x in shown.items())
    return Group(panels=panels, words=case.words)


def _unit(image: Image) -> Image:
    return np.asarray((image + 1) / 2, np.float32)


def _bytes(image: Image) -> Pixels:
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _save(made: Picture.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save(path, optimize=True)
