"""The report as one HTML page, from report.json's data and a few pictures.

What an operator asks first comes first: what was done, what needs attention; then how good it is,
where the time went, cases to look at, and what exactly was run.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from mcdiff_batch.engine.model.ladder import DRAWN
from mcdiff_batch.engine.report.gallery import Pictures
from mcdiff_batch.engine.text import clean

from . import cards, comparison, machine, quality, time
from .markup import Html, element, joined
from .parts import STYLE, decibel, figure, folded, moment, seconds, section, table

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
CAUTION = "Not a medical device: nothing here is fit for diagnosis or treatment."
STATES = {  # state: how bad, in words
    "complete": ("good", "complete"),
    "failures": ("warn", "complete, with failures"),
    "stopped": ("bad", "not finished"),
    "running": ("warn", "still running"),
}
TIMES = {1: "once", 2: "twice"}
Json = Mapping[str, Any]


def page(data: Json, pictures: Mapping[int, Pictures]) -> str:
    body = (
        _masthead(data),
        section("Attention", *_attention(data)),
        *_compared(data),
        section("Quality", *quality.quality(data["quality"])),
        section("Time", *time.time(data)),
        section("Machine", *machine.machine(data["machine"])),
        section("Cases", *cards.gallery(data, pictures), class_="whole"),
        section("Provenance", *_provenance(data)),
    )
    head = (
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"mcdiff-batch: {data['cases']['done']} cases enhanced"),
        element("style", Html(STYLE)),
    )
    whole = element("html", element("head", *head), element("body", *body), lang="en")
    return f"<!doctype html>\n{whole}\n"


def _compared(data: Json) -> Iterator[Html]:
    if "compared" in data:
        yield section("Side by side", *comparison.side_by_side(data["compared"]))


def _masthead(data: Json) -> Html:
    about = f"mcdiff-batch {data['version']}, {moment(data['written_at'])}"
    return element(
        "header",
        element("p", _badge(data["outcome"]), " ", about, class_="muted"),
        element("h1", *_headline(data["cases"], data["flagged"]["total"])),
        element("p", *_lede(data), class_="lede"),
        element("p", CAUTION, class_="muted"),
        _tiles(data),
    )


def _badge(outcome: Json) -> Html:
    level, words = STATES[outcome["state"]]
    code = outcome["exit_code"]
    known = () if code is None else (" · exit ", figure(code))
    return element("span", words, *known, class_=f"badge {level}")


def _headline(cases: Json, flagged: int) -> Iterator[object]:
    if cases["done"] == cases["selected"]:
        yield from ("All ", figure(cases["done"]), " cases are enhanced")
    else:
        yield from (figure(cases["done"]), " of ", figure(cases["selected"]), " cases are enhanced")
    yield from (", ", figure(flagged), " flagged") if flagged else ()
    yield from (", ", figure(cases["failed"]), " failed") if cases["failed"] else ()
    yield from (", ", figure(cases["open"]), " still open") if cases["open"] else ()
    yield "."


def _lede(data: Json) -> Iterator[object]:
    work, known = data["work"], data["provenance"]
    if data["outcome"]["state"] == "stopped":
        yield "Run the same command again to finish. "
    if work["seconds"]:
        devices = ", ".join(x["device"] for x in data["stages"])
        yield from (seconds(work["seconds"]), f" of work on {devices}, ", *_resumed(work), ". ")
    solver = known["settings"].get("solver", "?")
    yield f"Bundle {known['bundle'].get('name', '?')}, sampler {solver}, "
    yield from (figure(known["nfe"]), " network evaluations a ", *_draws(data["gallery"]["draws"]))
    if data["cases"]["skipped"]:
        yield from (" ", figure(data["cases"]["skipped"]), " cases were not selected.")


def _draws(count: int) -> tuple[object, ...]:
    if count == 1:
        return ("case.",)
    words = f" draws a case. Draws take {DRAWN} evaluations or more unless --steps says otherwise: "
    return "draw, ", figure(count), words, "with fewer they are nearly one image."


def _resumed(work: Json) -> tuple[object, ...]:
    count = work["resumed"]
    return (
        ("resumed ", figure(count, TIMES.get(count, f"{count} times"))) if count else ("at one go",)
    )


def _tiles(data: Json) -> Html:
    cases, work, gain = data["cases"], data["work"], data["quality"]["cnr_log10"]["gain"]
    tiles = {
        "done": figure(cases["done"]),
        **({"flagged": figure(data["flagged"]["total"])} if data["flagged"]["gate"] else {}),
        "failed": figure(cases["failed"]),
        "open": figure(cases["open"]),
        "cases an hour": figure(work["cases_per_hour"], f"{work['cases_per_hour'] or 0:,.0f}"),
        "of work": seconds(work["seconds"]),
        "median CNR gain, 20 log10": decibel(gain.get("median"), "+"),
    }
    pairs = (element("div", element("dd", v), element("dt", k)) for k, v in tiles.items())
    return element("dl", *pairs, class_="tiles")


def _attention(data: Json) -> Iterator[Html]:
    failures, incidents, flagged = data["failures"], data["incidents"], data["flagged"]
    damaged = data["cases"]["damaged_records"]
    bad = flagged["total"] + failures["total"] + incidents["total"]
    if not (bad or data["cases"]["open"] or damaged):
        yield element("p", "Nothing. No case failed, and nothing else went wrong.")
    if not flagged["gate"]:
        yield element("p", "The bundle has no gate, so no case is flagged.", class_="muted")
    if flagged["total"]:
        yield _counted("cases are flagged: look at them first", flagged, flagged["kinds"])
        cases = [(cards.named(x), "; ".join(x["why"])) for x in flagged["rows"]]
        yield folded(("case", "why"), cases)
    if failures["total"]:
        yield _counted("cases failed or were interrupted", failures, failures["reasons"])
        rows = [_failure(x) for x in failures["rows"]]
        yield folded(("case", "status", "reason", "detail"), rows)
    if data["cases"]["open"]:
        yield element("p", element("b", figure(data["cases"]["open"]), " cases are open."))
    if damaged:
        words = " ledger records are damaged; the next run does their cases again."
        yield element("p", figure(damaged), words)
    if incidents["total"]:
        yield _counted("incidents that no data caused", incidents, incidents["kinds"])
        rows = [_incident(x) for x in incidents["rows"]]
        yield folded(("when", "kind", "where", "detail"), rows)


def _counted(words: str, found: Json, kinds: Mapping[str, int]) -> Html:
    parts = [
        joined(", " if k else "", f"{x} ", figure(n)) for k, (x, n) in enumerate(kinds.items())
    ]
    partly = "; not all are listed" if found["total"] > len(found["rows"]) else ""
    return element("p", element("b", figure(found["total"]), f" {words}"), ": ", *parts, partly)


def _failure(row: Json) -> tuple[object, ...]:
    return cards.named(row), row["status"], row["reason"], row["detail"]


def _incident(row: Json) -> tuple[object, ...]:
    where = [joined(f" {x} ", figure(row[x], str(row[x]))) for x in ("unit", "case") if x in row]
    place = joined(row.get("device", ""), *where)
    return moment(row.get("at", "")), row.get("kind", ""), place, row.get("detail", "")


def _provenance(data: Json) -> Iterator[Html]:
    known = data["provenance"]
    tables = {
        "Settings": known["settings"],
        "Bundle": known["bundle"],
        "Its sampler, as measured": known["sampler"],
        "SHA-256": known["sha256"],
    }
    parts = (_pairs(title, rows) for title, rows in tables.items() if rows)
    yield element("div", *parts, class_="tables")


def _pairs(title: str, rows: Mapping[str, Any]) -> Html:
    told = ((name.replace("_", " "), clean(value)) for name, value in rows.items())
    return element("div", element("h3", title), table((), told, "pairs"))
