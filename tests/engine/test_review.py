"""`mcdiff-batch review`: what it serves and to whom, and that no verdict is lost or misread."""

import csv
import fcntl
import io
import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.errors import SpaceError, UsageError
from mcdiff_batch.engine.image.frame import Frame, grey, place, to_frame
from mcdiff_batch.engine.model.framing import standardise
from mcdiff_batch.engine.output import ledger, verdicts
from mcdiff_batch.engine.output.verdicts import Verdict, append
from mcdiff_batch.engine.review.blind import enhanced_side
from mcdiff_batch.engine.review.server import Server
from mcdiff_batch.engine.review.session import Session
from tests.support.crafting import command
from tests.support.review import (
    FAINT,
    IDS,
    Answer,
    ask,
    become,
    lines,
    reviewable,
    reviewing,
    unpack,
)
from tests.support.running import committed, image, inline, job

ROOT = os.geteuid() == 0
NOBODY = 65534
Ask = Callable[..., Answer]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reviewable(tmp_path_factory.mktemp("review"))


@pytest.fixture
def output(made: Path, tmp_path: Path) -> Path:
    """A copy to write to, beside its archive."""
    shutil.copytree(made.parent, tmp_path / "data")
    return tmp_path / "data" / made.name


class Page:
    """A server in this process, asked as the page asks."""

    def __init__(self, output: Path, **options: Any) -> None:
        self.server = Server(Session(out=output, **options))
        self.port, self.token = self.server.server_port, self.server.token
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(20)

    def ask(self, path: str, method: str = "GET", body: object = None, **headers: Any) -> Answer:
        return ask(self.port, f"/{self.token}/{path}", method, body, **headers)

    def show(self, case: int, blind: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
        found = self.ask(f"case/{case}?blind={blind}")
        assert found.status == 200, found.body
        return unpack(found.body)

    def vote(self, case: int, blind: int = 0, **ballot: Any) -> Answer:
        pixels = self.show(case, blind)[0]["pixels"]
        return self.ask("verdict", "POST", {"case": case, "pixels": pixels} | ballot)

    def states(self, blind: int = 0) -> dict[int, int]:
        found = self.ask(f"cases?blind={blind}").json
        return dict(zip(found["cases"], map(int, found["states"]), strict=True))


@pytest.fixture
def page(output: Path) -> Iterator[Page]:
    with Page(output) as one:
        yield one


def table(output: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, *words: str) -> list[Any]:
    capsys.readouterr()
    assert command(monkeypatch, "review", output, "--export", "csv", *words) == 0
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


# --- who is served


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "NONSENSE"])
def test_without_the_token_every_request_gets_the_same_refusal(page: Page, method: str) -> None:
    token = page.token
    paths = ["/", "/cases", "/review.js", f"/{token}", f"/{token[:-1]}/cases", f"/x/{token}/cases"]
    paths += [f"/{token}x/session", "//", "/../", f"/{token.upper()}/", "http://127.0.0.1/", "/%00"]
    found = [ask(page.port, x, method, b"{}" if method == "POST" else None) for x in paths]
    assert {x.status for x in found} == {403}
    assert len({x.body for x in found}) == 1
    assert token.encode() not in found[0].body
    assert not {"access-control-allow-origin", "set-cookie"} & found[0].headers.keys()


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", None, "[::1", "0"]
)
def test_a_foreign_name_that_points_here_gets_nothing(page: Page, host: str | None) -> None:
    assert page.ask("cases", Host=host).status == 403
    assert page.ask("verdict", "POST", {}, Host=host, Origin=f"http://{host}").status == 403


@pytest.mark.parametrize("host", ["localhost:9000", "127.0.0.1:9000", "localhost"])
def test_a_tunnel_with_another_port_is_served(page: Page, host: str) -> None:
    assert page.ask("cases", Host=host).status == 200
    body = {"case": 0, "pixels": page.show(0)[0]["pixels"], "verdict": "accept"}
    assert page.ask("verdict", "POST", body, Host=host, Origin=f"http://{host}").status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": None},
        {"Origin": "null"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "https://127.0.0.1"},
        {"Content_Type": "text/plain"},
        {"Content_Type": None},
    ],
)
def test_a_verdict_that_does_not_come_from_the_page_is_not_stored(
    page: Page, output: Path, headers: dict[str, Any]
) -> None:
    body = {"case": 0, "pixels": page.show(0)[0]["pixels"], "verdict": "accept"}
    assert page.ask("verdict", "POST", body, **headers).status in (403, 415)
    assert lines(output) == []


