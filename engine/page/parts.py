"""Pieces of the report's page.  Figures come from the data alone, marked as <data>."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from mcdiff_batch.engine.text import lasting

from .markup import Html, element, joined

STYLE = (Path(__file__).parent / "report.css").read_text()
DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


def figure(value: float | None, words: str = "") -> Html:
    """A number of the data; `words` is how it reads."""
    if value is None:
        return Html(DASH)
    return element("data", words or f"{value:,}", value=value)


def seconds(value: float) -> Html:
    return figure(value, lasting(value))


def decibel(value: float | None, sign: str = "") -> Html:
    return figure(value, "" if value is None else f"{value:{sign}.1f} dB".replace("-", MINUS))


def degrees(value: float | None, sign: str = "") -> Html:
    return figure(value, "" if value is None else f"{value:{sign}.1f}°".replace("-", MINUS))


def moment(text: str) -> str:
    """2026-11-22T06:00:12+0000 as a person writes it."""
    return text[:16].replace("T", " ")


def section(title: str, *children: Html, class_: str | None = None) -> Html:
    return element("section", element("h2", title), element("div", *children), class_=class_)


def folded(columns: Sequence[str], rows: Sequence[Sequence[object]], shown: int = 10) -> Html:
    """A table whose later rows are behind a click."""
    first = table(columns, rows[:shown])
    if len(rows) <= shown:
        return first
    rest = table((), rows[shown:])
    return joined(first, element("details", element("summary", "show the others"), rest))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], class_: str = "") -> Html:
    head = element("thead", element("tr", *(element("th", x) for x in columns)))
    body = (element("tr", *(element("td", x) for x in row)) for row in rows)
    parts = (head, element("tbody", *body)) if columns else (element("tbody", *body),)
    return element("div", element("table", *parts, class_=class_ or None), class_="wide")
