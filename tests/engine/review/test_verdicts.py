"""A verdict says what was looked at, and the latest one counts."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from mcdiff_batch.engine.output import ledger
from tests.support.review import Page, lines, table
from tests.support.running import inline, job


def test_a_verdict_is_stored_with_who_when_and_what_was_looked_at(output: Path) -> None:
    with Page(output, reviewer="anna") as page:
        told = page.vote(3, verdict="reject", reason="blurred", note=" left rib \n").json
        assert (told["verdict"], told["reason"], told["void"]) == ("reject", "blurred", False)
        assert page.states()[3] == 2
    (line,) = lines(output)
    time_ = line.pop("time")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}", time_)
    assert line == {
        "case": 3,
        "pixels": ledger.read(output, 0).cases[3].pixels,
        "verdict": "reject",
        "reason": "blurred",
        "note": "left rib",
        "reviewer": "anna",
    }


def test_without_a_name_nobody_is_named(page: Page, output: Path) -> None:
    page.vote(0, verdict="accept")
    assert set(lines(output)[0]) == {"case", "pixels", "verdict", "time"}


def test_the_latest_line_of_a_case_counts_and_undo_takes_back_only_that(page: Page) -> None:
    page.vote(1, verdict="accept")
    first = page.show(1)[0]["verdict"]
    second = page.vote(1, verdict="reject", reason="blurred").json
    assert page.states()[1] == 2
    stale = page.vote(1, verdict="none", instead_of=first["at"])
    assert stale.status == 409
    assert "somebody else" in stale.json["error"]
    assert page.states()[1] == 2
    assert page.vote(1, verdict="accept", instead_of=second["at"]).status == 200
    assert page.states()[1] == 1


def test_a_verdict_is_void_when_the_image_changes(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The same archive enhanced with another seed, in the place of the first output."""
    with Page(output) as page:
        page.vote(0, verdict="reject", reason="blurred")
        old = page.show(0)[0]["pixels"]
    kept = tmp_path / "kept"
    (output / "review").rename(kept)
    shutil.rmtree(output)
    inline(job(output.parent / "night.zarr", output, draws=2, seed=9))
    kept.rename(output / "review")
    with Page(output) as page:
        assert page.states()[0] == 3
        assert page.show(0)[0]["verdict"]["void"] is True
        stale = {"case": 0, "pixels": old, "verdict": "accept"}
        assert page.ask("verdict", "POST", stale).status == 409
        row = table(output, monkeypatch, capsys)[0]
        assert row["state"] == "void: the image changed since"
        assert row["pixels_judged"] != row["pixels_now"]
        page.vote(0, verdict="accept")
        assert page.states()[0] == 1


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "perhaps"},
        {"verdict": None},
        {"verdict": "accept", "preferred": "left"},
        {"case": "0"},
        {"case": True},
        {"case": 10**30},
        {"pixels": "0" * 64},
        {"note": 5},
    ],
)
def test_what_is_no_verdict_is_not_stored(page: Page, output: Path, change: dict[str, Any]) -> None:
    body = {"case": 0, "pixels": page.show(0)[0]["pixels"], "verdict": "accept"} | change
    assert page.ask("verdict", "POST", body).status in (400, 409)
    assert page.ask("verdict", "POST", b"[" * 5000).status == 400
    assert page.ask("verdict", "POST", b" " * 20000).status == 413
    assert lines(output) == []


def test_texts_are_stored_printable_and_not_endless(page: Page, output: Path) -> None:
    page.vote(0, verdict="reject", reason="\x1b[31m<b>", note="‮" + "x" * 2000)
    (line,) = lines(output)
    assert line["reason"] == "\\x1b[31m<b>"
    assert line["note"].isprintable()
    assert len(line["note"]) < 1100