def test_every_answer_forbids_foreign_content_frames_and_caches(page: Page) -> None:
    for name in (
        "",
        "review.js",
        "review.css",
        "icon.svg",
        "cases",
        "case/0",
        "case/99",
        "nothing",
    ):
        headers = page.ask(name).headers
        rules = headers["content-security-policy"]
        assert set(re.findall(r"'[^']+'|https?:\S*|\*", rules)) == {"'none'", "'self'", "'script'"}
        assert headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers
        assert "Python" not in headers["server"]


@pytest.mark.parametrize(
    "name",
    ["../session", "review.py", "%2e%2e/server.py", "case/-1", "case/1e3", "case/", "case/9" * 9],
)
def test_what_is_not_there_is_not_found(page: Page, name: str) -> None:
    assert page.ask(name).status == 404


def test_only_this_machine_can_connect(page: Page) -> None:
    listening = [x.split() for x in Path("/proc/net/tcp").read_text().splitlines()]
    mine = [x[1] for x in listening if x[1].endswith(f":{page.port:04X}") and x[3] == "0A"]
    assert mine == [f"0100007F:{page.port:04X}"]


def test_silent_connections_do_not_use_up_threads(page: Page) -> None:
    before = threading.active_count()
    many = [socket.create_connection(("127.0.0.1", page.port)) for _ in range(120)]
    try:
        end = time.monotonic() + 20
        while threading.active_count() < before + 32 and time.monotonic() < end:
            time.sleep(0.01)
        assert threading.active_count() <= before + 64
    finally:
        for one in many:
            one.close()
    end = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert page.ask("session").status == 200


# --- what is shown


@pytest.mark.parametrize("grid", [None, "input"])
def test_images_are_those_of_the_output_and_the_scan_placed_on_its_grid(
    tmp_path: Path, grid: str | None
) -> None:
    output = reviewable(tmp_path, grid=grid)
    case = open_archive(tmp_path / "night.zarr").read(1)
    with Page(output) as page:
        about, planes = page.show(1)
    assert about["planes"] == ["depth 0", "depth 1", "enhanced", "label", "spread"]
    shape = (64, 32) if grid else (32, 16)
    assert (about["height"], about["width"]) == shape
    for name in ("enhanced", "label", "spread"):
        stored = np.frombuffer(image(output, 1, name), np.uint8).reshape(shape)
        np.testing.assert_array_equal(planes[name], stored)
    depths = standardise(case)
    if grid is None:
        depths = to_frame(depths, Frame(height=32, width=16), black=-1)
    np.testing.assert_array_equal(planes["depth 0"], grey(depths[0], np.ones(shape, bool)))
    scale = 1 if grid else place((64, 32), Frame(height=32, width=16)).scale
    assert about["mm"] == [10 / scale, 10 / scale]
    assert about["pixels"] == ledger.read(output, 0).cases[1].pixels


def test_flagged_cases_come_first_with_the_reason_in_words(page: Page) -> None:
    found = page.ask("cases").json
    assert found["cases"] == [FAINT, 0, 1, 3, 4, 5]
    assert found["flagged"] == "100000"
    (flag,) = page.show(FAINT)[0]["flags"]
    assert flag["why"].startswith("uses a small part of the intensity range")
    assert "intensity_range" in flag["todo"]
    assert page.ask(f"cases?known={found['version']}").json == {"version": None}


def test_p10_ids_are_shown_on_request_only_and_escaped(output: Path) -> None:
    with Page(output) as page:
        assert page.ask("cases").json["ids"] is None
        everything = page.ask("cases").body + page.ask("case/4").body + page.ask("session").body
        assert b"plain-4" not in everything
    with Page(output, show_ids=True) as page:
        shown = page.ask("cases").json["ids"]
        assert "plain-4" in shown
        assert all(x.isprintable() for x in shown)
        assert page.show(4)[0]["id"] == "plain-4"


