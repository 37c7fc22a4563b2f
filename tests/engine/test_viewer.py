"""The page in a real browser: its script, its policy, narrow screens, and print."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mcdiff_batch.engine.page.write import write_report
from tests.support.browser import CHROMIUM, Browser, chromium
from tests.support.running import archive, break_case, inline, job

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
TITLE = 'document.getElementById("viewer-title").textContent'
OPEN = 'document.getElementById("viewer").open'
BLINKS = 'document.querySelector("[aria-pressed]").getAttribute("aria-pressed")'
ENTER, SPACE, ESCAPE = ("Enter", 13), (" ", 32), ("Escape", 27)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run of 3 cases, of which case 1 is damaged."""
    folder = tmp_path_factory.mktemp("viewer")
    path = archive(folder / "night.zarr", 3, size=(64, 32))
    break_case(path, 1)
    inline(job(path, folder / "night.enhanced"))
    return write_report(folder / "night.enhanced")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium(900) as one:
        yield one


def focus(browser: Browser, picture: int) -> None:
    browser.evaluate(f'document.querySelectorAll(".shot .stack")[{picture}].focus()')


def test_the_page_asks_for_nothing_and_breaks_no_rule_of_its_policy(
    browser: Browser, night: Path
) -> None:
    browser.open(night)
    browser.evaluate("document.title")
    asked = [
        x["params"]["request"]["url"]
        for x in browser.events
        if x["method"] == "Network.requestWillBeSent"
    ]
    assert {x.partition(":")[0] for x in asked} <= {"file", "data"}
    assert [x for x in asked if x.startswith("file:")] == [night.as_uri()]
    assert not [
        x for x in browser.events if x["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")
    ]


def test_a_script_that_is_not_ours_does_not_run(browser: Browser, night: Path) -> None:
    foreign = night.with_name("foreign.html")
    foreign.write_text(night.read_text().replace("</body>", "<script>window.x = 1</script></body>"))
    browser.open(foreign)
    assert browser.evaluate("typeof window.x") == "undefined"
    assert any("Content Security Policy" in str(x) for x in browser.events)


def test_a_click_enlarges_a_picture_and_blinks(browser: Browser, night: Path) -> None:
    browser.open(night)
    browser.evaluate('document.querySelectorAll(".shot .stack")[1].click()')
    assert browser.evaluate(OPEN)
    assert browser.evaluate(TITLE) == "Case 0: Enhanced"
    assert browser.evaluate(BLINKS) == "true"
    seen = browser.evaluate(
        f"new Promise(done => {{ const end = setInterval(() => {{"
        f' if ({TITLE} === "Case 0: Before") {{ clearInterval(end); done(true); }} }}, 20); }})'
    )
    assert seen
    shown = browser.evaluate('document.querySelectorAll("#viewer .shot:not([hidden])").length')
    assert shown == 1


def test_keys_and_focus_work(browser: Browser, night: Path) -> None:
    browser.open(night, prefers_reduced_motion="reduce")
    focus(browser, 2)
    browser.press(*ENTER)
    assert browser.evaluate(TITLE) == "Case 0: Labels"
    browser.press(*SPACE)
    assert browser.evaluate(TITLE) == "Case 0: Enhanced"
    browser.press(*ESCAPE)
    assert not browser.evaluate(OPEN)
    back = "[...document.querySelectorAll('.shot .stack')].indexOf(document.activeElement)"
    assert browser.evaluate(back) == 2


def test_nothing_blinks_by_itself_for_those_who_asked_for_less_motion(
    browser: Browser, night: Path
) -> None:
    browser.open(night, prefers_reduced_motion="reduce")
    focus(browser, 0)
    browser.press(*ENTER)
    assert browser.evaluate(BLINKS) == "false"
    browser.evaluate('document.querySelector("[aria-pressed]").click()')
    assert browser.evaluate(BLINKS) == "true"


def test_without_scripts_the_pictures_are_there(browser: Browser, night: Path) -> None:
    browser.open(night, scripts=False)
    document = browser.call("DOM.getDocument", depth=0)["root"]["nodeId"]
    find = lambda query: browser.call("DOM.querySelectorAll", nodeId=document, selector=query)
    assert len(find(".shot img")["nodeIds"]) == 2 * 4
    assert find(".stack[role]")["nodeIds"] == []
    words = "getComputedStyle(document.querySelector('.scripted')).display"
    browser.open(night)
    assert browser.evaluate(words) == "block"


@pytest.mark.parametrize("width", [420, 1400])
def test_pictures_are_wide_and_the_page_does_not_scroll_sideways(
    browser: Browser, night: Path, width: int
) -> None:
    browser.open(night, width=width)
    widths = "[...document.querySelectorAll('.shot img')].map(x => x.getBoundingClientRect().width)"
    assert min(browser.evaluate(widths)) >= 220
    assert browser.evaluate("document.documentElement.scrollWidth") <= width


def test_print_is_dark_on_white_even_in_dark_mode(browser: Browser, night: Path) -> None:
    browser.open(night, prefers_color_scheme="dark")
    colours = "(x => [x.backgroundColor, x.color])(getComputedStyle(document.body))"
    assert browser.evaluate(colours)[0] != "rgb(255, 255, 255)"
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.evaluate(colours) == ["rgb(255, 255, 255)", "rgb(0, 0, 0)"]
    broken = "getComputedStyle(document.querySelector('.card')).breakInside"
    assert browser.evaluate(broken) == "avoid"
    browser.call("Emulation.setEmulatedMedia", media="")
