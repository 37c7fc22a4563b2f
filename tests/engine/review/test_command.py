"""`mcdiff-batch review`: its options, its address, and the run beside it."""

import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import zarr

from tests.support.crafting import CLI, command
from tests.support.processes import PATIENCE, wait_for
from tests.support.review import Page, ask, lines, reviewable, reviewing
from tests.support.running import committed, inline, job


def test_a_run_verify_and_a_finished_output_do_not_mind_a_review(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Page(output) as page:
        page.vote(0, verdict="accept")
    stored, before = lines(output), committed(output)
    (output / "manifest.json").unlink()
    (output / "ledger/000001.json").unlink()
    inline(job(output.parent / "night.zarr", output, draws=2))
    assert (committed(output), lines(output)) == (before, stored)
    assert command(monkeypatch, "verify", output) == 0
    with Page(output) as page:
        assert page.states()[0] == 1


@pytest.mark.parametrize("words", [["--blind"], ["--to", "x.csv"], ["--reviewer", "x" * 99]])
def test_wrong_options_are_refused(
    output: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    assert command(monkeypatch, "review", output, *words) == 2


def test_another_archive_and_a_folder_without_a_run_are_refused(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    other = reviewable(tmp_path / "other")
    zarr.open_group(other.parent / "night.zarr", mode="r+").attrs["mcdiff"] = {"schema": 1}
    words = ("review", output, "--input", other.parent / "night.zarr")
    assert command(monkeypatch, *words) == 2
    assert "is not the archive of" in capsys.readouterr().err
    assert command(monkeypatch, "review", tmp_path / "none") == 2


def test_the_address_is_printed_once_and_ctrl_c_ends_the_review(output: Path) -> None:
    with reviewing(output, "--port", 0) as review:
        host, port, token = review.address
        assert host == "127.0.0.1"
        assert len(token) >= 32
        assert ask(port, f"/{token}/cases").status == 200
        taken = [*CLI, "review", str(output), "--port", str(port)]
        done = subprocess.run(taken, capture_output=True, text=True, timeout=PATIENCE)
        assert (done.returncode, done.stdout) == (2, "")
        assert "choose another port" in done.stderr
        review.process.send_signal(signal.SIGINT)
        rest, _ = review.process.communicate(timeout=PATIENCE)
        assert review.process.returncode == 0
        assert token not in rest


def test_the_secret_is_not_among_the_arguments_of_the_browser_that_is_opened(
    output: Path, tmp_path: Path
) -> None:
    """All users of a machine see the arguments of every process."""
    script, told = tmp_path / "browser", tmp_path / "told"
    script.write_text(
        f'#!/bin/sh\nfile="${{1#file://}}"\n'
        f'{{ echo "$1"; stat -c %a "$(dirname "$file")"; cat "$file"; }} > {told}.new\n'
        f"mv {told}.new {told}\nexec sleep 5\n"
    )
    script.chmod(0o755)
    with reviewing(output, "--open", BROWSER=f"{script} %s") as review:
        _, port, token = review.address
        assert ask(port, f"/{token}/session").status == 200  # whatever the browser does
        wait_for(told.exists)
        argument, mode, page = told.read_text().split("\n", 2)
        assert token not in argument
        assert mode == "700"
        assert review.url in page
        review.process.send_signal(signal.SIGTERM)
        assert review.process.wait(PATIENCE) == 0
        assert not Path(argument.removeprefix("file://")).exists()
