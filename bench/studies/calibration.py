"""Compares the phantom with what is known of real images: one row per target.

Contrast is measured as in the product, on a frame of 512 x 128 px, bone against the ring of 4.5 mm
around it; in 20 ln, as in the paper.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from time import perf_counter

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mcdiff_batch.engine.image.frame import Frame, Image, Mask, nearest_to_frame, place, to_frame
from mcdiff_batch.engine.telemetry.machine import machine
from mcdiff_batch.train.phantom.anatomy import LUMP, PROCESS, RIB, THORACIC, anatomy
from mcdiff_batch.train.phantom.case import GRADES, SPACING_MM, VERSION, Phantom, lost_rows, phantom
from mcdiff_batch.train.phantom.texture import stream

from .sheet import contact_sheet as contact_sheet
from .targets import PERCENTILES, TARGETS, Target

FRAME = Frame(height=512, width=128)
MARGIN_MM, RING_MM = 1.0, 4.5  # b is a ring behind a margin around the bone
TOLERANCE = 0.15
SMALLEST = 150  # px of the box of a blob that counts
FAR_FROM_EDGE = 6  # px
LAGS = (1, 2, 3, 6)  # px of 0.45 mm; 2 to 15 px of the real image
COARSE, FINE = 17, 3  # px, boxes of the high passes; 41 and 7 px of the real image
KINDS = {"process": PROCESS, "rib": RIB, "lump": LUMP}
Labels = npt.NDArray[np.uint8]
Values = dict[str, float]
STATISTICS: dict[str, Callable[[npt.NDArray[np.float64]], float]] = {
    "mean": lambda x: float(np.nanmean(x)),
    "sd": lambda x: float(np.nanstd(x)),
    "least": lambda x: float(np.nanmin(x)),
}


def calibrate(cases: int, seed: int) -> dict[str, object]:
    """Measures every target over the optimal depths of `cases` phantoms."""
    started = perf_counter()
    with ProcessPoolExecutor() as pool:
        values = list(pool.map(partial(_measure, seed), range(cases), chunksize=4))
    return {
        "what": "phantom calibration",
        "phantom": {"version": VERSION, "seed": seed, "cases": cases},
        "tolerance": TOLERANCE,
        "runs": [_row(target, _values(target, values)) for target in TARGETS],
        "drawn_per_second_and_process": round(cases / sum(x["seconds"] for x in values), 2),
        "seconds": round(perf_counter() - started, 1),
        "machine": machine(),
    }


def _values(target: Target, values: Sequence[Values]) -> npt.NDArray[np.float64]:
    of_grade = [x for x in values if target.grade == "all" or x[target.grade]]
    return np.array([x.get(target.measure, np.nan) for x in of_grade] or [np.nan])


def _row(target: Target, values: npt.NDArray[np.float64]) -> dict[str, object]:
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    measured = STATISTICS["mean" if target.of == "spans" else target.of](values)
    within = abs(measured / target.value - 1) <= TOLERANCE
    if target.of == "spans":
        within = low <= target.value <= high
    row = {
        "target": target.name,
        "unit": target.unit,
        "of": target.of,
        "cases": target.grade,
        "wanted": target.value,
        "measured": round(measured, 4),
        "range": [round(low, 4), round(high, 4)],
        "within": within,
        "source": target.source,
    }
    return row if within or not target.reason else row | {"reason": target.reason}


def _measure(seed: int, index: int) -> Values:
    started = perf_counter()
    case = phantom(seed, index)
    values = {"seconds": perf_counter() - started}
    image, inside = case.depths[case.optimal_depth], case.clean > 0
    values |= describe(image, case.label, inside) | _from_truth(seed, index, case, image)
    return values | _dashes(seed, index, case)


def describe(image: Labels, label: Labels, inside: Mask) -> Values:
    """Measures a labelled image [y, x] of 0.45 mm px and grey levels 0..255."""
    values = contrasts(image, label, inside) | _strip_shape(inside) | _texture(image, label, inside)
    for name, kind in KINDS.items():
        values |= _sizes(name, label == kind)
        values[f"{name}_mean"] = float(image[(label == kind) & inside].mean())
    levels = np.percentile(image[inside], list(PERCENTILES))
    values |= {f"percentile_{p}": float(v) for p, v in zip(PERCENTILES, levels, strict=True)}
    return values | {
        "frame_mean": float(image.mean()),
        "frame_sd": float(image.std()),
        "strip_mean": float(image[inside].mean()),
        "strip_sd": float(image[inside].std()),
        "tissue_mean": float(image[inside & (label == 0)].mean()),
        "bone_share": float(np.mean(label[inside] > 0)),
    }


def contrasts(image: Labels, label: Labels, inside: Mask) -> Values:
    """CNR and SNR in 20 ln of all bone, CNR of each kind, and the area under the ROC curve."""
    level = to_frame(image / np.float32(255), FRAME, 0)
    bones = nearest_to_frame(label, FRAME)
    strip = np.asarray(to_frame(inside, FRAME, 0) > 0.99)
    spacing = SPACING_MM / place(image.shape, FRAME).scale
    distance = ndimage.distance_transform_edt(bones == 0) * spacing
    far = strip & (distance > MARGIN_MM)
    s, b = strip & (bones > 0), far & (distance <= MARGIN_MM + RING_MM)
    values = {"cnr": _cnr(level, s, b), "snr": _snr(level, s, b), "auc": _auc(level, s, strip & ~s)}
    for name, kind in KINDS.items():
        near = ndimage.distance_transform_edt(bones != kind) * spacing <= MARGIN_MM + RING_MM
        values[f"{name}_cnr"] = _cnr(level, strip & (bones == kind), far & near)
    return values


def _cnr(image: Image, s: Mask, b: Mask) -> float:
    """Eq. 13."""
    apart = abs(float(image[s].mean()) - float(image[b].mean()))
    return float(20 * np.log(apart / np.hypot(image[s].std(), image[b].std())))


def _snr(image: Image, s: Mask, b: Mask) -> float:
    """Eq. 12."""
    return float(20 * np.log((1 - image[s].mean()) / image[b].std()))


def _auc(image: Image, bone: Mask, background: Mask) -> float:
    """The chance that a px of the background is brighter than a px of bone."""
    values = np.concatenate([image[bone], image[background]])
    ranks = np.empty(len(values))
    ranks[np.argsort(values, kind="stable")] = np.arange(1, len(values) + 1)
    n, m = int(bone.sum()), int(background.sum())
    return float(1 - (ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def _strip_shape(inside: Mask) -> Values:
    rows = inside[inside.sum(1) > 20]
    left = rows.argmax(1).astype(float)
    wavy = left - ndimage.gaussian_filter1d(left, 40, mode="nearest")
    return {
        "strip_width": float(np.median(rows.sum(1))) * SPACING_MM,
        "edge_sd": float(wavy.std()) * SPACING_MM,
    }


def _texture(image: Labels, label: Labels, inside: Mask) -> Values:
    """The tissue away from the edge: correlations by lag, roughness, jitter of the rows."""
    far = ndimage.distance_transform_edt(inside) > FAR_FROM_EDGE
    where = inside & (label == 0) & (image > 0) & far
    level = image.astype(np.float32)
    values = dict(
        _correlations(_high_pass(level, where, COARSE), where, "across_{}", "along_{}", LAGS)
    )
    values |= _correlations(
        _high_pass(level, where, FINE), where, "fine_across", "fine_along", (1,)
    )
    values |= _roughness(level, where)
    rows = np.array([level[y][where[y]].mean() for y in np.flatnonzero(where.sum(1) > 40)])
    jitter = rows - ndimage.median_filter(rows, 9)
    return values | {"row_jitter": float(jitter.std() / rows.mean())}


def _high_pass(level: Image, where: Mask, box: int) -> Image:
    """The image less the local mean of the tissue `where` over a box [px]."""
    share = np.maximum(ndimage.uniform_filter(where.astype(np.float32), box), 1e-3)
    return np.asarray(level - ndimage.uniform_filter(level * where, box) / share)


def _correlations(
    level: Image, where: Mask, across: str, along: str, lags: Sequence[int]
) -> Iterator[tuple[str, float]]:
    power = float((level[where] ** 2).mean())
    for lag in lags:
        for name, a, b, both in (
            (across, level[:, lag:], level[:, :-lag], where[:, lag:] & where[:, :-lag]),
            (along, level[lag:], level[:-lag], where[lag:] & where[:-lag]),
        ):
            yield name.format(lag), float((a * b)[both].mean()) / power


def _roughness(level: Image, where: Mask) -> Values:
    across = (level[:, 2:] - 2 * level[:, 1:-1] + level[:, :-2])[where[:, 1:-1]]
    along = (level[2:] - 2 * level[1:-1] + level[:-2])[where[1:-1]]
    mean = ndimage.uniform_filter(level, FINE)
    spread = np.sqrt(np.maximum(ndimage.uniform_filter(level**2, FINE) - mean**2, 0.01))
    return {
        "second_across": float(np.sqrt(np.mean(across**2))),
        "second_along": float(np.sqrt(np.mean(along**2))),
        "local": float(np.median((mean / spread)[where])),
    }


def _sizes(name: str, bone: Mask) -> Values:
    boxes = ndimage.find_objects(ndimage.label(bone)[0])
    sides = np.array([(y.stop - y.start, x.stop - x.start) for y, x in boxes])
    high, wide = np.median(sides[sides.prod(1) > SMALLEST], axis=0) * SPACING_MM
    return {f"{name}_height": float(high), f"{name}_width": float(wide)}


def _from_truth(seed: int, index: int, case: Phantom, image: Labels) -> Values:
    """Values that come from the phantom's truth."""
    marks = case.landmarks[:THORACIC].astype(np.float64)
    apart = np.linalg.norm(marks[:, 1] - marks[:, 0], axis=1)
    clean = contrasts(case.clean, case.label, case.clean > 0)
    return _midline(seed, index, image) | {
        "pair_distance": float(np.nanmedian(apart)) * SPACING_MM,
        "pitch": float(np.nanmedian(np.diff(marks[..., 0].mean(1)))) * SPACING_MM,
        "clean_cnr": clean["cnr"],
        "clean_snr": clean["snr"],
        "free": float(case.artifact_free),
        "easy": float(case.artifact_free),
        "difficult": float(case.difficult),
        "cobb": float(np.nanmax(case.angles_deg)),
    }


