"""README and the pages of the folders tell the truth: their commands, files and promises exist."""

import re
import subprocess
import sys
from functools import cache
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("engine", "train", "export", "bench")
PAGES = [ROOT / "README.md", ROOT / ".container/README.md"]
PAGES += sorted(chain.from_iterable((ROOT / x).rglob("README.md") for x in FOLDERS))
README = PAGES[0].read_text()
HELP = [
    sys.executable,
    "-c",
    "import sys; sys.argv[0] = 'mcdiff-batch'; "
    + ("from mcdiff_batch.engine.cli import main; main()"),
]
LINES = 130  # more is not read to the end
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda x: str(x.relative_to(ROOT)))


@each_page
def test_every_option_that_a_page_names_exists(page: Path) -> None:
    for call, options in _commands(page.read_text()).items():
        for option in options:
            assert option in _help(call), (call, option)


@each_page
def test_every_file_and_heading_that_a_page_links_to_is_there(page: Path) -> None:
    for path, heading in re.findall(r"\]\(([\w./]*)(?:#([\w-]+))?\)", page.read_text()):
        target = page.parent / path if path else page
        assert target.exists(), path
        if heading:
            assert heading in _headings(target.read_text()), (path, heading)


def test_every_promise_that_the_code_cites_is_numbered_in_readme() -> None:
    numbered = set(re.findall(r"^- \*\*(P\d+)\*\*", README, re.M))
    assert numbered == {f"P{n}" for n in range(1, 13)}
    files = chain.from_iterable((ROOT / x).rglob("*.py") for x in (*FOLDERS, "tests"))
    cited = set(chain.from_iterable(re.findall(r"\bP\d+\b", x.read_text()) for x in files))
    assert cited & {f"P{n}" for n in range(1, 100)} <= numbered


def test_readme_is_short_enough_to_be_read_to_its_end() -> None:
    assert len(README.splitlines()) <= LINES


@cache
def _help(call: tuple[str, ...]) -> str:
    shown = subprocess.run([*HELP, *call, "--help"], capture_output=True, text=True, timeout=120)
    assert shown.returncode == 0, (call, shown.stderr)
    return shown.stdout


def _commands(text: str) -> dict[tuple[str, ...], set[str]]:
    """The options that each command has in the code blocks of a page."""
    found: dict[tuple[str, ...], set[str]] = {}
    blocks = re.findall(r"^```\n(.*?)^```", text, re.M | re.S)
    lines = chain.from_iterable(x.replace("\\\n", " ").splitlines() for x in blocks)
    for line in lines:
        code = re.sub(r"(^|\s)#.*", "", line)
        for words in re.findall(r"(?<!-t )\bmcdiff-batch ([^&|]+)", code):
            call, options = _call(words)
            found.setdefault(call, set()).update(options)
    return found


def _call(words: str) -> tuple[tuple[str, ...], list[str]]:
    """Command (with the one below `bench`) and options of one call; `--config FILE` may precede."""
    command, rest = re.findall(r"(?:--config \S+ |--show-config )*(\S+)(.*)", words)[0]
    if command.startswith("-"):
        return (), [command]
    below = re.findall(r"^ ([a-z]+)", rest) if command == "bench" else []
    return (command, *below), re.findall(r"--[a-z][\w-]*", rest)


def _headings(text: str) -> set[str]:
    """Anchors of the headings of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", x.lower()).replace(" ", "-") for x in titles}
