"""Text for people: safe to print, on one line, and durations in words."""

import math

LONGEST = 300  # characters of a text that came from data


def printable(text: str) -> str:
    """`text` with control, bidi and other unprintable characters escaped for a terminal (P10)."""
    return "".join(
        x if x.isprintable() or x == "\n" else x.encode("unicode_escape").decode() for x in text
    )


def clean(value: object) -> str:
    """A text from data, fit for a page, a terminal and a JSON reader: on one line, no control or
    bidi characters, not endless."""
    text = str(value)
    cut = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    return printable(" ".join(cut.split()))


def lasting(seconds: float) -> str:
    """3h05, 12 min, 40 s."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60}h{minutes % 60:02d}"
