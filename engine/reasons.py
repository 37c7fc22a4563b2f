"""Why a case was flagged, in words for a person."""

from .gate import measures
from .ledger import Entry
from .markup import clean

WORDS = {  # by check of the gate
    "agreement": "label map changed: Dice {agreement:.2f}",
    "coverage": "a depth shows only {coverage:.0%} of the scan",
    "levels": "levels: {levels_lost:.0f} lost, {levels_invented:.0f} invented",
    "angle": "curve angle changed by {angle:.1f}°",
    "spread": "draws differ: {spread:.3f} on average",
}


def why(entry: Entry) -> list[str]:
    """One line a flag."""
    numbers = {k: v for k, v in entry.quality.items() if v is not None} | measures(entry.quality)
    return [clean(WORDS[x].format(**numbers) if x in WORDS else x) for x in entry.flags]
