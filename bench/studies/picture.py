"""README's pictures: before and after, the paper's conditions, and where the model is unsure.

Cases are chosen by one rule: of the difficult phantoms, ordered by what enhancement gains in PSNR
to clean, those at fixed percentiles.  Nothing is sharpened or stretched.
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
STEP = 10  # grey levels that the scale of heat is rounded up to
ARMS = {  # of `bench experiments`, and what is said of them
    "optimal segmentation": "optimal-depth\nsegmentation",
    "optimal features": "optimal-depth\nfeatures",
    "base": "multi-depth\nfeatures",
}
ORIGINAL, ENHANCED, CLEAN = "original", "enhanced", "clean target\n(never seen)"
REAL = "real scan (SA2Net, MIT)"
Images = dict[str, Image]  # by the words below


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A case to be shown; images [H, W] in [0, 1] on the frame."""

    original: Image
    enhanced: Image
    strip: Mask
    words: str
    clean: Image | None = None
    spread: Image | None = None


def before_after(
    run: Path, truth: Path, bundle: Bundle, path: Path, real: Path | None = None
) -> list[str]:
    """Writes a PNG: original, enhanced and clean target of three phantoms, a real scan.

    Gives what is said of each case.
    """
    seen = _seen(run, truth, bundle, THREE, real)
    groups = []
    for case in seen:
        shown: Images = {ORIGINAL: case.original, ENHANCED: case.enhanced}
        if case.clean is not None:
            shown[CLEAN] = case.clean
        groups.append(_group(case, shown))
    _save(sheet(groups), path)
    return [x.words for x in seen]


def uncertainty(
    run: Path, truth: Path, bundle: Bundle, path: Path, real: Path | None = None
) -> list[str]:
    """Writes a PNG: mean of draws, their spread and the true error of two phantoms, a real scan.

    As `before_after`.  Raises UsageError for a run of one draw.
    """
    seen = _seen(run, truth, bundle, TWO, real)
    maps = [_heats(case) for case in seen]
    most = {words: _most(words, seen, maps) for words in maps[0]}
    groups = []
    for case, of in zip(seen, maps, strict=True):
        shown = {ORIGINAL: case.original, "enhanced\n(mean of draws)": case.enhanced}
        hot = {words: heat(levels, most[words]) for words, levels in of.items()}
        groups.append(_group(case, shown, hot))
    scales = {words.replace("\n", " "): levels for words, levels in most.items()}
    _save(sheet(groups, scales), path)
    return [x.words for x in seen]


def _most(words: str, seen: Sequence[Seen], maps: Sequence[Images]) -> int:
    """Grey levels at the end of a scale: all but a hundredth of the px lie below."""
    inside = [of[words][x.strip] for x, of in zip(seen, maps, strict=True) if words in of]
    return STEP * max(1, int(np.ceil(np.percentile(np.concatenate(inside), 99) / STEP)))


def _heats(case: Seen) -> Images:
    """Grey levels, by the words below."""
    if case.spread is None:
        raise UsageError("the run has no spread: make one with `mcdiff-batch run --draws 8`")
    found = {"spread\nof draws": 255 * case.spread}
    if case.clean is not None:
        found["true\nerror"] = 255 * np.abs(case.enhanced - case.clean)
    return found


def conditions(
    work: Path, truth: Path, path: Path, evaluations: int, temperature: float
) -> list[str]:
    """Writes a PNG like the paper's Fig. 8: two cases, enhanced under each of its conditions.

    work: the folder of trainings that `bench experiments` leaves; the rule goes by its base arm.
    """
    from mcdiff_batch.train.training.weights import read_weights

    from .scoring import sampled, subjects

    nets = {arm: read_weights(work / arm)[0] for arm in ARMS}
    cases = [x for x in subjects(truth, nets["base"].preset.frame) if x.truth.difficult]
    found = [_unit(x) for x in sampled(nets["base"], cases, evaluations, temperature)]
    groups = []
    for k, words in _picked(cases, found, TWO).items():
        made = {
            said: _unit(sampled(nets[arm], [cases[k]], evaluations, temperature)[0])
            for arm, said in ARMS.items()
        }
        case = _phantom(cases[k], found[k], words)
        assert case.clean is not None
        groups.append(_group(case, {ORIGINAL: case.original, **made, CLEAN: case.clean}))
    _save(sheet(groups), path)
    return [x.words for x in groups]


def _seen(
    run: Path, truth: Path, bundle: Bundle, percentiles: Sequence[int], real: Path | None
) -> list[Seen]:
    """The phantoms of the rule and, enhanced as they are, the real image."""
    archive, group = open_archive(truth), zarr.open_group(truth, mode="r", use_consolidated=False)
    source, frame = run_source(run, archive, bundle), bundle.contract.frame
    if "difficult" not in group:
        raise UsageError(f"{truth}: has no 'difficult'; only phantoms tell which cases are")
    flags: Any = group["difficult"]
    hard = [k for k in source.cases if flags[k]]
    cases = [read_subject(archive, group, k, bundle.contract) for k in hard]
    images = [source.image(k, frame) for k in hard]
    seen = []
    for k, words in _picked(cases, images, percentiles).items():
        spread = source.spread(hard[k], frame) if source.spread else None
        seen.append(_phantom(cases[k], images[k], words, spread))
    return seen if real is None else [*seen, _real(real, bundle, source)]


def _real(image: Path, bundle: Bundle, source: Source) -> Seen:
    """Enhanced with the settings of a run."""
    about = source.about
    told = {
        "--sampler": about["solver"],
        "--steps": len(about["ladder"]),
        "--seed": about["seed"],
        "--draws": about.get("draws", 1),
        "--temperature": about["temperature"],
    }
    options = [str(x) for pair in told.items() for x in pair]
    found = enhance(image, bundle, SPACING_MM, options)
    return Seen(
        original=found.original.image,
        enhanced=found.enhanced.image,
        strip=found.case.strip,
        spread=found.spread,
        words=REAL,
    )


def _picked(
    cases: Sequence[Subject], images: Sequence[Image], percentiles: Sequence[int]
) -> Mapping[int, str]:
    """Which of the cases are shown -> what is said of each."""
    gains = [_gain(x, image) for x, image in zip(cases, images, strict=True)]
    places = chosen(gains, percentiles)
    return {
        k: f"{at}th percentile of gain: {gains[k]:+.1f} dB PSNR"
        for k, at in zip(places, percentiles, strict=True)
    }


def chosen(gains: Sequence[float], percentiles: Sequence[int]) -> list[int]:
    """Where in `gains` the values nearest in rank to the percentiles are; no value twice."""
    if len(gains) < len(percentiles):
        raise UsageError(f"{len(gains)} difficult cases, the picture needs {len(percentiles)}")
    order = np.argsort(gains, kind="stable")
    return [int(order[round(at / 100 * (len(gains) - 1))]) for at in percentiles]


def _gain(case: Subject, image: Image) -> float:
    """In PSNR to clean, dB, as `evaluate` has it."""
    clean, strip = case.truth.clean, case.case.strip
    return psnr(image, clean, strip) - psnr(_original(case), clean, strip)


def _original(case: Subject) -> Image:
    return case.depths[case.case.optimal]


def _phantom(case: Subject, image: Image, words: str, spread: Image | None = None) -> Seen:
    return Seen(
        original=_original(case),
        enhanced=image,
        strip=case.case.strip,
        words=words,
        clean=case.truth.clean,
        spread=spread,
    )


def _group(case: Seen, images: Images, more: Mapping[str, Pixels] | None = None) -> Group:
    """Cut to the scan."""
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
