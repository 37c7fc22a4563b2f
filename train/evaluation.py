"""How good a run's images are, against the truth: enhanced beside original, floors and ceiling.

Everything is measured on the bundle's frame, to which every image was area-averaged, under the
truth's mask (s) and the scan strip (b): an identity "enhancement" gains exactly 0 dB.
"""

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from mcdiff_batch.engine.archive import Archive, open_archive
from mcdiff_batch.engine.contract import Bundle, load_bundle
from mcdiff_batch.engine.errors import ArchiveError, CaseError
from mcdiff_batch.engine.frame import Image, nearest_to_frame, to_frame
from mcdiff_batch.engine.ort import load
from mcdiff_batch.engine.plan import Device, Labels, Plan
from mcdiff_batch.engine.quality import cnr, mean_dice, psnr, regions, snr
from mcdiff_batch.engine.reader import FramedCase, frame_case

METHODS = ("original", "depth mean", "non-local means", "enhanced", "clean target")
ROLES = dict(zip(METHODS, ("original", "floor", "floor", "", "ceiling"), strict=True))
MEASURES = ("cnr", "snr", "psnr", "dice")
NLM_STRENGTHS = (0.01, 0.02, 0.04, 0.08)  # grey levels; the best by PSNR to clean is taken

Scores = dict[str, dict[str, float]]  # method -> measure -> value


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What a phantom knows of itself, on the frame."""

    clean: Image  # [H, W] in [0, 1]
    label: Labels  # [H, W]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Means over cases, for all and for either half by the original's CNR."""

    cases: int
    rows: dict[str, Scores]  # "all", "easy half", "difficult half"
    label_dice: dict[str, float]  # of the run's own label map against the truth
    gain_share: dict[str, float]  # enhanced gain over the ceiling's, by measure
    per_case: list[dict[str, Any]]
    about: dict[str, Any]  # which run, of what


def evaluate(run: Path, truth: Path, bundle: Path) -> Table:
    """Scores the done cases of `run`, whose images are on the frame.  Raises ArchiveError."""
    archive, group = open_archive(truth), zarr.open_group(truth, mode="r", use_consolidated=False)
    output = zarr.open_group(run / "images.zarr", mode="r", use_consolidated=False)
    known = load_bundle(bundle)
    for name in ("clean", "label"):
        if name not in group:
            raise ArchiveError(f"{truth}: has no {name!r}; only phantoms know their truth")
    _check_grid(run, output, archive, known)
    plan = load(known, Device(kind="cpu", index=0), batch=1)
    indices = np.flatnonzero(np.asarray(output["status"]) == 1)

    def scored(index: int) -> dict[str, Any] | None:
        return _case(int(index), archive, group, output, known, plan)

    with ThreadPoolExecutor(2) as threads:
        found = [x for x in threads.map(scored, indices) if x is not None]
    return summary(found, _about(run, group, known))


def _about(run: Path, group: Any, bundle: Bundle) -> dict[str, Any]:
    settings = json.loads((run / "run.json").read_text())["settings"]
    if settings["bundle"] != bundle.sha256:
        raise ArchiveError(
            f"{run}: was made with bundle {settings['bundle'][:12]}..., this one is "
            f"{bundle.sha256[:12]}...; name its own with --bundle"
        )
    kept = ("bundle", "solver", "ladder", "seed", "plan", "software")
    return {name: settings[name] for name in kept} | {"phantom": group.attrs.get("phantom")}


def _check_grid(run: Path, output: Any, archive: Archive, bundle: Bundle) -> None:
    frame = bundle.contract.frame
    expected = (archive.cases, frame.height, frame.width)
    if output["enhanced"].shape != expected:
        raise ArchiveError(
            f"{run}: images are {output['enhanced'].shape}, expected {expected}; evaluate a run of "
            "this archive and bundle made with `--grid frame`"
        )


def _case(
    index: int, archive: Archive, group: Any, output: Any, bundle: Bundle, plan: Plan
) -> dict[str, Any] | None:
    try:
        case = frame_case(archive.read(index), bundle.contract)
    except CaseError:
        return None
    truth = _truth(group, index, case, bundle)
    images = _methods(case, truth, _unit(output["enhanced"][index]))
    label = np.asarray(output["label"][index])
    return {
        "case": index,
        "difficult": bool(group["difficult"][index]) if "difficult" in group else None,
        "label_dice": mean_dice(label, truth.label),
        "methods": {name: _scores(x, case, truth, plan) for name, x in images.items()},
    }


def _unit(levels: npt.NDArray[Any]) -> Image:
    return np.asarray(levels, np.float32) / np.float32(255)


