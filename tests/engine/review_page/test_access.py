"""The page of a review for every reader: contrast, width, focus and rest."""

import time

import pytest

from tests.support.review_page import Page

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
