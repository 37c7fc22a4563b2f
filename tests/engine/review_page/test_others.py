"""The page of a review when it is not alone: a lost review, news of others, foreign requests."""

import signal
from pathlib import Path

from mcdiff_batch.engine.output import ledger
from mcdiff_batch.engine.output.verdicts import Verdict, append
from tests.support.browser import Browser
from tests.support.review import FAINT, lines, reviewable, reviewing
from tests.support.review_page import ORDER, Page


def test_a_verdict_outlives_kill_9_and_the_page_says_that_the_review_has_ended(
    browser: Browser, tmp_path: Path
) -> None:
    output = reviewable(tmp_path)
    with reviewing(output) as first:
        page = Page(browser, first)
        page.open()
        page.press("a")
        page.wait_for_case(ORDER[1])
        first.process.send_signal(signal.SIGKILL)
        first.process.wait(60)
        page.press("a")
        page.wait_for_text("alarm", "Not stored: The review has ended")
        assert page.text("position").startswith("2 of")
    with reviewing(output) as second:
        page = Page(browser, second)
        page.open()
        page.wait_for_case(ORDER[1])  # where the first review stopped
        page.press("ArrowLeft")
        page.wait_for_case(FAINT)
        assert page.text("verdict").startswith("Accepted")
        assert page.text("progress").startswith("1 accepted")
    assert [x["verdict"] for x in lines(output)] == ["accept"]


def test_no_request_leaves_the_address_of_the_review_and_no_rule_is_broken(page: Page) -> None:
    page.press("l", "w", "s", "d", "b", "b", "ArrowRight")
    page.wait_for_case(ORDER[1])
    events = page.browser.events
    asked = [x["params"]["request"] for x in events if x["method"] == "Network.requestWillBeSent"]
    assert len(asked) > 5
    assert {x["url"].startswith(page.review.url) for x in asked} == {True}
    assert not any(x["headers"].get("Referer") for x in asked)
    assert [x for x in events if x["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")] == []
    assert page.browser.evaluate("document.cookie") == ""


def test_new_results_and_verdicts_of_others_appear(page: Page, output: Path) -> None:
    """The page looks every 10 s, and when a reader comes back to it."""
    entry = ledger.read(output, 0).cases[FAINT]
    append(output, Verdict(case=FAINT, pixels=entry.pixels, verdict="reject", reviewer="ben"))
    page.browser.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_text("verdict", "ben")
    page.wait_for_text("progress", "1 rejected")


def test_news_that_come_while_a_reader_goes_on_do_not_take_the_reader_back(
    page: Page, output: Path
) -> None:
    for case in ORDER[1:]:
        append(output, Verdict(case=FAINT, pixels="p", verdict="accept"))
        page.browser.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        page.press("ArrowRight")
        page.wait_for_case(case)
