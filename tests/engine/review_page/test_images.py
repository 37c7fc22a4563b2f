"""The page of a review: every way to look at a case."""

from tests.support.review_page import ORDER, SHIFT, Page


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