def _midline(seed: int, index: int, image: Labels) -> Values:
    """The midline's full width at half minimum, mm, and depth: medians over blocks of 30 rows."""
    body = anatomy(stream(seed, index, "anatomy"))
    last = int(body.spine.row[body.spine.thoracic()][-1]) - 40
    profiles = []
    for top in range(60, last, 40):
        middle = int(body.spine.midline[top + 15])
        columns = image[top : top + 30, max(0, middle - 30) : middle + 31].astype(np.float32)
        profiles.append(ndimage.gaussian_filter1d(columns.mean(0), 2))
    widths = [_full_width(profile) for profile in profiles]
    depths = [profile[15:-15].min() / profile.max() for profile in profiles]
    return {"valley_width": float(np.median(widths)) * SPACING_MM, "midline": _median(depths)}


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))


def _full_width(profile: Image) -> int:
    low = int(np.argmin(profile[15:-15])) + 15
    half = (profile[low] + min(profile[: low + 1].max(), profile[low:].max())) / 2
    left = low - int(np.argmax(profile[low::-1] >= half))
    return low + int(np.argmax(profile[low:] >= half)) - left


def _dashes(seed: int, index: int, case: Phantom) -> Values:
    """The share of the strip that dashes cover, and the lengths of their runs along a row, mm."""
    if case.artifact_free:
        return {"lost": 0.0}
    inside = case.clean > 0
    gain = lost_rows(stream(seed, index, "defects"), case.extent, GRADES[1 + case.difficult])
    ends = np.diff(np.pad((gain < 1) & inside, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    runs = np.nonzero(ends == -1)[1] - np.nonzero(ends == 1)[1]
    values = {"lost": float(np.mean(1 - gain[inside]))}
    if not len(runs):
        return values
    return values | {
        "dash_median": float(np.median(runs)) * SPACING_MM,
        "dash_p90": float(np.quantile(runs, 0.9)) * SPACING_MM,
    }
