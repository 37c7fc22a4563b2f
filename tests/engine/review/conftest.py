"""An output to review, and a server of its page in this process."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.review import Page, reviewable


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reviewable(tmp_path_factory.mktemp("review"))


@pytest.fixture
def output(made: Path, tmp_path: Path) -> Path:
    """A copy to write to, beside its archive."""
    shutil.copytree(made.parent, tmp_path / "data")
    return tmp_path / "data" / made.name


@pytest.fixture
def page(output: Path) -> Iterator[Page]:
    with Page(output) as one:
        yield one
