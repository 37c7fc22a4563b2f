"""The page of a review: verdicts by keys, with buttons, and blind."""

from pathlib import Path

from mcdiff_batch.engine.review.blind import draw, enhanced_side
from tests.support.review import IDS, lines
from tests.support.review_page import ORDER, Page


def test_accept_reject_note_and_undo_by_keys(page: Page, output: Path) -> None:
    page.press("a")
    page.wait_for_case(ORDER[1])
    page.press("r", "6")
    page.press("Enter")
    page.wait_for_case(ORDER[2])
    page.press("n")
    page.type("left rib")
    page.press("Enter")
    page.wait_for_text("verdict", "Note: left rib")
    page.press("r", "Tab")
    page.type(", faint")
    page.press("Enter")
    page.wait_for_case(ORDER[3])
    told = [(x["case"], x["verdict"], x.get("reason"), x.get("note")) for x in lines(output)]
    assert told[:3] == [
        (ORDER[0], "accept", None, None),
        (ORDER[1], "reject", "blurred", None),
        (ORDER[2], "none", None, "left rib"),
    ]
    assert told[3][:3] == (ORDER[2], "reject", "other")
    assert {x["reviewer"] for x in lines(output)} == {"anna"}
    assert page.text("progress").startswith("1 accepted · 2 rejected")
    page.press("u")
    page.wait_for_case(ORDER[2])
    page.wait_for_text("verdict", "Note: left rib")
    page.press("u", "u")
    page.wait_for_case(ORDER[1])
    page.wait_for_text("notice", "Undone")
    assert page.text("progress").startswith("1 accepted · 0 rejected")
    page.press("u")
    page.wait_for_case(ORDER[0])
    page.wait_for_text("progress", "0 accepted")
    page.press("u")
    page.wait_for_text("notice", "nothing to undo")


def test_a_rejection_needs_a_reason_and_escape_takes_none(page: Page, output: Path) -> None:
    page.press("r", "Enter")
    page.wait_for_text("reject-wrong", "Choose a reason")
    page.press("8", "Enter")
    page.wait_for_text("reject-wrong", "own words")
    page.press("Escape")
    page.press("ArrowRight")
    page.wait_for_case(ORDER[1])
    assert lines(output) == []


def test_buttons_do_what_keys_do_and_the_next_space_still_blinks(page: Page, output: Path) -> None:
    box = page.browser.evaluate(
        "(x => [x.left, x.top])(document.querySelector('.accept').getBoundingClientRect())"
    )
    where = {"x": box[0] + 9, "y": box[1] + 9, "button": "left", "clickCount": 1}
    for kind in ("mousePressed", "mouseReleased"):
        page.browser.call("Input.dispatchMouseEvent", type=kind, **where)
    page.wait_for_case(ORDER[1])
    page.press(" ")
    assert page.titles() == ["Before (depth 0)"]
    assert len(lines(output)) == 1


def test_keys_can_be_switched_off_and_typing_is_no_command(page: Page, output: Path) -> None:
    page.press("n")
    page.type("a")
    page.press("r", "u", "Escape")
    assert lines(output) == []
    page.press("?")
    page.wait_for_text("help", "blink")
    page.browser.evaluate('document.getElementById("letters").click()')
    page.press("Escape")
    page.press("a", "w")
    page.press("ArrowRight")
    page.wait_for_case(ORDER[1])
    assert lines(output) == []
    assert len(page.titles()) == 2


def test_hostile_ids_reasons_and_notes_are_shown_as_text(page: Page, output: Path) -> None:
    assert "<img src=x" in page.text("rows")
    page.press("r", "8")
    page.press("Tab")
    page.type("<script>window.x = 1</script><img src=x onerror='window.x = 2'>\x1b[31m")
    page.press("Enter")
    page.wait_for_case(ORDER[1])
    page.press("ArrowLeft")
    page.wait_for_text("verdict", "<script>window.x")
    assert page.browser.evaluate("typeof window.x") == "undefined"
    assert page.browser.evaluate("document.images.length + document.scripts.length") == 1
    assert page.browser.evaluate("document.querySelector('#rows img')") is None


def test_the_blind_comparison_by_keys(page: Page, output: Path) -> None:
    page.press("l")
    page.press("b")
    order = sorted(range(len(IDS)), key=lambda x: draw("order", 0, "anna", x))
    page.wait_for_text("progress", "0 of 6 answered")
    page.browser.wait_for('document.getElementById("stage").dataset.case')
    assert page.titles() == ["Left", "Right"]
    page.press("Home")
    page.wait_for_case(order[0])
    assert page.text("why") + page.text("figures") == ""
    assert "flagged" not in page.text("rows") + page.text("name")
    page.press("a", "r", "d", "s")
    assert page.titles() == ["Left", "Right"]
    page.press(" ")
    assert page.titles() == ["Left"]
    page.press("1")
    page.wait_for_case(order[1])
    page.press("2")
    page.wait_for_case(order[2])
    page.press("3")
    page.wait_for_case(order[3])
    page.press("u")
    page.wait_for_case(order[2])
    page.wait_for_text("progress", "2 of 6 answered")
    found = [(x["case"], x["preferred"]) for x in lines(output)]
    wanted = [*zip(order, ("left", "equal", "right"), strict=False), (order[2], "none")]
    assert found == wanted
    assert [x["enhanced"] for x in lines(output)[:3]] == [
        enhanced_side(0, "anna", x) for x in order[:3]
    ]
    page.press("b")
    page.wait_for_text("progress", "0 accepted")
    page.wait_for_case(order[2])
    assert not page.pressed("b")
