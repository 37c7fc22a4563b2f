"""The quality columns: every figure that a run measures of a case, each declared here once.

To add one, declare it here and compute it in `measure.py`.  Ledger, images.zarr, report, comparison
and page then have it: they read this table.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

Quality = Mapping[str, float | None]  # value by key, of one case; None or NaN: undefined


class Better(IntEnum):
    """Which way a column should go."""

    LOWER = -1
    NEITHER = 0
    HIGHER = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One figure of a case, or two where it is measured before and after enhancement."""

    name: str  # in ledger, images.zarr and report.json
    title: str  # on the page
    about: str  # on the page, below the title
    unit: str = ""  # "dB" (always of 20 log10), "°", or none
    better: Better = Better.NEITHER
    paired: bool = False  # stored as name_before and name_after
    headline: bool = False  # the page also plots it, and a comparison of two runs has it
    needs_mm: bool = False  # undefined where the size of a px is unknown

    @property
    def before(self) -> str:
        return f"{self.name}_before"

    @property
    def after(self) -> str:
        return f"{self.name}_after"

    @property
    def keys(self) -> tuple[str, ...]:
        """The names under which its values are stored."""
        return (self.before, self.after) if self.paired else (self.name,)

    def pair(self, before: float, after: float) -> dict[str, float]:
        return {self.before: before, self.after: after}

    def value(self, quality: Quality) -> float:
        """Of a column that is not paired; NaN where it is undefined."""
        return _number(quality, self.name)

    def change(self, quality: Quality) -> float:
        """From before to after; NaN where either is undefined."""
        return _number(quality, self.after) - _number(quality, self.before)


def _number(quality: Quality, key: str) -> float:
    value = quality.get(key)
    return float("nan") if value is None else float(value)


CNR = Column(
    name="cnr_log10",
    title="CNR",
    about="Contrast to noise, 20 log10: bone against the 4.5 mm around it.",
    unit="dB",
    better=Better.HIGHER,
    paired=True,
    headline=True,
    needs_mm=True,
)
SNR = Column(
    name="snr_log10",
    title="SNR",
    about="Signal to noise, 20 log10: dark bone against the speckle around it.",
    unit="dB",
    better=Better.HIGHER,
    paired=True,
    headline=True,
    needs_mm=True,
)
THORACIC = Column(
    name="uca_thoracic",
    title="thoracic angle",
    about="Ultrasound curve angle between the two most tilted thoracic levels.",
    unit="°",
    paired=True,
    needs_mm=True,
)
LUMBAR = Column(
    name="uca_lumbar",
    title="lumbar angle",
    about="Ultrasound curve angle between the two most tilted lumbar levels.",
    unit="°",
    paired=True,
    needs_mm=True,
)
LEVELS = Column(
    name="levels",
    title="levels",
    about="Vertebral levels that the label map shows.",
    paired=True,
    needs_mm=True,
)
AGREEMENT = Column(
    name="label_agreement",
    title="label agreement",
    about="Dice of the label maps before and after.",
    better=Better.HIGHER,
    headline=True,
)
BONE_SHARE = Column(
    name="bone_share",
    title="bone share",
    about="Share of the scan that the label map before calls bone.",
)
LOST = Column(
    name="levels_lost",
    title="levels lost",
    about="Levels before that have no partner after.",
    better=Better.LOWER,
    needs_mm=True,
)
INVENTED = Column(
    name="levels_invented",
    title="levels invented",
    about="Levels after that have no partner before.",
    better=Better.LOWER,
    needs_mm=True,
)
CONFIDENCE = Column(
    name="uca_confidence",
    title="confidence in the angles",
    about="From 0 to 1: how regular and how complete the levels after are.",
    better=Better.HIGHER,
    needs_mm=True,
)
SPREAD = Column(
    name="mean_spread",
    title="mean spread",
    about="Standard deviation over draws, of grey levels from 0 to 1.",
    better=Better.LOWER,
    headline=True,
)
COVERAGE = Column(
    name="depth_coverage",
    title="depth coverage",
    about="Share of the scan that the emptiest depth shows.",
    better=Better.HIGHER,
)

COLUMNS = (
    *(CNR, SNR, THORACIC, LUMBAR, LEVELS, AGREEMENT),
    *(BONE_SHARE, LOST, INVENTED, CONFIDENCE, SPREAD, COVERAGE),
)
KEYS = tuple(key for column in COLUMNS for key in column.keys)


def lacks_spacing(quality: Quality) -> bool:
    """Whether the columns that need the size of a px are blank, because a usable one is unknown.

    Levels are always counted otherwise.
    """
    return LEVELS.after in quality and quality[LEVELS.after] is None
