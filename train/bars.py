"""What was asked of the enhancement, beside what was measured."""

from dataclasses import dataclass

from . import paper
from .agreement import Interval
from .evaluation import Evaluation
from .rivals import CLEAN, ENHANCED, FLOORS, ORIGINAL

IDENTITY = 0.1  # dB


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One figure and its bars; None where there is none."""

    title: str
    measured: float
    bar: float | None
    stretch: float | None = None
    at_most: bool = False  # else at least
    strictly: bool = False  # more than the bar
    interval: tuple[float, float] | None = None
    digits: int = 2

    @property
    def verdict(self) -> str:
        if self.measured != self.measured:
            return "not measured"
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


def bars(found: Evaluation) -> list[Bar]:
    """In the order in which they were set."""
    parts = (_gains, _fidelity, _likeness, _reading, _identity)
    return [bar for part in parts for bar in part(found)]


def _gains(found: Evaluation) -> list[Bar]:
    means, rows = found.groups["all cases"], []
    for name in ("cnr", "snr"):
        share, title = found.gain_share[name], name.upper()
        floor = max(means[x][name] for x in FLOORS)
        rows += [
            _share(f"{title}: share of the ceiling's gain, %", share),
            Bar(
                title=f"{title} over the best floor, dB",
                measured=means[ENHANCED][name] - floor,
                bar=0.0,
                strictly=True,
            ),
        ]
    for name in ("cnr", "snr"):
        rows.append(
            Bar(
                title=f"{name.upper()} gain (the paper's own in the last column), dB",
                measured=means[ENHANCED][name] - means[ORIGINAL][name],
                bar=None,
                stretch=round(paper.ENHANCED[name][0] - paper.ORIGINAL[name][0], 1),
            )
        )
    return rows


def _share(title: str, share: Interval) -> Bar:
    return Bar(
        title=title,
        measured=100 * share.value,
        interval=(100 * share.low, 100 * share.high),
        bar=50.0,
        stretch=80.0,
        digits=0,
    )


def _fidelity(found: Evaluation) -> list[Bar]:
    hard = found.groups.get("difficult half", found.groups["all cases"])
    easy = found.groups["easy half"]
    return [
        Bar(
            title="PSNR to clean, difficult half, over floor, dB",
            measured=hard[ENHANCED]["psnr"] - max(hard[x]["psnr"] for x in FLOORS),
            bar=2.0,
            stretch=4.0,
        ),
        Bar(
            title="PSNR to clean, easy half, over original, dB",
            measured=easy[ENHANCED]["psnr"] - easy[ORIGINAL]["psnr"],
            bar=-0.5,
            stretch=1.0,
        ),
    ]


def _likeness(found: Evaluation) -> list[Bar]:
    means = found.likeness["strip"][ENHANCED]
    limits = {"ms_ssim": (0.76, 0.81), "psnr": (16.5, 17.5)}
    titles = {"ms_ssim": "MS-SSIM, mean over depths", "psnr": "PSNR, mean over depths, dB"}
    return [
        Bar(title=titles[name], measured=_mean(means[name]), bar=bar, stretch=stretch)
        for name, (bar, stretch) in limits.items()
    ]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _reading(found: Evaluation) -> list[Bar]:
    against_truth = found.angles[0].rows[ENHANCED]
    rows = []
    limits = {"thoracic": (3.8, 0.91), "lumbar": (3.4, 0.89)}
    for (curve, (mad, icc)), agreed in zip(limits.items(), against_truth, strict=True):
        title = f"UCA against truth, {curve}"
        rows += [
            Bar(title=f"{title}: MAD, deg", measured=agreed.mad, bar=mad, stretch=2, at_most=True),
            Bar(title=f"{title}: ICC", measured=agreed.icc.value, bar=icc, stretch=0.95),
        ]
    means = found.groups["all cases"]
    changed = {name: row["lost"] + row["invented"] for name, row in means.items()}
    rows += [
        Bar(
            title="levels lost or invented, per case",
            measured=changed[ENHANCED],
            bar=0.3,
            stretch=0.05,
            at_most=True,
        ),
        Bar(
            title="  fewer than in the original by",
            measured=changed[ORIGINAL] - changed[ENHANCED],
            bar=0.0,
            strictly=True,
        ),
        Bar(title="  in the clean target itself", measured=changed[CLEAN], bar=None),
    ]
    return rows


def _identity(found: Evaluation) -> list[Bar]:
    return [
        Bar(
            title=f"identity run, gain in {name.upper()}, dB",
            measured=abs(gain),
            bar=IDENTITY,
            at_most=True,
        )
        for name, gain in found.identity_gain.items()
    ]
