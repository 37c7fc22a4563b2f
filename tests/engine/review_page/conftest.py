"""A browser, and the page of a review in it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.browser import CHROMIUM, Browser, chromium
from tests.support.review import Reviewing, reviewable, reviewing
from tests.support.review_page import Page


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    with chromium(900) as one:
        yield one


@pytest.fixture(scope="package")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reviewable(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="package")
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
