"""The page of a review: every way to a case."""

from tests.support.review import FAINT, IDS
from tests.support.review_page import ORDER, Page


def test_flagged_cases_come_first_and_the_place_is_always_in_view(page: Page) -> None:
    page.wait_for_case(FAINT)
    assert page.text("position") == f"1 of {len(IDS)}"
    assert "flagged" in page.text("name")
    assert "intensity" in page.text("why")
    page.press("ArrowRight")
    page.wait_for_case(ORDER[1])
    assert page.text("position") == f"2 of {len(IDS)}"
    assert page.text("why") == ""
    page.press("End")
    page.wait_for_case(ORDER[-1])
    page.press("ArrowRight")
    page.wait_for_text("notice", "last case")
    page.press("ArrowLeft")
    page.wait_for_case(ORDER[-2])
    page.press("Home")
    page.wait_for_case(FAINT)


def test_a_case_is_found_by_its_number_and_by_its_id(page: Page) -> None:
    page.press("g")
    page.type("4")
    page.press("Enter")
    page.wait_for_case(4)
    page.press("g")
    page.type("plain-5")
    page.press("Enter")
    page.wait_for_case(5)
    page.press("g")
    page.type("77")
    page.press("Enter")
    page.wait_for_text("goto-wrong", "no case 77")
    page.press("Escape")


def test_filters_show_flagged_open_and_rejected_cases(page: Page) -> None:
    page.press("a")
    page.wait_for_case(ORDER[1])
    page.press("f")
    page.wait_for_text("position", "of 1")
    page.press("f")
    page.wait_for_text("position", f"of {len(IDS) - 1}")
    page.press("f")
    page.wait_for_text("position", "0 of 0")
    assert "rejected" in page.text("stage")
    page.press("f")
    page.wait_for_text("position", f"of {len(IDS)}")


def test_the_list_can_be_used_by_keys_and_mouse(page: Page) -> None:
    page.browser.evaluate('document.getElementById("list").focus()')
    page.press("ArrowDown")
    page.wait_for_case(ORDER[1])
    chosen = 'document.querySelector("[aria-selected=true]").ariaPosInSet'
    assert page.browser.evaluate(chosen) == "2"
    page.browser.evaluate('document.getElementById("row-3").click()')
    page.wait_for_case(ORDER[3])
