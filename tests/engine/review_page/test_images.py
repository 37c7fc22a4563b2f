"""The page of a review: every way to look at a case."""

import pytest

from tests.support.review_page import ORDER, SHIFT, Page


def test_space_blinks_in_place(page: Page) -> None:
    pair = page.images()
    assert page.titles()[1] == "Enhanced"
    page.press(" ")
    assert page.titles() == ["Before (depth 0)"]
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
    before, after = zip(plain, outline, filled, strict=True)
    assert len({*after}) == 3
    assert len({*before}) == 1  # the label map is that of the enhanced image
    page.press("l")
    assert page.images() == plain
    assert not page.pressed("l")


@pytest.mark.parametrize(("key", "enhanced"), [(" ", None), ("d", 2)])
def test_no_way_to_look_at_a_case_draws_labels_on_an_image_from_before(
    page: Page, key: str, enhanced: int | None
) -> None:
    page.press(key)
    plain = page.images()
    page.press("l", "l")
    changed = [k for k, x in enumerate(page.images()) if x != plain[k]]
    assert changed == ([] if enhanced is None else [enhanced])


def test_the_wipe_draws_labels_on_its_enhanced_side_alone(page: Page) -> None:
    page.press("w", "l", "l")
    slide = 'Object.assign(document.getElementById("wiper"), {value: 100})'
    page.browser.evaluate(f"{slide}.dispatchEvent(new Event('input'))")
    covered = page.images()  # the image before fills the pane
    page.press("l")
    assert page.images() == covered


def test_spread_and_depths_are_shown_beside(page: Page) -> None:
    page.press("s")
    assert page.titles()[-1] == "Spread, 2 draws"
    page.press("d")
    assert page.titles() == ["Before: 0", "Depth 1", "Enhanced", "Spread, 2 draws"]
    assert len(set(page.images())) == 4
    page.press("s", "d")
    assert page.titles() == ["Before (depth 0)", "Enhanced"]


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
