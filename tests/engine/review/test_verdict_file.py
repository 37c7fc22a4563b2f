"""The file of verdicts: no line is lost or misread."""

import fcntl
import multiprocessing
import os
import resource
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mcdiff_batch.engine.errors import SpaceError, UsageError
from mcdiff_batch.engine.output import verdicts
from mcdiff_batch.engine.output.verdicts import Verdict, append
from tests.support.crafting import CLI, command
from tests.support.review import Page, lines


@pytest.mark.parametrize(
    "tail",
    [b'{"case":1,"pixels":"x","verd', b'{"case":1,"pixels":"x","verdict":"reject"}', b"\0\0"],
)
def test_a_line_that_was_cut_short_is_mended_and_costs_no_other(
    page: Page, output: Path, tail: bytes
) -> None:
    page.vote(0, verdict="reject", reason="blurred")
    with (output / verdicts.FILE).open("ab") as file:
        file.write(tail)
    assert page.states()[0] == 2
    page.vote(2, verdict="accept")
    assert (page.states()[0], page.states()[2]) == (2, 1)
    found = verdicts.read(output)
    assert found.latest[0].verdict == "reject"
    assert found.latest[2].verdict == "accept"
    assert (output / verdicts.FILE).read_bytes().endswith(b"\n")


def _append(root: Path, who: int, count: int) -> None:
    for case in range(count):
        append(root, Verdict(case=case, pixels="p", verdict="accept", reviewer=str(who)))


def test_reviewers_at_the_same_time_lose_no_line(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("fork")
    many = [spawn.Process(target=_append, args=(tmp_path, k, 60)) for k in range(4)]
    for one in many:
        one.start()
    for one in many:
        one.join(60)
    found = [(x["reviewer"], x["case"]) for x in lines(tmp_path)]
    assert sorted(found) == sorted((str(k), n) for k in range(4) for n in range(60))


def test_a_file_that_another_program_keeps_locked_is_said(page: Page, output: Path) -> None:
    assert page.vote(0, verdict="accept").status == 200
    with (output / verdicts.FILE).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        found = page.vote(0, verdict="reject")
    assert (found.status, "is locked by another program" in found.json["error"]) == (500, True)
    assert page.vote(0, verdict="reject").status == 200
    assert [x["verdict"] for x in lines(output)] == ["accept", "reject"]


def test_a_disk_that_is_full_loses_nothing_that_was_stored(tmp_path: Path) -> None:
    append(tmp_path, Verdict(case=0, pixels="p", verdict="accept"))
    before = (tmp_path / verdicts.FILE).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limits[1]))
    try:
        with pytest.raises(SpaceError, match=r"verdicts\.jsonl: .*the verdict was not stored"):
            append(tmp_path, Verdict(case=1, pixels="p", verdict="accept"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)
    assert (tmp_path / verdicts.FILE).read_bytes() == before
    append(tmp_path, Verdict(case=2, pixels="p", verdict="accept"))
    assert sorted(verdicts.read(tmp_path).latest) == [0, 2]


def test_a_line_that_is_no_verdict_is_named_with_its_place(
    output: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    append(output, Verdict(case=0, pixels="p", verdict="accept"))
    with (output / verdicts.FILE).open("a") as file:
        file.write('{"case": 1, "verdict": "perhaps"}\n')
    with pytest.raises(UsageError, match=r"is no verdict \(at byte \d+\)"):
        verdicts.read(output)
    assert command(monkeypatch, "review", output, "--export", "csv") == 2
    assert "mend or remove that line" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        '{"case":0,"pixels":"p","verdict":"reject",}',  # edited by hand
        '{"case":0,"pixels":"p","verdict":reject}',
        '{"case":-1,"pixels":"p","verdict":"reject"}',
    ],
)
def test_a_whole_line_that_cannot_be_read_is_not_passed_over(tmp_path: Path, line: str) -> None:
    append(tmp_path, Verdict(case=0, pixels="p", verdict="accept"))
    with (tmp_path / verdicts.FILE).open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(UsageError, match="is no verdict"):
        verdicts.read(tmp_path)


def test_a_pipe_in_the_place_of_the_file_ends_the_command(output: Path) -> None:
    (output / verdicts.FOLDER).mkdir()
    os.mkfifo(output / verdicts.FILE)
    words = (*CLI, "review", output, "--export", "csv")
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, "is no file" in done.stderr) == (2, True)
