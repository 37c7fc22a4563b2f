"""Scores images against the truth: enhanced beside original, floors and ceiling.

Everything is measured on the bundle's frame, to which every image is area-averaged, so an identity
"enhancement" gains exactly 0.  s and b are the bones of the truth and the 4.5 mm ring around them.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from mcdiff_batch.engine.archive.archive import Archive, open_archive
from mcdiff_batch.engine.errors import ArchiveError, CaseError, UsageError
from mcdiff_batch.engine.image.frame import Image
from mcdiff_batch.engine.model.contract import Bundle, load_bundle
from mcdiff_batch.train.segmenters.rater import SHIPPED, Rater, load_rater

from .agreement import Interval, Values, bootstrap
from .angles import Block, table_iv
from .draws import SpreadError, compare_spread, count_spread
from .rivals import CLEAN, ENHANCED, METHODS, ORIGINAL, methods
from .sources import Source, any_source, images_source, run_source
from .subject import NEEDED, VIEWS, Subject, measure_image, read_image, read_subject

MEASURES = (
    *("cnr_ln", "snr_ln", "cnr_log10", "snr_log10", "psnr", "ms_ssim", "dice"),
    *("thoracic_off", "lumbar_off", "lost", "invented"),
)
THREADS = 2

Record = dict[str, Any]  # one case
Means = dict[str, dict[str, float]]  # method -> measure -> mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Everything that the tables print, and every case."""

    cases: int
    about: dict[str, Any]
    methods: tuple[str, ...]  # rows of every table, in order
    against: tuple[str, ...]  # the methods of --against
    groups: dict[str, Means]  # "all", halves by the original's CNR, the phantom's "difficult"
    sizes: dict[str, int]  # cases of each group
    spread_of: Means  # standard deviations over all cases
    likeness: dict[str, dict[str, dict[str, list[float]]]]  # view -> method -> measure -> [D]
    angles: list[Block]  # table IV
    gain_share: dict[str, Interval]  # share of the ceiling's gain in CNR and SNR
    identity_gain: dict[str, float]  # 20 ln: gain of the original, stored in 8 bit
    label_dice: float | None  # Dice of the run's own label map
    draws: SpreadError | None  # of the spread, where a run stored it
    per_case: list[Record]


def evaluate(
    truth: Path,
    bundle: Path,
    *,
    run: Path | None = None,
    images: Path | None = None,
    second: Path | None = None,
    against: tuple[Path, ...] = (),
    raters: tuple[Path, ...] = SHIPPED,
) -> Evaluation:
    """Scores a run or any method's images.  second: the same with another noise seed.

    against: runs or images of other methods on the same archive, each a row named like its path;
    cases that one of them lacks are left out.  Raises ArchiveError, BundleError, UsageError.
    """
    archive, opened = open_archive(truth), load_bundle(bundle)
    group = zarr.open_group(truth, mode="r", use_consolidated=False)
    for name in NEEDED:
        if name not in group:
            raise ArchiveError(
                f"{truth}: has no {name!r}; expected phantoms, made by `mcdiff-batch phantom`"
            )
    scoring = _Scoring(
        archive=archive,
        truth=group,
        bundle=opened,
        source=_source(run or images, run is not None, archive, opened),
        second=_source(second, run is not None, archive, opened) if second else None,
        against={path.stem: any_source(path, archive) for path in against},
        raters=(load_rater(raters[0]), load_rater(raters[1])),
    )
    if scoring.second:
        _check_second(scoring.source, scoring.second)
    _check_names(against)
    with ThreadPoolExecutor(THREADS) as threads:
        records = [x for x in threads.map(scoring.record, scoring.cases) if x is not None]
    return summarise(records, _about(scoring))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scoring:
    archive: Archive
    truth: Any
    bundle: Bundle
    source: Source
    second: Source | None
    against: dict[str, Source]  # by name
    raters: tuple[Rater, Rater]

    @property
    def cases(self) -> list[int]:
        """The cases that every method has an image of."""
        available = (x.cases for x in self.against.values())
        return sorted(set(self.source.cases).intersection(*available))

    def record(self, index: int) -> Record | None:
        """All figures of one case; None if the archive's data are bad."""
        try:
            case = read_subject(self.archive, self.truth, index, self.bundle.contract)
        except CaseError:
            return None
        frame = self.bundle.contract.frame
        enhanced = self.source.image(index, frame)
        others = {name: x.image(index, frame) for name, x in self.against.items()}
        shown = methods(case.case, case.truth.clean, others, enhanced)
        scores = {name: measure_image(case, image, self.raters) for name, image in shown.items()}
        return {
            "case": index,
            "difficult": case.truth.difficult,
            "angles_deg": case.truth.angles_deg,
            "methods": scores,
            "identity_gain": _identity_gain(case, shown[ORIGINAL]),
            **self._more(index, case, enhanced),
        }

    def _more(self, index: int, case: Subject, enhanced: Image) -> Record:
        frame, extra = self.bundle.contract.frame, dict[str, Any]()
        if self.second and index in self.second.cases:
            again = self.second.image(index, frame)
            extra["second"] = read_image(case, again, self.raters[0])
        if self.source.label:
            extra["label_dice"] = case.label_dice(self.source.label(index, frame))
        if self.source.spread:
            spread = self.source.spread(index, frame)
            off = np.abs(enhanced - case.truth.clean)
            extra["spread"] = count_spread(spread, off, case.case.strip)
        return extra


