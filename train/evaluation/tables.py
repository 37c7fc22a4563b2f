"""The evaluation as text of 100 columns, or as JSON."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from . import paper
from .agreement import Agreement
from .angles import INTER, INTRA
from .bars import FEWEST, TOO_FEW, Bar, bars
from .evaluate import Evaluation
from .rivals import CLEAN, ENHANCED, FLOORS, ORIGINAL

ROLES = dict.fromkeys(FLOORS, " (floor)") | {CLEAN: " (ceiling)"}
NAME = 25  # columns for the name of a row
TITLE = 49  # columns for the title of a bar
PAPERS = ("cnr_ln", "snr_ln")  # in the paper's logarithm
PAPER_TABLE_III = {"original": paper.ORIGINAL, "enhanced": paper.ENHANCED}
PAPER_ANGLES = {INTRA: paper.INTRA_RATER, INTER: paper.INTER_RATER}


def as_json(evaluation: Evaluation) -> str:
    """One document: every table, every bar, every case, and the paper's figures."""
    document = asdict(evaluation)
    document["bars"] = [asdict(x) | {"verdict": x.verdict} for x in bars(evaluation)]
    document["paper"] = paper.figures()
    for record in document["per_case"]:
        for name in ("px", "squares"):
            record.get("spread", {}).pop(name, None)
    return json.dumps(round_figures(document))


def round_figures(value: Any) -> Any:
    """Rounds all figures of a document to four decimals; undefined ones become null."""
    if isinstance(value, dict):
        return {name: round_figures(x) for name, x in value.items()}
    if isinstance(value, list | tuple):
        return [round_figures(x) for x in value]
    if isinstance(value, float):
        return round(value, 4) if np.isfinite(value) else None
    return value


def as_text(evaluation: Evaluation) -> str:
    """The tables, for a person."""
    parts = (_head, _against_truth, _table_ii, _table_iii, _table_iv, _draws, _bars)
    return "\n".join(line.rstrip() for part in parts for line in part(evaluation))


def _head(evaluation: Evaluation) -> Iterator[str]:
    about, frame = evaluation.about, evaluation.about["frame"]
    phantom = about["phantom"] or {}
    what = f"images {about['images']}" if "images" in about else f"a run with seed {about['seed']}"
    yield f"{evaluation.cases} of {about['cases_of_the_archive']} cases, {what}"
    seed, version = (phantom.get(name, "unknown") for name in ("seed", "version"))
    yield f"phantom seed {seed}, version {version}"
    yield f"every image area-averaged to one grid, {frame['height']} x {frame['width']} px"
    for name, rater in zip("AB", about["raters"], strict=True):
        of = f"trained on phantom seed {rater.get('phantom_seed', 'unknown')}"
        yield f"rater {name}: {of}; Dice {rater.get('dice_original', '?')} on held-out originals"
    yield "floor: what any enhancement must beat; ceiling: the clean target itself"


def _against_truth(evaluation: Evaluation) -> Iterator[str]:
    yield from _title("AGAINST THE TRUTH, means; CNR and SNR in dB (20 log10)")
    columns = {
        "cnr_log10": ("CNR", 8, 2),
        "snr_log10": ("SNR", 8, 2),
        "psnr": ("PSNR", 8, 2),
        "ms_ssim": ("MS-SSIM", 9, 3),
        "dice": ("Dice", 7, 3),
        "thoracic_off": ("thor. deg", 11, 2),
        "lumbar_off": ("lumb. deg", 10, 2),
        "lost": ("lost", 6, 2),
        "invented": ("inv.", 7, 2),
    }
    heads = "".join(f"{title:>{width}}" for title, width, _ in columns.values())
    for group, means in evaluation.groups.items():
        yield f"{f'{group} ({evaluation.sizes[group]})':<{NAME}}{heads}"
        for method in evaluation.methods:
            row = means[method]
            cells = (_number(row[x], width, digits) for x, (_, width, digits) in columns.items())
            yield _row(_name(method), *cells)
        yield ""
    yield "thor., lumb.: error of the curve angle; lost, inv.: vertebral levels a case"
    if evaluation.label_dice is not None:
        yield f"the run's own label map has Dice {evaluation.label_dice:.3f}"


def _table_ii(evaluation: Evaluation) -> Iterator[str]:
    yield from _title("TABLE II, likeness to the original of each depth, superficial to deep")
    depths = len(evaluation.likeness["strip"][ENHANCED]["psnr"])
    heads = [*(f"d={d + 1}" for d in range(depths)), "mean"]
    both = "".join(f"{x:>6}" for x in heads) + "  " + "".join(f"{x:>6}" for x in heads)
    views = {"strip": "the strip's bounding box", "square": "letterboxed 256 x 256"}
    yield _row("", f"{'MS-SSIM':>{6 * len(heads)}}", f"{'PSNR, dB':>{6 * len(heads) + 2}}")
    for view, title in views.items():
        yield f"{title:<{NAME}}{both}"
        for method in evaluation.methods:
            row = evaluation.likeness[view][method]
            yield _row(_name(method), *_likeness(row["ms_ssim"], row["psnr"]))
    yield _row("paper, enhanced", *_likeness(paper.MS_SSIM, paper.PSNR))
    best = paper.RIVAL_MEANS
    yield f"paper, best rival: mean {best['ms_ssim']:.2f} and {best['psnr']:.2f} dB"
    yield "PSNR leaves out a case's depth that is the very image"


def _likeness(similar: Sequence[float], peak: Sequence[float]) -> Iterator[str]:
    for figures, gap in ((similar, ""), (peak, "  ")):
        yield gap + "".join(_number(x, 6, 2) for x in (*figures, sum(figures) / len(figures)))


