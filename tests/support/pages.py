"""Outputs made by hand, and pages as a browser reads them, for tests of the report."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from mcdiff_batch.engine.output import ledger, runs
from mcdiff_batch.engine.output.ledger import Entry, Record
from mcdiff_batch.engine.output.runs import Run, Settings
from mcdiff_batch.engine.page.parts import SCRIPT, STYLE, policy
from tests.support.running import CONTRACT

CASES = 10  # of the run that has a report
CANARY = "Jane-Doe-1970"
BIDI, ESCAPE = "\u202e", "\x1b[31m"
HOSTILE = f"""<script>alert(1)</script>" onload='x' {ESCAPE}{BIDI}=cmd()\n</style></title>"""


class Reader(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.figures: list[str] = []
        self.words: list[str] = []
        self.script = ""
        self.inside = ""  # the last tag that was opened, until one is closed
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.inside = tag
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag == "data":
            self.figures += [value or "" for _, value in attrs]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.script += data
        elif self.inside != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)


def read(path: Path) -> Reader:
    return Reader(path.read_text())


def stored(output: Path) -> Any:
    return json.loads((output / "report/report.json").read_text())


def leaves(value: Any) -> Iterator[object]:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from leaves(inner)
    else:
        yield value


def assert_safe(found: Reader) -> None:
    """Only our own script runs, nothing is fetched, and no line or terminal reads differently."""
    assert not {"iframe", "object", "link", "base", "form"} & set(found.tags)
    assert found.tags.count("script") == 1
    assert found.script == SCRIPT
    assert not [name for name, _ in found.attributes if name.startswith("on") or name == "style"]
    assert next(v for k, v in found.attributes if k == "content") == policy(STYLE, SCRIPT)
    assert all(v.startswith("data:image/png;") for k, v in found.attributes if k == "src")
    assert all(v.startswith("#") for k, v in found.attributes if k == "href")
    ids = [v for k, v in found.attributes if k == "id"]
    assert len(ids) == len(set(ids))
    assert not [v for _, v in found.attributes if v.startswith(("http:", "https:", "//"))]
    assert not {ESCAPE[0], BIDI} & set(found.text)


SETTINGS = Settings(
    plan="onnxruntime",
    device_kind="cpu",
    batch_size=1,
    unit_size=500,
    solver="ddim",
    ladder=(900.0, 10.0),
    seed=0,
    temperature=1.0,
    bundle="b" * 64,
    archive="a" * 64,
    cases="0-9",
    grid="frame",
    software={"numpy": "2"},
)


def done(case: int, **more: float | None) -> Entry:
    measured = {"cnr_log10_before": 1.0, "cnr_log10_after": 2.0, "label_agreement": 0.9} | more
    return Entry(case=case, status="done", extent=(40, 16), optimal=0, quality=measured)


def failed(case: int, reason: str = "corrupt", detail: str = "") -> Entry:
    return Entry(case=case, status="failed", reason=reason, detail=detail)


def output(path: Path, entries: Sequence[Entry], cases: int, **contract: object) -> Path:
    """An output directory made by hand: a ledger, and no images."""
    path.mkdir()
    settings = replace(SETTINGS, cases=f"0-{cases - 1}" if cases > 1 else "0")
    runs.save(path, Run(settings=settings, contract=asdict(CONTRACT) | contract))
    size = settings.unit_size
    for unit in range(-(-len(entries) // size)):
        part = tuple(entries[unit * size : (unit + 1) * size])
        record = Record(unit=unit, first=unit * size, count=len(part), shards={}, cases=part)
        ledger.write(path, record)
    return path
