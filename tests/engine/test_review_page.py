"""The page of a review in a real browser: every key, every promise that a reader relies on."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mcdiff_batch.engine.output import ledger
from mcdiff_batch.engine.output.verdicts import Verdict, append
from mcdiff_batch.engine.review.blind import draw, enhanced_side
from tests.support.browser import CHROMIUM, Browser, chromium
from tests.support.review import FAINT, IDS, Reviewing, lines, reviewable, reviewing

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
CODES = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Home": 36, "End": 35}
CODES |= {"Enter": 13, "Escape": 27, "Tab": 9, " ": 32}
ORDER = [FAINT, *(x for x in range(len(IDS)) if x != FAINT)]  # as the page shows them
SHIFT = 8


class Page:
    """The page of a review, steered by keys."""

    def __init__(self, browser: Browser, review: Reviewing) -> None:
        self.browser, self.review = browser, review

    def open(self, **how: Any) -> None:
        self.browser.open(self.review.url, **how)
        self.browser.wait_for('document.getElementById("stage").dataset.case')

    def press(self, *keys: str, modifiers: int = 0) -> None:
        for key in keys:
            self.browser.press(key, CODES.get(key, ord(key.upper()[0])), modifiers)

    def type(self, text: str) -> None:
        self.browser.call("Input.insertText", text=text)

    def text(self, name: str) -> str:
        return str(self.browser.evaluate(f'document.getElementById("{name}").textContent'))

    def wait_for_case(self, case: int) -> None:
        self.browser.wait_for(f'document.getElementById("stage").dataset.case === "{case}"')

    def wait_for_text(self, name: str, part: str) -> None:
        self.browser.wait_for(
            f'document.getElementById("{name}").textContent.includes({json.dumps(part)})'
        )

    def titles(self) -> list[str]:
        found = "[...document.querySelectorAll('#stage figcaption b')].map(x => x.textContent)"
        return list(self.browser.evaluate(found))

    def images(self) -> list[str]:
        found = "[...document.querySelectorAll('#stage canvas')].map(x => x.toDataURL())"
        return list(self.browser.evaluate(found))

    def sizes(self) -> list[float]:
        found = "[...document.querySelectorAll('#stage canvas')].map(x => x.clientWidth)"
        return list(self.browser.evaluate(found))

    def pressed(self, key: str) -> bool:
        found = f"document.querySelector('button[data-key=\"{key}\"]').ariaPressed"
        return bool(self.browser.evaluate(found) == "true")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as one:
        yield one


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reviewable(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def review(output: Path) -> Iterator[Reviewing]:
    with reviewing(output, "--reviewer", "anna", "--show-ids") as one:
        yield one


@pytest.fixture
def page(browser: Browser, review: Reviewing, output: Path) -> Page:
    """The page at its first case, without any verdict."""
    (output / "review/verdicts.jsonl").unlink(missing_ok=True)
    one = Page(browser, review)
    one.open()
    return one


# --- cases


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


# --- images


def test_space_blinks_in_place(page: Page) -> None:
    pair = page.images()
    assert page.titles()[1] == "Enhanced"
    page.press(" ")
    assert page.titles() == ["Before (depth 1)"]
    (before,) = page.images()
    page.press(" ")
    assert page.titles() == ["Enhanced"]
    (after,) = page.images()
    assert before != after
    page.press(" ")
    assert page.images() == [before]
    page.press("c")
    assert page.images() == pair


def test_the_wipe_moves_by_keys_mouse_and_slider(page: Page) -> None:
    page.press("w")
    assert page.titles() == ["Before | Enhanced"]
    middle = page.images()
    page.press("ArrowRight", "ArrowRight", modifiers=SHIFT)
    moved = page.images()
    assert moved != middle
    assert page.browser.evaluate('document.getElementById("wiper").value') == "60"
    slide = 'Object.assign(document.getElementById("wiper"), {value: 50})'
    page.browser.evaluate(f"{slide}.dispatchEvent(new Event('input'))")
    assert page.images() == middle
    box = page.browser.evaluate(
        "(x => [x.left, x.top, x.width])(document.querySelector('canvas').getBoundingClientRect())"
    )
    where = {"x": box[0] + 0.6 * box[2], "y": box[1] + 20, "button": "left", "clickCount": 1}
    page.browser.call("Input.dispatchMouseEvent", type="mousePressed", **where)
    page.browser.call("Input.dispatchMouseEvent", type="mouseReleased", **where)
    assert page.browser.evaluate('document.getElementById("wiper").value') == "60"
    page.press("w")
    assert len(page.titles()) == 2


def test_labels_are_off_outlined_or_filled(page: Page) -> None:
    page.press("ArrowRight")
    page.wait_for_case(ORDER[1])
    plain = page.images()
    page.press("l")
    outline = page.images()
    assert "process" in page.text("legend")
    page.press("l")
    filled = page.images()
    assert all(len({*x}) == 3 for x in zip(plain, outline, filled, strict=True))
    page.press("l")
    assert page.images() == plain
    assert not page.pressed("l")


def test_spread_and_depths_are_shown_beside(page: Page) -> None:
    page.press("s")
    assert page.titles()[-1] == "Spread, 2 draws"
    page.press("d")
    assert page.titles() == ["Before: 1", "Depth 2", "Enhanced", "Spread, 2 draws"]
    assert len(set(page.images())) == 4
    page.press("s", "d")
    assert page.titles() == ["Before (depth 1)", "Enhanced"]


def test_zoom_is_the_same_for_all_images(page: Page) -> None:
    whole = page.images()
    page.press("+", "+")
    zoomed = page.images()
    assert zoomed != whole
    assert len(set(page.sizes())) == 1
    page.press("ArrowDown")
    assert page.images() != zoomed
    page.press("-")
    assert page.images() != whole
    page.press("0")
    assert page.images() == whole


# --- verdicts


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
    assert page.titles() == ["Before (depth 1)"]
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


# --- promises


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
        first.process.wait(20)
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


SHOWN = """[...document.querySelectorAll('body *')].filter(x =>
  x.checkVisibility() && [...x.childNodes].some(y => y.nodeType === 3 && y.data.trim()))"""
CONTRAST = f"""(() => {{
  const light = (c) => {{
    const [r, g, b] = c.match(/[\\d.]+/g).slice(0, 3).map(x => x / 255)
      .map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  }};
  const ground = (x) => {{
    for (; x; x = x.parentElement) {{
      const c = getComputedStyle(x).backgroundColor;
      if (c !== "rgba(0, 0, 0, 0)") return c;
    }}
    return "rgb(255, 255, 255)";
  }};
  return {SHOWN}.map(x => {{
    const [a, b] = [light(getComputedStyle(x).color), light(ground(x))];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), x.outerHTML.slice(0, 90)];
  }}).filter(x => x[0] < 4.5);
}})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_contrast_in_both_colour_schemes(page: Page, scheme: str) -> None:
    page.open(prefers_color_scheme=scheme)
    page.press("l", "s")
    assert page.browser.evaluate(CONTRAST) == []
    assert page.browser.evaluate(f"{SHOWN}.length") > 30
    page.press("?")
    assert page.browser.evaluate(CONTRAST) == []
    page.press("Escape")
    page.press("r")
    assert page.browser.evaluate(CONTRAST) == []
    page.press("Escape")


