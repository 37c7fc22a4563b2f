"""Numbers in the journals of a run, which a damaged disk or a person may have changed."""

MOST = 1e15  # of seconds, bytes, counts, ...; sums and squares of such numbers stay finite


def parse_number(value: object) -> float:
    """A number of a measurement.  Raises TypeError, ValueError where it can be none."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"expected a number, not {type(value).__name__}")
    if not abs(value) <= MOST:  # also NaN
        raise ValueError(f"expected a number up to {MOST:g}")
    return float(value)


def parse_seconds(value: object) -> float:
    """How long something took.  Raises TypeError, ValueError."""
    seconds = parse_number(value)
    if seconds < 0:
        raise ValueError("expected seconds, which are not negative")
    return seconds


def parse_count(value: object) -> int:
    """A whole number.  Raises TypeError, ValueError."""
    return int(parse_number(value))