def test_without_the_archive_the_results_are_shown_and_the_page_says_so(output: Path) -> None:
    shutil.rmtree(output.parent / "night.zarr")
    with Page(output) as page:
        assert "not where it was" in page.ask("session").json["missing"]
        assert "--input" in page.ask("session").json["missing"]
        about, planes = page.show(0)
        assert (set(planes), about["mm"]) == ({"enhanced", "label", "spread"}, None)
        assert page.ask("marks/0").json == {"angles": []}
        assert page.ask("case/0?blind=1").status == 404
        assert page.vote(0, verdict="accept").status == 200


def test_damaged_pixels_are_not_shown(page: Page, output: Path) -> None:
    shard = next(x for x in (output / "images.zarr/enhanced/c/0").rglob("*") if x.is_file())
    data = bytearray(shard.read_bytes())
    data[20] ^= 1
    shard.write_bytes(data)
    found = page.ask("case/0")
    assert found.status == 410
    assert "verify" in found.json["error"]


def test_a_run_may_go_on_meanwhile(page: Page, output: Path) -> None:
    later = output / "ledger/000001.json"
    data = later.read_bytes()
    later.unlink()
    assert page.ask("cases").json["cases"] == [FAINT, 0, 1, 3]
    assert page.ask("case/5").status == 404
    later.write_bytes(data)
    assert page.ask("cases").json["cases"] == [FAINT, 0, 1, 3, 4, 5]
    later.write_bytes(data[: len(data) // 2])  # a damaged record
    assert page.ask("cases").json["cases"] == [FAINT, 0, 1, 3]


# --- verdicts


def test_a_verdict_is_stored_with_who_when_and_what_was_looked_at(output: Path) -> None:
    with Page(output, reviewer="anna") as page:
        told = page.vote(3, verdict="reject", reason="blurred", note=" left rib \n").json
        assert (told["verdict"], told["reason"], told["void"]) == ("reject", "blurred", False)
        assert page.states()[3] == 2
    (line,) = lines(output)
    time_ = line.pop("time")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}", time_)
    assert line == {
        "case": 3,
        "pixels": ledger.read(output, 0).cases[3].pixels,
        "verdict": "reject",
        "reason": "blurred",
        "note": "left rib",
        "reviewer": "anna",
    }


def test_without_a_name_nobody_is_named(page: Page, output: Path) -> None:
    page.vote(0, verdict="accept")
    assert set(lines(output)[0]) == {"case", "pixels", "verdict", "time"}


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


def test_the_latest_line_of_a_case_counts_and_undo_takes_back_only_that(page: Page) -> None:
    page.vote(1, verdict="accept")
    first = page.show(1)[0]["verdict"]
    second = page.vote(1, verdict="reject", reason="blurred").json
    assert page.states()[1] == 2
    stale = page.vote(1, verdict="none", instead_of=first["at"])
    assert stale.status == 409
    assert "somebody else" in stale.json["error"]
    assert page.states()[1] == 2
    assert page.vote(1, verdict="accept", instead_of=second["at"]).status == 200
    assert page.states()[1] == 1


def test_a_verdict_is_void_when_the_image_changes(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The same archive enhanced with another seed, in the place of the first output."""
    with Page(output) as page:
        page.vote(0, verdict="reject", reason="blurred")
        old = page.show(0)[0]["pixels"]
    kept = tmp_path / "kept"
    (output / "review").rename(kept)
    shutil.rmtree(output)
    inline(job(output.parent / "night.zarr", output, draws=2, seed=9))
    kept.rename(output / "review")
    with Page(output) as page:
        assert page.states()[0] == 3
        assert page.show(0)[0]["verdict"]["void"] is True
        stale = {"case": 0, "pixels": old, "verdict": "accept"}
        assert page.ask("verdict", "POST", stale).status == 409
        row = table(output, monkeypatch, capsys)[0]
        assert row["state"] == "void: the image changed since"
        assert row["pixels_judged"] != row["pixels_now"]
        page.vote(0, verdict="accept")
        assert page.states()[0] == 1


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "perhaps"},
        {"verdict": None},
        {"verdict": "accept", "preferred": "left"},
        {"case": "0"},
        {"case": True},
        {"case": 10**30},
        {"pixels": "0" * 64},
        {"note": 5},
    ],
)
def test_what_is_no_verdict_is_not_stored(page: Page, output: Path, change: dict[str, Any]) -> None:
    body = {"case": 0, "pixels": page.show(0)[0]["pixels"], "verdict": "accept"} | change
    assert page.ask("verdict", "POST", body).status in (400, 409)
    assert page.ask("verdict", "POST", b"[" * 5000).status == 400
    assert page.ask("verdict", "POST", b" " * 20000).status == 413
    assert lines(output) == []


def test_texts_are_stored_printable_and_not_endless(page: Page, output: Path) -> None:
    page.vote(0, verdict="reject", reason="\x1b[31m<b>", note="‮" + "x" * 2000)
    (line,) = lines(output)
    assert line["reason"] == "\\x1b[31m<b>"
    assert line["note"].isprintable()
    assert len(line["note"]) < 1100


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
    code = "from mcdiff_batch.engine.cli import main; main()"
    words = (sys.executable, "-c", code, "review", output, "--export", "csv")
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "is no file" in done.stderr) == (2, True)


def test_the_table_says_which_cases_it_lacks(
    output: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    record = output / ledger.file_name(ledger.list_units(output)[0])
    record.write_text("damaged")
    with Page(output) as page:
        assert page.ask("cases").json["damaged"] == 1
    assert command(monkeypatch, "review", output, "--export", "csv") == 0
    assert f"{record.name}: is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o770, 0o755, 0o2775])
def test_nobody_can_read_the_verdicts_who_cannot_read_the_output(tmp_path: Path, mode: int) -> None:
    root = tmp_path / "out"
    root.mkdir()
    root.chmod(mode)
    old = os.umask(0o022)
    try:
        append(root, Verdict(case=0, pixels="p", verdict="accept"))
    finally:
        os.umask(old)
    assert stat.S_IMODE((root / "review").stat().st_mode) == mode
    assert stat.S_IMODE((root / verdicts.FILE).stat().st_mode) == mode & 0o666


def test_a_link_in_the_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "review").mkdir()
    (tmp_path / "foreign").write_text("")
    (tmp_path / verdicts.FILE).symlink_to(tmp_path / "foreign")
    with pytest.raises(Exception, match="the verdict was not stored"):
        append(tmp_path, Verdict(case=0, pixels="p", verdict="accept"))
    assert (tmp_path / "foreign").read_text() == ""


# --- the blind comparison


def test_blind_answers_do_not_say_which_image_is_enhanced(output: Path) -> None:
    with Page(output, reviewer="anna", blind=True) as page:
        about, planes = page.show(1, blind=1)
        assert set(planes) == {"left", "right"}
        assert not {"flags", "numbers", "optimal"} & about.keys()
        side = enhanced_side(0, "anna", 1)
        assert planes[side].tobytes() == image(output, 1)
        told = page.vote(1, blind=1, preferred=side).json
        assert "enhanced" not in json.dumps(told)
        assert page.ask("cases?blind=1").json["flagged"] == ""
        for path in ("case/1", "case/1?blind=0", "cases", "marks/1"):
            assert page.ask(path).status == 403
        assert page.vote(1, blind=1, verdict="accept").status == 403
    (line,) = lines(output)
    assert (line["preferred"], line["enhanced"], line["blind"]) == (side, side, "locked")
    assert verdicts.read(output).latest == {}  # a preference neither accepts nor rejects


def test_sides_and_order_are_drawn_for_each_case_and_reader_and_stay(output: Path) -> None:
    def listed(**options: Any) -> list[int]:
        with Page(output, blind=True, **options) as page:
            return list(page.ask("cases?blind=1").json["cases"])

    assert listed(reviewer="anna") == listed(reviewer="anna")
    orders = {tuple(listed(reviewer=x, seed=k)) for x in ("anna", "ben") for k in (0, 1)}
    assert len(orders) == 4
    sides = [[enhanced_side(seed, "anna", k) for k in range(2000)] for seed in (0, 1)]
    assert all(900 < x.count("left") < 1100 for x in sides)
    assert sides[0] != sides[1]


def test_each_reader_has_an_answer_of_its_own(
    output: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with Page(output, reviewer="anna", blind=True) as page:
        page.vote(0, blind=1, preferred="left")
        page.vote(0, blind=1, preferred="right", note="sharper")
    with Page(output, reviewer="ben", blind=True) as page:
        assert page.states(blind=1)[0] == 0
        page.vote(0, blind=1, preferred="equal")
        assert page.states(blind=1)[0] == 4
    rows = [x for x in table(output, monkeypatch, capsys) if x["kind"] == "blind"]
    anna, ben = rows
    assert (anna["reviewer"], anna["preferred"], anna["note"]) == ("anna", "right", "sharper")
    better = "enhanced" if anna["enhanced_side"] == "right" else "original"
    assert (anna["better"], ben["better"], anna["blind"]) == (better, "equal", "locked")


# --- the table


def test_the_table_has_every_case_and_starts_no_formula(
    output: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    hostile = [
        '=cmd|"/c calc"!A1',
        "+1",
        "-1+2",
        "@SUM(1)",
        "\t=1",
        " =1",
        "\uff1d1",
        "a\nb",
        'say "x"',
    ]
    for note in hostile:
        append(output, Verdict(case=0, pixels="p", verdict="reject", reason=note, note=note))
        row = table(output, monkeypatch, capsys)[0]
        assert row["note"] == row["reason"]
        assert row["note"].lstrip()[0] not in "=+-@\uff1d"
    rows = table(output, monkeypatch, capsys)
    assert [x["case"] for x in rows] == list("012345")
    assert {x["state"] for x in rows[1:]} == {"not reviewed"}
    assert "case_id" not in rows[0]
    named = table(output, monkeypatch, capsys, "--show-ids")
    assert named[0]["case_id"] == f"'{IDS[0]}"
    assert named[2]["case_id"] == "\\x1b[31mred"


def test_the_table_goes_to_a_file_but_never_into_an_output(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("review", output, "--export", "csv", "--to")
    assert command(monkeypatch, *words, tmp_path / "table.csv") == 0
    assert (tmp_path / "table.csv").read_text().startswith('"case","kind"')
    before = committed(output)
    for file in (output / "table.csv", output.parent / "night.zarr/x.csv", tmp_path / "no/x.csv"):
        assert command(monkeypatch, *words, file) == 2
    assert committed(output) == before


# --- the command, and the run


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
        taken = [sys.executable, "-c", "from mcdiff_batch.engine.cli import main; main()"]
        taken += ["review", str(output), "--port", str(port)]
        done = subprocess.run(taken, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (2, "")
        assert "choose another port" in done.stderr
        review.process.send_signal(signal.SIGINT)
        rest, _ = review.process.communicate(timeout=30)
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
        end = time.monotonic() + 30
        while not told.exists() and time.monotonic() < end:
            time.sleep(0.02)
        argument, mode, page = told.read_text().split("\n", 2)
        assert token not in argument
        assert mode == "700"
        assert review.url in page
        review.process.send_signal(signal.SIGTERM)
        assert review.process.wait(30) == 0
        assert not Path(argument.removeprefix("file://")).exists()


@pytest.fixture
def public(made: Path) -> Iterator[Path]:
    """A copy of the output where every user of the machine can come to."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        shutil.copytree(made, Path(name) / made.name)
        (Path(name) / made.name).chmod(0o755)
        yield Path(name) / made.name


def as_nobody(work: Callable[[], bool]) -> bool:
    """What `work` returns in a process of another user; False if it raises."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            become(NOBODY)
            code = 0 if work() else 1
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def can_read(file: Path) -> bool:
    try:
        return bool(file.read_bytes())
    except PermissionError:
        return False


def is_refused(output: Path) -> bool:
    try:
        verdicts.check_writable(output)
    except UsageError as error:
        return "no verdict can be stored" in str(error)
    return False


@pytest.mark.skipif(not ROOT, reason="plays another user, so it has to be root")
def test_another_user_of_the_machine_gets_neither_the_page_nor_the_verdicts(public: Path) -> None:
    with Page(public) as page:
        page.vote(0, verdict="accept")
        assert as_nobody(lambda: [ask(page.port, x).status for x in ("/", "/x/")] == [403, 403])
    assert as_nobody(lambda: can_read(public / verdicts.FILE))  # as the output can be read
    shutil.rmtree(public / "review")
    public.chmod(0o711)  # names inside can be reached, if they are known
    append(public, Verdict(case=0, pixels="p", verdict="accept"))
    assert not as_nobody(lambda: can_read(public / verdicts.FILE))


@pytest.mark.skipif(not ROOT, reason="plays another user, so it has to be root")
def test_where_no_verdict_can_be_stored_the_review_does_not_begin(public: Path) -> None:
    assert as_nobody(lambda: is_refused(public))
    assert not is_refused(public)