@pytest.mark.parametrize(("width", "zoom"), [(420, 1), (1400, 2), (1000, 1)])
def test_narrow_and_enlarged_pages_do_not_scroll_sideways_and_show_the_place(
    page: Page, width: int, zoom: float
) -> None:
    page.open(width=width, zoom=zoom)
    assert page.browser.evaluate("document.documentElement.scrollWidth") <= width / zoom
    page.browser.evaluate("window.scrollTo(0, 99999)")
    top = page.browser.evaluate("document.getElementById('position').getBoundingClientRect().top")
    assert 0 <= top < 60
    inside = (
        "(x => x.right <= innerWidth)(document.querySelector('canvas').getBoundingClientRect())"
    )
    assert page.browser.evaluate(inside)


def test_the_focus_shows_and_everything_can_be_reached_by_tab(page: Page) -> None:
    reached = set()
    for _ in range(60):
        page.press("Tab")
        found = page.browser.evaluate(
            "(x => [x.id || x.dataset.key || x.tagName, getComputedStyle(x).outlineStyle])"
            "(document.activeElement)"
        )
        reached.add(found[0])
        assert found[0] == "BODY" or found[1] != "none", found
    wanted = "[...document.querySelectorAll('button[data-key]')].filter(x => !x.disabled"
    keys = page.browser.evaluate(f"{wanted} && x.checkVisibility()).map(x => x.dataset.key)")
    assert set(keys) | {"stage", "list", "filter", "advance"} <= reached


def test_nothing_moves_by_itself(page: Page) -> None:
    before = page.images()
    time.sleep(0.3)
    assert page.images() == before
    assert page.browser.evaluate("document.getAnimations().length") == 0
