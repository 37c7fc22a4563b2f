"""Targets for the phantom: what is known of real VPI images.

They are facts of one real image, reduced to the phantom's grid and measured by `calibration`, and
figures of the paper's tables.
"""

from dataclasses import dataclass

PERCENTILES = {1: 5, 5: 16, 25: 67, 50: 130, 75: 194, 95: 243, 99: 253}
ACROSS = {1: 0.858, 2: 0.681, 3: 0.546, 6: 0.245}  # autocorrelation of the real image
ALONG = {1: 0.694, 2: 0.573, 3: 0.454, 6: 0.238}
ONE = "a fact of one image (n = 1), within the range of the phantom's cases"
WIDER = "wider on purpose: the easy grade is near its target, the difficult one near the real image"
DRAWN = "not tuned: the spread of the bodies, tissues and tone curves that are drawn"
DARKEST = "not tuned further: two to four grey levels of 255"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A target value, and what of the phantom's cases is compared with it.

    of: the "mean", the "sd" or the "least" of the cases; "spans": the value must lie between the
    least case and the greatest.
    """

    name: str
    unit: str
    value: float
    source: str  # "image": the real one; "paper"; "cohort": published Scolioscan cohorts; "design"
    measure: str
    of: str = "mean"
    grade: str = "all"  # cases: "all", "easy" or "difficult"
    reason: str = ""  # why it may be missed


def _image(name: str, unit: str, value: float, measure: str, reason: str = "") -> Target:
    return Target(name=name, unit=unit, value=value, source="image", measure=measure, reason=reason)


def _hard(name: str, value: float, measure: str, of: str = "mean", reason: str = "") -> Target:
    """A fact of the real image, which is a difficult case."""
    return Target(
        name=name,
        unit="",
        value=value,
        source="image",
        measure=measure,
        of=of,
        grade="difficult",
        reason=reason,
    )


def _paper(name: str, value: float, measure: str, of: str = "mean", reason: str = "") -> Target:
    return Target(
        name=name, unit="20 ln", value=value, source="paper", measure=measure, of=of, reason=reason
    )


def _cohort(name: str, value: float, of: str) -> Target:
    return Target(name=name, unit="deg", value=value, source="cohort", measure="cobb", of=of)


CONTRAST = (
    _paper("CNR, original", 9.17, "cnr"),
    _paper("CNR, original, sd", 2.54, "cnr", "sd", WIDER),
    _paper("SNR, original", 26.78, "snr"),
    _paper("SNR, original, sd", 1.72, "snr", "sd", WIDER),
    _paper("CNR, clean target", 16.87, "clean_cnr"),
    _paper("CNR, clean target, sd", 0.65, "clean_cnr", "sd", DRAWN),
    _paper("SNR, clean target", 33.96, "clean_snr"),
    _paper("SNR, clean target, sd", 1.72, "clean_snr", "sd", DRAWN),
    Target(
        name="CNR, easy original",
        unit="20 ln",
        value=14,
        source="design",
        measure="cnr",
        grade="easy",
    ),
    _hard("CNR of all bone, 20 ln", -1.8, "cnr", "spans"),
    _hard("CNR of lumps, 20 ln", 2.1, "lump_cnr", "spans"),
    _hard("CNR of ribs, 20 ln", 6.4, "rib_cnr", "spans"),
    _hard("CNR of processes, 20 ln", -1.0, "process_cnr", "spans"),
    _hard("SNR, 20 ln", 19.6, "snr", "spans"),
    _hard("area under the ROC curve, bone against the rest", 0.70, "auc", "spans"),
)
TONE = (
    _hard("whole image, mean", 76, "frame_mean"),
    _hard("whole image, sd", 84, "frame_sd"),
    _hard("strip, mean", 130, "strip_mean"),
    _hard("strip, sd", 73, "strip_sd"),
    *(
        _hard(f"strip, percentile {p}", v, f"percentile_{p}", reason=DARKEST if p < 25 else "")
        for p, v in PERCENTILES.items()
    ),
    _hard("tissue, mean", 150, "tissue_mean"),
    _hard("ribs, mean", 101, "rib_mean"),
    _hard("processes, mean", 134, "process_mean"),
    _hard("lumps, mean", 63, "lump_mean", reason=ONE),
    _hard("midline over the tissue beside it", 0.28, "midline"),
)
TEXTURE = (
    *(
        _hard(f"correlation across at {k} px", v, f"across_{k}", reason=ONE)
        for k, v in ACROSS.items()
    ),
    *(_hard(f"correlation along at {k} px", v, f"along_{k}", reason=ONE) for k, v in ALONG.items()),
    _hard("finest, correlation across", 0.562, "fine_across"),
    _hard("finest, correlation along", -0.377, "fine_along", reason=ONE),
    _hard("second difference across, rms", 10.9, "second_across"),
    _hard("second difference along, rms", 20.7, "second_along", reason=ONE),
    _hard("local mean over local sd", 18.9, "local"),
    _hard("row gain jitter", 0.023, "row_jitter"),
    _hard("px lost to dashes, share of the strip", 0.0044, "lost", reason=ONE),
    _image("dashes, median length", "mm", 0.9, "dash_median"),
    _image("dashes, 90th percentile", "mm", 3.8, "dash_p90"),
)
SHAPES = (
    _image("strip width", "mm", 70.7, "strip_width"),
    _image("waviness of the strip's edge, sd", "mm", 3.07, "edge_sd", ONE),
    _image("transverse process, height", "mm", 15.5, "process_height"),
    _image("transverse process, width", "mm", 14.0, "process_width"),
    _image("left to right process", "mm", 41.0, "pair_distance"),
    _image("level pitch, thoracic", "mm", 24.1, "pitch"),
    _image("rib, height in the strip", "mm", 14.9, "rib_height"),
    _image("rib, width in the strip", "mm", 14.2, "rib_width"),
    _image("lumbar lump, height", "mm", 24.1, "lump_height"),
    _image("lumbar lump, width", "mm", 49.7, "lump_width"),
    _image("bone's share of the strip", "", 0.366, "bone_share"),
    _image("midline valley, FWHM, thoracic", "mm", 9.9, "valley_width"),
)
COHORTS = (
    Target(name="artifact-free", unit="share", value=0.35, source="paper", measure="free"),
    _cohort("Cobb angle", 24.8, "mean"),
    _cohort("Cobb angle, sd", 9.7, "sd"),
    _cohort("Cobb angle, least", 10, "least"),
)
TARGETS = CONTRAST + TONE + TEXTURE + SHAPES + COHORTS
