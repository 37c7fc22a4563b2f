"""The bars that the enhancement has to reach, beside what was measured."""

from dataclasses import dataclass, replace

from .angles import CURVES
from .evaluate import Evaluation
from .rivals import CLEAN, ENHANCED, FLOORS, ORIGINAL

IDENTITY = 0.1  # 20 ln
WORD = 20  # characters of a name given by the user
FEWEST = 20  # cases: the 95 % interval of the gain in CNR is then +-1.6, half of bar to stretch bar
TOO_FEW = "too few"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One figure with its bar and its stretch bar; None if there is none."""

    title: str
    measured: float
    bar: float | None
    stretch: float | None = None
    at_most: bool = False  # the figure must be at most the bar; otherwise at least
    strictly: bool = False  # the figure must be more than the bar
    interval: tuple[float, float] | None = None
    digits: int = 2
    cases: int | None = None  # of the mean; None: the figure holds for each case alone

    @property
    def verdict(self) -> str:
        if self.measured != self.measured:
            return "not measured"
        if self.bar is not None and self.cases is not None and self.cases < FEWEST:
            return TOO_FEW
        if self._reaches(self.stretch):
            return "stretch met"
        if self.bar is None:
            return "reported"
        return "met" if self._reaches(self.bar) else "missed"

    def _reaches(self, bar: float | None) -> bool:
        if bar is None:
            return False
        if self.strictly:
            return self.measured > bar
        return self.measured <= bar if self.at_most else self.measured >= bar

    @property
    def sign(self) -> str:
        return "> " if self.strictly else "<= " if self.at_most else ">= "


def bars(evaluation: Evaluation) -> list[Bar]:
    """All bars, in the order in which they were set."""
    parts = (_gains, _closeness, _against, _reading, _likeness)
    means = [bar for part in parts for bar in part(evaluation)]
    return [*(replace(x, cases=evaluation.cases) for x in means), *_identity(evaluation)]


def _gains(evaluation: Evaluation) -> list[Bar]:
    """The bars are 60 % of the gain of the phantom's clean target, and the paper's own gain."""
    means, rows = evaluation.groups["all cases"], []
    for name, (bar, stretch) in {"cnr": (4.6, 7.7), "snr": (4.3, 7.2)}.items():
        column, share = f"{name}_ln", evaluation.gain_share[name]
        rows += [
            Bar(
                title=f"{name.upper()} over the original, 20 ln",
                measured=means[ENHANCED][column] - means[ORIGINAL][column],
                bar=bar,
                stretch=stretch,
            ),
            Bar(
                title="  share of the ceiling's gain, %",
                measured=100 * share.value,
                interval=(100 * share.low, 100 * share.high),
                bar=None,
                digits=0,
            ),
        ]
    floor = max(means[x]["cnr_ln"] for x in FLOORS)
    return [*rows, _above("CNR over the best floor, 20 ln", means[ENHANCED]["cnr_ln"], floor)]


def _above(title: str, measured: float, other: float) -> Bar:
    return Bar(title=title, measured=measured - other, bar=0.0, strictly=True)


def _closeness(evaluation: Evaluation) -> list[Bar]:
    hard = evaluation.groups.get("difficult half", evaluation.groups["all cases"])
    easy = evaluation.groups["easy half"]
    limits = {"difficult half": (hard, 4.0, 6.0), "easy half": (easy, -0.5, 1.0)}
    return [
        Bar(
            title=f"PSNR to clean, {half}, over original, dB",
            measured=means[ENHANCED]["psnr"] - means[ORIGINAL]["psnr"],
            bar=bar,
            stretch=stretch,
        )
        for half, (means, bar, stretch) in limits.items()
    ]


def _against(evaluation: Evaluation) -> list[Bar]:
    """Against the methods of --against, such as plain regression with the same network."""
    means, rows = evaluation.groups["all cases"], []
    for other in evaluation.against:
        rows += [
            Bar(
                title=f"PSNR to clean over {other[:WORD]}, dB",
                measured=means[ENHANCED]["psnr"] - means[other]["psnr"],
                bar=-0.3,
                stretch=0.01,  # above the other, to the printed digits
            ),
            _above(
                f"CNR over {other[:WORD]}, 20 ln", means[ENHANCED]["cnr_ln"], means[other]["cnr_ln"]
            ),
        ]
    return rows


def _likeness(evaluation: Evaluation) -> list[Bar]:
    means = evaluation.likeness["strip"][ENHANCED]
    limits = {"ms_ssim": (0.76, 0.81), "psnr": (16.5, 17.5)}
    titles = {"ms_ssim": "MS-SSIM, mean over depths", "psnr": "PSNR, mean over depths, dB"}
    return [
        Bar(title=titles[name], measured=_mean(means[name]), bar=bar, stretch=stretch)
        for name, (bar, stretch) in limits.items()
    ]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _reading(evaluation: Evaluation) -> list[Bar]:
    changed = {
        x: row["lost"] + row["invented"] for x, row in evaluation.groups["all cases"].items()
    }
    rows = [
        Bar(
            title="levels lost or invented, per case",
            measured=changed[ENHANCED],
            bar=0.05,
            stretch=0.01,
            at_most=True,
            digits=3,
        ),
        _above("  fewer than in the original by", changed[ORIGINAL], changed[ENHANCED]),
        Bar(title="  in the clean target itself", measured=changed[CLEAN], bar=None),
    ]
    against_truth = evaluation.angles[0].rows
    for k, curve in enumerate(CURVES):
        original, enhanced = (against_truth[x][k].mad for x in (ORIGINAL, ENHANCED))
        title = f"UCA against truth, {curve}: MAD, deg"
        rows += [
            Bar(title=title, measured=enhanced, bar=2.0, stretch=1.5, at_most=True),
            _above("  better than on the original by", original, enhanced),
        ]
    return rows


def _identity(evaluation: Evaluation) -> list[Bar]:
    return [
        Bar(
            title=f"identity run, gain in {name.upper()}, 20 ln",
            measured=abs(gain),
            bar=IDENTITY,
            at_most=True,
        )
        for name, gain in evaluation.identity_gain.items()
    ]