def _truth(group: Any, index: int, case: FramedCase, bundle: Bundle) -> Truth:
    frame, (y, x) = bundle.contract.frame, case.extent
    clean = np.asarray(group["clean"][index])[:y, :x]
    return Truth(
        clean=_unit(to_frame(clean, frame, black=0.0)),
        label=nearest_to_frame(np.asarray(group["label"][index])[:y, :x], frame),
    )


def _methods(case: FramedCase, truth: Truth, enhanced: Image) -> dict[str, Image]:
    unit = (case.depths + 1) / 2
    original = unit[case.optimal]
    mean = np.einsum("d,dhw->hw", case.weights, unit)
    denoised = _best_nlm(original, truth.clean, case)
    return dict(zip(METHODS, (original, mean, denoised, enhanced, truth.clean), strict=True))


def _best_nlm(image: Image, clean: Image, case: FramedCase) -> Image:
    """Non-local means of the original at the strength that the truth likes best: a hard floor."""
    from skimage.restoration import denoise_nl_means

    tried = [denoise_nl_means(image, patch_size=5, patch_distance=9, h=h) for h in NLM_STRENGTHS]
    best: Image = max(tried, key=lambda x: psnr(x, clean, case.strip))
    return np.where(case.strip, best, image).astype(np.float32)


def _scores(image: Image, case: FramedCase, truth: Truth, plan: Plan) -> dict[str, float]:
    s, b = regions(truth.label > 0, case.strip, case.spacing_mm[0])
    strip = case.strip[None, None].astype(np.float32)
    label = plan.relabel((image * 2 - 1)[None, None].astype(np.float32), strip)[0]
    return {
        "cnr": cnr(image, s, b),
        "snr": snr(image, s, b),
        "psnr": psnr(image, truth.clean, case.strip),
        "dice": mean_dice(label, truth.label),
    }


def summary(cases: list[dict[str, Any]], about: dict[str, Any]) -> Table:
    """Means for all and for the halves; the difficult half has the lower original CNR."""
    if not cases:
        raise ArchiveError("the run has no done case to evaluate; see `mcdiff-batch status`")
    order = sorted(cases, key=lambda x: x["methods"]["original"]["cnr"])
    half = len(order) // 2
    groups = {"all": order, "easy half": order[half:], "difficult half": order[:half] or order}
    rows = {name: _means(group) for name, group in groups.items()}
    gain = {m: _gain_share(rows["all"], m) for m in ("cnr", "snr")}
    label = {n: float(np.mean([x["label_dice"] for x in g])) for n, g in groups.items()}
    return Table(
        cases=len(cases),
        rows=rows,
        label_dice=label,
        gain_share=gain,
        per_case=cases,
        about=about,
    )


def _means(cases: list[dict[str, Any]]) -> Scores:
    def mean(method: str, measure: str) -> float:
        values: npt.NDArray[np.float64] = np.array([x["methods"][method][measure] for x in cases])
        finite = values[np.isfinite(values)]
        return float(finite.mean()) if len(finite) else float("nan")

    return {method: {m: mean(method, m) for m in MEASURES} for method in METHODS}


def _gain_share(rows: Scores, measure: str) -> float:
    """How much of the ceiling's gain over the original the enhanced image has."""
    floor, ceiling = rows["original"][measure], rows["clean target"][measure]
    return (rows["enhanced"][measure] - floor) / (ceiling - floor)


def as_json(table: Table) -> str:
    return json.dumps(_rounded(dataclasses.asdict(table)))


def _rounded(found: Any) -> Any:
    """Figures to four decimals; what is undefined is null."""
    if isinstance(found, dict):
        return {name: _rounded(x) for name, x in found.items()}
    if isinstance(found, list | tuple):
        return [_rounded(x) for x in found]
    if isinstance(found, float):
        return round(found, 4) if np.isfinite(found) else None
    return found


def as_text(table: Table) -> str:
    """The table for a person, 80 columns."""
    lines = [f"{table.cases} cases; dB on the frame under the true mask; PSNR to the clean target"]
    for name, rows in table.rows.items():
        lines += ["", f"{name:<28}{'CNR':>9}{'SNR':>9}{'PSNR':>9}{'Dice':>9}"]
        for method, row in rows.items():
            title = f"{method} ({ROLES[method]})" if ROLES[method] not in ("", method) else method
            lines.append(f"  {title:<26}" + "".join(f"{row[m]:9.2f}" for m in MEASURES))
        lines.append(f"  {'label map of the run':<26}{'':27}{table.label_dice[name]:9.2f}")
    cnr_share, snr_share = (f"{100 * table.gain_share[m]:.0f} %" for m in ("cnr", "snr"))
    lines += ["", f"share of the ceiling's gain: CNR {cnr_share}, SNR {snr_share}"]
    lines += ["Dice reads each image's pixels with the bundle's own extractor (not independent)."]
    return "\n".join(lines)
