"""The container files, as far as they can be checked without building them."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / ".container").glob("*.Dockerfile"))
HADOLINT = shutil.which("hadolint") or shutil.which("hadolint", path=Path(sys.executable).parent)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def steps(file: Path) -> list[tuple[str, str]]:
    """(instruction, arguments) of a Dockerfile, in order."""
    text = re.sub(r"^#.*\n", "", file.read_text(), flags=re.M).replace("\\\n", " ")
    return [(x.split()[0], x.split(maxsplit=1)[1]) for x in text.splitlines() if x.strip()]


def copied(file: Path) -> list[str]:
    """What COPY takes from the repository."""
    lines = (args for name, args in steps(file) if name == "COPY" and not args.startswith("--from"))
    return [word for args in lines for word in args.split()[:-1]]


@pytest.mark.skipif(HADOLINT is None, reason="needs hadolint")
@pytest.mark.parametrize("file", FILES, ids=lambda x: x.stem)
def test_hadolint_finds_nothing(file: Path) -> None:
    assert HADOLINT is not None
    done = subprocess.run([HADOLINT, str(file)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("file", FILES, ids=lambda x: x.stem)
def test_what_is_copied_exists_reaches_the_builder_and_is_all_that_is_installed(file: Path) -> None:
    ignore = (ROOT / ".dockerignore").read_text().split()
    assert ignore[0] == "*"
    sent = {x.removeprefix("!") for x in ignore if x.startswith("!")}
    sources = copied(file)
    assert all((ROOT / x).exists() for x in sources)
    assert set(sources) <= sent
    needed = {*PROJECT["tool"]["setuptools"]["package-dir"].values(), PROJECT["project"]["readme"]}
    assert needed | {"pyproject.toml"} == set(sources)
    left_out = [x for x in ignore[1:] if not x.startswith("!")]
    assert not any(
        fnmatch(f"engine/{x}", rule) for x in ("errors.py", "bundles") for rule in left_out
    )


@pytest.mark.parametrize("file", FILES, ids=lambda x: x.stem)
def test_the_extras_that_are_installed_exist(file: Path) -> None:
    (extras,) = (args for name, args in steps(file) if name == "ARG" and args.startswith("EXTRAS="))
    named = set(extras.removeprefix("EXTRAS=").split(","))
    readme = (ROOT / ".container/README.md").read_text()
    for more in re.findall(r"EXTRAS=([\w,-]+)", readme):
        named |= set(more.split(","))
    assert named <= set(PROJECT["project"]["optional-dependencies"])


@pytest.mark.parametrize("file", FILES, ids=lambda x: x.stem)
def test_the_program_is_not_root_gets_the_signal_and_gives_its_exit_code(file: Path) -> None:
    last = dict(steps(file))  # the last of each instruction counts
    assert int(last["USER"]) > 0
    assert last["STOPSIGNAL"] == "SIGTERM"
    assert json.loads(last["ENTRYPOINT"]) == ["mcdiff-batch"]  # no shell stands between
    assert set(json.loads(last["VOLUME"])) == {"/archive", "/output", "/cache"}
    assert "PYTHONUNBUFFERED=1" in last["ENV"]
    assert "XDG_CACHE_HOME=/cache" in last["ENV"]


def test_both_files_are_the_same_apart_from_what_gpus_need() -> None:
    cpu, cuda = (steps(ROOT / f".container/{x}.Dockerfile") for x in ("cpu", "cuda"))
    differ = [pair for pair in zip(cpu, cuda, strict=True) if pair[0] != pair[1]]
    assert {x[0] for pair in differ for x in pair} == {"ARG", "ENV"}
    assert ("ARG", "EXTRAS=cloud,dicom") in cpu


def test_no_credential_and_no_name_of_a_machine_is_in_the_files() -> None:
    for file in FILES:
        assert not re.search(r"(?i)token|password|secret|localhost", file.read_text())
