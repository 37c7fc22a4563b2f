"""README tells the truth: its commands, its files and its promises are there."""

import re
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *(ROOT / x / "README.md" for x in ("engine", "train", "bench"))]
README = PAGES[0].read_text()
HELP = [
    sys.executable,
    "-c",
    "import sys; sys.argv[0] = 'mcdiff-batch'; "
    + ("from mcdiff_batch.engine.cli import main; main()"),
]
LINES = 130  # more is not read to the end


@pytest.mark.parametrize("page", PAGES, ids=lambda x: str(x.relative_to(ROOT)))
def test_every_option_that_a_page_names_exists(page: Path) -> None:
    commands = re.findall(r"^(?:\$ )?mcdiff-batch (\w[\w-]*) ([^\n#]*)", page.read_text(), re.M)
    for command, words in commands:
        below = re.findall(r"^[a-z]+", words) if command == "bench" else []  # its own commands
        call = [*HELP, command, *below, "--help"]
        printed = subprocess.run(call, capture_output=True, text=True)
        for option in re.findall(r"--[\w-]+", words):
            assert option in printed.stdout, f"{command} {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda x: str(x.relative_to(ROOT)))
def test_every_file_that_a_page_shows_is_there(page: Path) -> None:
    for target in re.findall(r"\]\(([\w./]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_promise_that_the_code_cites_is_numbered_in_readme() -> None:
    numbered = set(re.findall(r"^- \*\*(P\d+)\*\*", README, re.M))
    assert numbered == {f"P{n}" for n in range(1, 13)}
    folders = ("engine", "train", "export", "bench", "tests")
    files = chain.from_iterable((ROOT / x).rglob("*.py") for x in folders)
    cited = set(chain.from_iterable(re.findall(r"\bP\d+\b", x.read_text()) for x in files))
    assert cited & {f"P{n}" for n in range(1, 100)} <= numbered


def test_readme_is_short_enough_to_be_read_to_its_end() -> None:
    assert len(README.splitlines()) <= LINES