def _table_iii(evaluation: Evaluation) -> Iterator[str]:
    yield from _title(
        "TABLES III AND V, mean (sd), in the paper's 20 ln and in dB (20 log10); gains in 20 ln"
    )
    means, sds = evaluation.groups["all cases"], evaluation.spread_of
    titles = ("CNR, 20 ln", "SNR, 20 ln", "CNR, dB", "SNR, dB", "gain CNR", "SNR")
    yield _row("", *(f"{x:>{w}}" for x, w in zip(titles, (14, 14, 14, 14, 9, 8), strict=True)))
    for method in evaluation.methods:
        row = means[method]
        cells = (_both(row[x], sds[method][x]) for x in (*PAPERS, "cnr_log10", "snr_log10"))
        yield _row(_name(method), *cells, *_gains(row, means[ORIGINAL]))
    original = {x: paper.ORIGINAL[x][0] for x in PAPERS}
    for name, pairs in PAPER_TABLE_III.items():
        gains = _gains({x: pairs[x][0] for x in PAPERS}, original)
        yield _row(f"paper, {name}", *(_both(*pairs[x]) for x in PAPERS), " " * 28, *gains)
    for name, figures in paper.TABLE_V.items():
        cells = (f"{figures[x]:>7.2f}{'':7}" for x in PAPERS)
        yield _row(f"paper, {name}", *cells, " " * 28, *_gains(figures, original))
    yield "background: the 4.5 mm around the bone; 20 ln is 2.3 times 20 log10, and the paper's dB"


def _gains(row: Mapping[str, float], original: Mapping[str, float]) -> Iterator[str]:
    for name, width in zip(PAPERS, (9, 8), strict=True):
        yield f"{row[name] - original[name]:>+{width}.2f}"


def _both(mean: float, sd: float) -> str:
    return f"{f'{mean:.2f} ({sd:.2f})':>14}"


def _table_iv(evaluation: Evaluation) -> Iterator[str]:
    yield from _title("TABLE IV, ultrasound curve angle: ICC(A,1) with 95 % interval; degrees")
    heads = f"{'n':>4}{'ICC':>20}{'MAD':>6}{'SEM':>7}"
    yield _row("", f"{'thoracic':>24}{'':13}", f"{'lumbar':>24}")
    for block in evaluation.angles:
        yield _row(block.title, heads, heads)
        for method, pair in block.rows.items():
            yield _row(_name(method), *(_agreement(x) for x in pair))
        for image, figures in PAPER_ANGLES.get(block.title, {}).items():
            yield _row(f"paper, {image}", *(_figures(x) for x in figures))
        yield ""
    if evaluation.about.get("temperature") == 0:
        yield "the run's temperature is 0: another noise seed changes nothing"
    elif not any(block.title == INTRA for block in evaluation.angles):
        yield "intra-rater rows need a run with another noise seed, as --second"
    yield "n: cases in which both angles could be read"


def _agreement(agreement: Agreement) -> str:
    icc = agreement.icc
    return _cells(
        str(agreement.cases), (icc.value, icc.low, icc.high, agreement.mad, agreement.sem)
    )


def _figures(angles: paper.Angles) -> str:
    return _cells("", angles)


def _cells(cases: str, figures: Sequence[float]) -> str:
    icc, low, high, mad, sem = figures
    interval = f"{icc:.2f} ({low:.2f}..{high:.2f})"
    return f"{cases:>4}{interval:>20}{mad:>6.2f}{sem:>7.2f}"


def _draws(evaluation: Evaluation) -> Iterator[str]:
    draws = evaluation.draws
    if draws is None:
        return
    yield from _title("SPREAD OVER DRAWS against true error, grey levels of 255")
    rhos = f"over the px of a case {draws.per_px:.2f}, over cases {draws.per_case:.2f}"
    yield f"Spearman's rho: {rhos}"
    yield _row("tenths of px by spread", *(f"{x:>7.1f}" for x in draws.spread))
    yield _row("  rms error", *(f"{x:>7.1f}" for x in draws.error))


def _bars(evaluation: Evaluation) -> Iterator[str]:
    yield from _title("BARS")
    yield f"{'':{TITLE}}{'measured':>19}{'bar':>9}{'stretch':>9}"
    for bar in bars(evaluation):
        limits = ["" if x is None else f"{bar.sign}{x:g}" for x in (bar.bar, bar.stretch)]
        yield f"{bar.title:<{TITLE}}{_measured(bar):>19}{limits[0]:>9}{limits[1]:>9}  {bar.verdict}"
    if evaluation.cases < FEWEST:
        yield f"{TOO_FEW}: a verdict needs {FEWEST} cases; with fewer, chance alone moves the gain"
        yield "in CNR by more than half of what is between bar and stretch bar (95 % interval)"
    yield "Table V's order takes runs of three bundles: one as --run, the others as --against"


def _measured(bar: Bar) -> str:
    value = f"{bar.measured:.{bar.digits}f}"
    if bar.interval is None:
        return value
    low, high = (f"{x:.{bar.digits}f}" for x in bar.interval)
    return f"{value} ({low}..{high})"


def _title(text: str) -> Iterator[str]:
    yield ""
    yield text
    yield "-" * len(text)


def _name(method: str) -> str:
    return f"  {method}{ROLES.get(method, '')}"[:NAME]


def _row(name: str, *cells: str) -> str:
    return f"{name:<{NAME}}{''.join(cells)}"


def _number(value: float, width: int, digits: int) -> str:
    return f"{value:>{width}.{digits}f}" if np.isfinite(value) else f"{'-':>{width}}"
