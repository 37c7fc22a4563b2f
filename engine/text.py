"""Text for people: safe to print, on one line; and durations in words."""

import math

LONGEST = 300  # characters of a text that came from data


def make_printable(text: str) -> str:
    """`text` with control, bidi and other unprintable characters escaped (P10).

    Line breaks stay.
    """
    return "".join(
        x if x.isprintable() or x == "\n" else x.encode("unicode_escape").decode() for x in text
    )


def clean(value: object) -> str:
    """A text from data, made safe for a page, a terminal and a JSON reader.

    It is on one line, has no control or bidi characters, and is cut after 300 characters.
    """
    text = str(value)
    cut = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    return make_printable(" ".join(cut.split()))


def format_duration(seconds: float) -> str:
    """For example 3h05, 12 min or 40 s; "?" if `seconds` is not finite."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60}h{minutes % 60:02d}"
