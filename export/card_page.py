"""A model card as Markdown and as one HTML page that loads nothing."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from mcdiff_batch.engine.page.parts import DASH, STYLE, contents, document, html, section, table
from mcdiff_batch.engine.text import clean

OWN_STYLE = Markup("""
.numbers thead th { white-space: normal; }
.numbers th, .numbers td { padding-right: 14px; }
""")
SPECIAL = re.compile(r"([\\`*_{}\[\]#|~])")  # have a meaning in Markdown


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    rows: tuple[tuple[str, ...], ...]
    columns: tuple[str, ...] = ()  # none: the first cell of a row names the second


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    title: str
    text: tuple[str, ...] = ()  # paragraphs
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """Plain text in sections; it is escaped where it is written (P10)."""

    title: str
    lede: str
    sections: tuple[Section, ...]


def as_markdown(card: Card) -> str:
    blocks = [f"# {_plain(card.title)}", f"**{_plain(card.lede)}**"]
    for one in card.sections:
        blocks += [f"## {_plain(one.title)}", *map(_plain, one.text)]
        blocks += ["\n".join(_lines(x)) for x in one.tables if x.rows]
    return "\n\n".join(blocks) + "\n"


def _lines(rows: Table) -> Iterator[str]:
    yield _line(rows.columns or ("",) * len(rows.rows[0]))
    yield _line(["---"] * len(rows.rows[0]), escape=False)
    yield from map(_line, rows.rows)


def _line(cells: Sequence[str], *, escape: bool = True) -> str:
    return f"| {' | '.join(_plain(x) if escape else x for x in cells)} |"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    entities = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return SPECIAL.sub(r"\\\1", entities)


def as_html(card: Card) -> str:
    head = html(
        '<header><p class="muted">mcdiff-batch, model card</p><h1>{}</h1>'
        '<p class="lede">{}</p></header>',
        card.title,
        card.lede,
    )
    sections = (section(x.title, *_text(x), *_tables(x)) for x in card.sections)
    return document(
        card.title, STYLE + OWN_STYLE, head, contents(x.title for x in card.sections), *sections
    )


def _text(one: Section) -> Iterator[Markup]:
    return (html("<p>{}</p>", x) for x in one.text)


def _tables(one: Section) -> Iterator[Markup]:
    for rows in one.tables:
        yield table(rows.columns, rows.rows, "numbers" if len(rows.columns) > 2 else "")


# --- words


def find(value: object, *path: str) -> Any:
    """A value in nested objects; None where it is not there."""
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def say(value: object) -> str:
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and abs(value) > 9999 else clean(value)


def round_to(value: float | None, digits: int) -> str:
    return DASH if value is None else f"{value:.{digits}f}"


def count(number: object, noun: str) -> str:
    return f"{say(number)} {noun}{'' if number == 1 else 's'}"
