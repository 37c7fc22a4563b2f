"""The page of a review in a browser, steered by keys."""

import json
from typing import Any

from tests.support.browser import Browser
from tests.support.review import FAINT, IDS, Reviewing

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
