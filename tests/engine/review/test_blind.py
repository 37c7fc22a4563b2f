"""Blind comparisons: nothing says which image is enhanced."""

import json
from pathlib import Path
from typing import Any

import pytest

from mcdiff_batch.engine.output import verdicts
from mcdiff_batch.engine.review.blind import enhanced_side
from tests.support.review import Page, lines, table
from tests.support.running import image


def test_blind_answers_do_not_say_which_image_is_enhanced(output: Path) -> None:
    with Page(output, reviewer="anna", blind=True) as page:
        about, planes = page.show(1, blind=1)
        assert set(planes) == {"left", "right"}
        assert not {"flags", "numbers", "optimal"} & about.keys()
        side = enhanced_side(0, "anna", 1)
        assert planes[side].tobytes() == image(output, 1)
        told = page.vote(1, blind=1, preferred=side).json
        assert "enhanced" not in json.dumps(told)
        assert page.ask("cases?blind=1").json["flagged"] == ""
        for path in ("case/1", "case/1?blind=0", "cases", "marks/1"):
            assert page.ask(path).status == 403
        assert page.vote(1, blind=1, verdict="accept").status == 403
    (line,) = lines(output)
    assert (line["preferred"], line["enhanced"], line["blind"]) == (side, side, "locked")
    assert verdicts.read(output).latest == {}  # a preference neither accepts nor rejects


def test_sides_and_order_are_drawn_for_each_case_and_reader_and_stay(output: Path) -> None:
    def listed(**options: Any) -> list[int]:
        with Page(output, blind=True, **options) as page:
            return list(page.ask("cases?blind=1").json["cases"])

    assert listed(reviewer="anna") == listed(reviewer="anna")
    orders = {tuple(listed(reviewer=x, seed=k)) for x in ("anna", "ben") for k in (0, 1)}
    assert len(orders) == 4
    sides = [[enhanced_side(seed, "anna", k) for k in range(2000)] for seed in (0, 1)]
    assert all(900 < x.count("left") < 1100 for x in sides)
    assert sides[0] != sides[1]


def test_each_reader_has_an_answer_of_its_own(
    output: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with Page(output, reviewer="anna", blind=True) as page:
        page.vote(0, blind=1, preferred="left")
        page.vote(0, blind=1, preferred="right", note="sharper")
    with Page(output, reviewer="ben", blind=True) as page:
        assert page.states(blind=1)[0] == 0
        page.vote(0, blind=1, preferred="equal")
        assert page.states(blind=1)[0] == 4
    rows = [x for x in table(output, monkeypatch, capsys) if x["kind"] == "blind"]
    anna, ben = rows
    assert (anna["reviewer"], anna["preferred"], anna["note"]) == ("anna", "right", "sharper")
    better = "enhanced" if anna["enhanced_side"] == "right" else "original"
    assert (anna["better"], ben["better"], anna["blind"]) == (better, "equal", "locked")
