"""README tells the truth about the commands."""

import os
import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()
HELP = [
    sys.executable,
    "-c",
    "import sys; sys.argv[0] = 'mcdiff-batch'; "
    + ("from mcdiff_batch.engine.cli import main; main()"),
]


def test_the_help_in_readme_is_what_the_program_prints():
    done = subprocess.run(
        [*HELP, "--help"], capture_output=True, text=True, env=os.environ | {"COLUMNS": "80"}
    )
    assert f"```\n{done.stdout.strip()}\n```" in README


def test_every_option_that_readme_names_exists():
    for command, words in re.findall(r"^mcdiff-batch (\w+) ([^\n#]*)", README, re.MULTILINE):
        printed = subprocess.run([*HELP, command, "--help"], capture_output=True, text=True)
        for option in re.findall(r"--[\w-]+", words):
            assert option in printed.stdout, f"{command} {option}"


def test_every_file_that_readme_shows_is_there():
    for target in re.findall(r"\]\(([\w./]+)\)", README):
        assert (Path(__file__).parents[1] / target).is_file(), target