def _identity_gain(case: Subject, original: Image) -> dict[str, float]:
    """The gain of the original when it is stored as a run stores its images, in 8 bit."""
    stored = np.asarray(np.round(original * 255) / 255, np.float32)
    before, after = case.contrast(original), case.contrast(stored)
    return {name: after[f"{name}_ln"] - before[f"{name}_ln"] for name in ("cnr", "snr")}


def _source(path: Path | None, is_run: bool, archive: Archive, bundle: Bundle) -> Source:
    if path is None:
        raise UsageError("give a run or images to evaluate")
    return run_source(path, archive, bundle) if is_run else images_source(path, archive)


def _check_second(first: Source, second: Source) -> None:
    same = first.about.get("seed") == second.about.get("seed") and "seed" in first.about
    if same or first.path.resolve() == second.path.resolve():
        raise UsageError(
            f"{second.path}: has the same noise; give a run with another --seed as --second"
        )


def _check_names(against: tuple[Path, ...]) -> None:
    names = [*METHODS, *(x.stem for x in against)]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(
                f"--against: two rows would be named {name!r}; rename one of the paths"
            )


def _about(scoring: _Scoring) -> dict[str, Any]:
    frame = scoring.bundle.contract.frame
    return {
        **scoring.source.about,
        "frame": asdict(frame),
        "phantom": scoring.truth.attrs.get("phantom"),
        "archive": scoring.archive.identity,
        "cases_of_the_archive": scoring.archive.cases,
        "raters": [rater.about for rater in scoring.raters],
        "against": {name: x.about for name, x in scoring.against.items()},
    }


def summarise(records: list[Record], about: dict[str, Any]) -> Evaluation:
    """Means and intervals over the cases; the difficult half has the lower original CNR."""
    if not records:
        raise ArchiveError("no case has an image to evaluate; see `mcdiff-batch status`")
    groups, rows = _groups(records), tuple(records[0]["methods"])
    label = [x["label_dice"] for x in records if "label_dice" in x]
    return Evaluation(
        cases=len(records),
        about=about,
        methods=rows,
        against=tuple(x for x in rows if x not in METHODS),
        groups={name: _over(members, np.mean) for name, members in groups.items()},
        sizes={name: len(members) for name, members in groups.items()},
        spread_of=_over(records, np.std),
        likeness={view: {m: _likeness(records, view, m) for m in rows} for view in VIEWS},
        angles=table_iv(records),
        gain_share={name: _gain_share(records, f"{name}_ln") for name in ("cnr", "snr")},
        identity_gain={
            name: float(np.nanmean([x["identity_gain"][name] for x in records]))
            for name in ("cnr", "snr")
        },
        label_dice=float(np.mean(label)) if label else None,
        draws=compare_spread([x["spread"] for x in records if "spread" in x]),
        per_case=records,
    )


def _groups(records: list[Record]) -> dict[str, list[Record]]:
    order = sorted(records, key=lambda x: x["methods"][ORIGINAL]["cnr_ln"])
    half = len(order) // 2
    groups = {"all cases": order, "easy half": order[half:], "difficult half": order[:half]}
    groups["graded difficult"] = [x for x in order if x["difficult"]]
    return {name: members for name, members in groups.items() if members}


def _column(records: list[Record], method: str, measure: str) -> Values:
    return np.array([x["methods"][method][measure] for x in records], np.float64)


def _over(records: list[Record], statistic: Any) -> Means:
    """A statistic over the finite values: equal images have no PSNR, unread angles no error."""

    def one(method: str, measure: str) -> float:
        values = _column(records, method, measure)
        finite = values[np.isfinite(values)]
        return float(statistic(finite)) if len(finite) else float("nan")

    return {method: {m: one(method, m) for m in MEASURES} for method in records[0]["methods"]}


def _likeness(records: list[Record], view: str, method: str) -> dict[str, list[float]]:
    """The mean likeness to each depth [D]; PSNR leaves out a depth compared with itself."""
    means = {}
    for measure in ("ms_ssim", "psnr"):
        table = np.array([x["methods"][method]["depths"][view][measure] for x in records])
        finite = [column[np.isfinite(column)] for column in table.T]
        means[measure] = [float(x.mean()) if len(x) else float("nan") for x in finite]
    return means


def _gain_share(records: list[Record], measure: str) -> Interval:
    """The enhanced images' share of the ceiling's mean gain over the original."""
    columns = np.stack([_column(records, m, measure) for m in (ORIGINAL, ENHANCED, CLEAN)], axis=1)
    columns = columns[np.isfinite(columns).all(axis=1)]
    share = lambda x: (x[..., 1] - x[..., 0]) / (x[..., 2] - x[..., 0])
    return bootstrap(columns, share)
