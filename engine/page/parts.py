"""Pieces that pages are built from.

Text is escaped unless it is `Markup`, which only `html` makes, from literal templates (P10).
`figure` shows a number as <data> with its exact value, so that it can be looked up in the JSON.
"""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from markupsafe import Markup

from mcdiff_batch.engine.image.columns import Column
from mcdiff_batch.engine.text import format_duration

STYLE = Markup((Path(__file__).parent / "report.css").read_text())
SCRIPT = Markup((Path(__file__).parent / "report.js").read_text())
POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:"
CAUTION = "Not a medical device: nothing here is fit for diagnosis or treatment."
DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
DECIBEL = "20 log10"  # the logarithm of every decibel
FOLD = 10  # lines of a list


def html(template: str, /, *parts: object, **named: object) -> Markup:
    """Fills a literal template as `str.format` does, and escapes every part that is not Markup."""
    return Markup(template).format(*parts, **named)


def join(parts: Iterable[str], separator: str = "") -> Markup:
    return Markup(separator).join(parts)


def document(title: str, style: Markup, *body: Markup, script: Markup | None = None) -> str:
    """A whole page.  It loads nothing, and no script but `script` runs in it."""
    return html(
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        "<title>{title}</title><style>{style}</style></head><body>{body}{script}</body></html>\n",
        policy=policy(style, script),
        title=title,
        style=style,
        body=join(body),
        script="" if script is None else html("<script>{}</script>", script),
    )


def policy(style: Markup, script: Markup | None) -> str:
    """The content security policy of a page: this style sheet and this script, and no other."""
    allowed = "" if script is None else f"; script-src '{_hash(script)}'"
    return f"{POLICY}; style-src '{_hash(style)}'{allowed}"


def _hash(text: Markup) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def section(title: str, *children: Markup, class_: str = "") -> Markup:
    return html(
        '<section id="{}" class="{}"><h2>{}</h2><div>{}</div></section>',
        anchor(title),
        class_,
        title,
        join(children),
    )


def contents(titles: Iterable[str]) -> Markup:
    """Links to the sections of a page."""
    links = (html('<a href="#{}">{}</a>', anchor(x), x) for x in titles)
    return html('<nav aria-label="sections">{}</nav>', join(links, " "))


def anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def tiles(values: Iterable[tuple[str, Markup]]) -> Markup:
    """A row of large figures, each with its name."""
    pairs = (html("<div><dd>{}</dd><dt>{}</dt></div>", value, name) for name, value in values)
    return html('<dl class="tiles">{}</dl>', join(pairs))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], class_: str = "") -> Markup:
    """A table; the first cell of a row is its header.  Without `columns` there is no head."""
    head = html("<tr>{}</tr>", join(map(_head, columns)))
    return html(
        '<div class="wide"><table class="{}">{}<tbody>{}</tbody></table></div>',
        class_,
        html("<thead>{}</thead>", head) if columns else "",
        join(map(_row, rows)),
    )


def _head(words: str) -> Markup:
    return html('<th scope="col">{}</th>', words) if words else html("<td></td>")


def _row(cells: Iterable[object]) -> Markup:
    first, *others = cells
    rest = join(html("<td>{}</td>", x) for x in others)
    return html('<tr><th scope="row">{}</th>{}</tr>', first, rest)


def shorten(lines: Sequence[Markup]) -> Markup:
    """A list that shows its first FOLD lines, and the rest after a click."""
    items = [html("<li>{}</li>", x) for x in lines]
    first = html('<ul class="plain">{}</ul>', join(items[:FOLD]))
    if len(items) <= FOLD:
        return first
    return html(
        '{}<details><summary>Show the rest</summary><ul class="plain">{}</ul></details>',
        first,
        join(items[FOLD:]),
    )


# --- numbers


def figure(value: float | None, words: str = "") -> Markup:
    """A number of the data, shown as `words` or with commas; a dash where there is none."""
    if value is None:
        return html("{}", DASH)
    return html('<data value="{}">{}</data>', value, words or f"{value:,}")


def seconds(value: float) -> Markup:
    return figure(value, format_duration(value))


def rounded(value: float | None) -> Markup:
    """To four digits; whole and large numbers in full."""
    if value is None:
        return figure(None)
    return figure(value, f"{value:,.4g}" if value % 1 and value < 1000 else f"{value:,.0f}")


def decibel(value: float | None) -> Markup:
    return figure(value, "" if value is None else f"{value:.1f} dB".replace("-", MINUS))


def measured(column: Column, value: float | None, sign: str = "") -> Markup:
    """A value of a quality column, in its unit.  `sign` "+" shows the sign of a change."""
    if value is None:
        return figure(None)
    digits = ".1f" if column.unit else ".3g"
    space = " " if column.unit.isalpha() else ""
    words = f"{value:{sign if value else ''}{digits}}{space}{column.unit}"
    return figure(value, words.replace("-", MINUS))


NEEDS_SPACING = html('<span class="muted">needs the size of a pixel</span>')


def titled(column: Column, words: str = "") -> str:
    """The title of a column, with `words` after it, and the logarithm of decibels."""
    return f"{column.title}{words}, {DECIBEL}" if column.unit == "dB" else f"{column.title}{words}"


def plural(count: int, one: str, many: str) -> str:
    return one if count == 1 else many


def moment(text: str) -> str:
    """2026-11-22T06:00:12+0000 as 2026-11-22 06:00."""
    return text[:16].replace("T", " ")
