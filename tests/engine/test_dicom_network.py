"""Peers that are full, deaf, silent or hostile: each is an exit code and a line, within a time."""

import gc
import json
import shutil
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import Comprehensive3DSRStorage, SegmentationStorage, UltrasoundImageStorage

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.pacs import dicomweb, store
from tests.support.crafting import command
from tests.support.dicom import enhance, make_image, scan, uid
from tests.support.network import (
    LEFT_SOCKETS,
    Reply,
    deaf_port,
    mute_server,
    proxy,
    store_server,
    time_limit,
    web_server,
)

pytestmark = pytest.mark.filterwarnings(LEFT_SOCKETS)
ALL = (UltrasoundImageStorage, SegmentationStorage, Comprehensive3DSRStorage)


@pytest.fixture(autouse=True)
def _limited(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Gives up soon, and looks for no password in the home of the user."""
    monkeypatch.setattr(dicomweb, "WAIT", 0.01)
    monkeypatch.setenv("HOME", "/nonexistent")
    with time_limit(60):
        yield
        gc.collect()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "TIMEOUT", 0.3)
    monkeypatch.setattr(dicomweb, "TIMEOUT", 0.3)


@pytest.fixture(scope="module")
def one_case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run on one case, to be sent only."""
    return enhance(tmp_path_factory.mktemp("one"), cases=1)


HALVES = {  # what a peer says before it falls silent
    "nothing": b"",
    "two bytes of a PDU": b"\x02\x00",
    "a PDU that claims 4 GB": b"\x02\x00\xff\xff\xff\xff" + bytes(70),
    "half an answer": b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{",
}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("words", HALVES.values(), ids=list(HALVES))
@pytest.mark.parametrize("way", ["--store", "--dicomweb"])
def test_p9_a_peer_that_falls_silent_ends_the_export_and_leaves_no_thread(
    one_case: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, way: str, words: bytes
) -> None:
    with mute_server(words) as port:
        address = f"127.0.0.1:{port}" if way == "--store" else f"http://127.0.0.1:{port}"
        assert command(monkeypatch, "export-dicom", one_case, way, address) == 1
    assert "run the same command again" in capsys.readouterr().err
    assert_that_threads_end()


def assert_that_threads_end() -> None:
    """The process could not end before threads that are no daemons."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(20)
            assert not thread.is_alive()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("budget", [1_500, 3_000])
def test_p9_a_pacs_that_falls_silent_in_the_middle_ends_the_export(
    one_case: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, budget: int
) -> None:
    with store_server(ALL) as (address, _), proxy(int(address.split(":")[1])) as line:
        line.limit, line.silent = budget, True
        words = ("export-dicom", one_case, "--store", f"127.0.0.1:{line.port}")
        assert command(monkeypatch, *words) == 1
        assert "breaks the connection, 3 times" in capsys.readouterr().err
    assert_that_threads_end()


def test_p9_a_server_that_goes_on_for_ever_ends_the_export(
    one_case: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """It sends a byte now and then, so that no silence is too long."""
    monkeypatch.setattr(dicomweb, "LONGEST", 0.5)
    with mute_server(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n", drip=0.05) as port:
        words = ("export-dicom", one_case, "--dicomweb", f"http://127.0.0.1:{port}")
        assert command(monkeypatch, *words) == 1
    assert "the connection failed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (0xA700, 9, "out of space"),
        (0x0111, 0, ""),  # a duplicate
        (0xB000, 0, ""),  # stored, with a value adapted
        (0x0110, 3, "did not take Ultrasound Image Storage (status 0110)"),
    ],
)
def test_what_a_pacs_answers_decides_the_exit_code(
    one_case: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
    status: int,
    code: int,
    message: str,
) -> None:
    with store_server(ALL, status) as (address, _):
        assert command(monkeypatch, "export-dicom", one_case, "--store", address) == code
    assert message in capsys.readouterr().err


def test_a_pacs_without_segmentations_is_named_with_the_remedy(
    one_case: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with store_server((UltrasoundImageStorage,)) as (address, received):
        words = ("export-dicom", one_case, "--store", address)
        assert command(monkeypatch, *words) == 3
        assert "does not accept Segmentation Storage; leave it out" in capsys.readouterr().err
        assert command(monkeypatch, *words, "--objects", "image") == 0
    assert len(set(received)) == 1


def test_a_pacs_that_rejects_us_or_is_not_there_is_said_in_a_line(
    one_case: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with store_server(ALL, reject=True) as (address, _):
        assert command(monkeypatch, "export-dicom", one_case, "--store", address) == 2
        assert "check --called-aet" in capsys.readouterr().err
        words = ("export-dicom", one_case, "--store", address, "--called-aet", "PACS")
        assert command(monkeypatch, *words) == 0
    with deaf_port() as port:
        web = f"http://127.0.0.1:{port}"
        assert command(monkeypatch, "export-dicom", one_case, "--store", f"127.0.0.1:{port}") == 1
        assert "cannot be reached" in capsys.readouterr().err
        assert command(monkeypatch, "export-dicom", one_case, "--dicomweb", web) == 1
        words = ("import", "--dicomweb", web, "--output", tmp_path / "b.zarr")
        assert command(monkeypatch, *words) == 1


JSON = "application/dicom+json"


def failing(reason: int) -> bytes:
    """A STOW-RS answer: the first object of case 0 failed."""
    item = {
        "00081155": {"vr": "UI", "Value": ["1.2.3"]},
        "00081197": {"vr": "US", "Value": [reason]},
    }
    return json.dumps({"00081198": {"vr": "SQ", "Value": [item]}}).encode()


@pytest.mark.parametrize(
    ("reply", "code", "message"),
    [
        ((507, "text/plain", b""), 9, "out of space"),
        ((409, JSON, failing(0xA701)), 9, "out of space"),
        ((409, JSON, b""), 1, "did not say which"),
        ((401, "text/plain", b""), 2, "refuses access (HTTP 401); put the password into ~/.netrc"),
        ((404, "text/html", b"<script>"), 2, "answers HTTP 404"),
        ((200, JSON, b"<html>\x1b[31m"), 1, "not JSON"),
        ((500, "text/plain", b""), 1, "answers HTTP 500; run the same command again"),
        ((302, "text/plain", b"http://127.0.0.1:1/elsewhere"), 2, "answers HTTP 302"),
        ((200, JSON, b"[]"), 3, "the server did not take Ultrasound Image Storage"),
    ],
)
def test_what_a_web_server_answers_decides_the_exit_code(
    one_case: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
    reply: Reply,
    code: int,
    message: str,
) -> None:
    with web_server(lambda *_: reply) as url:
        assert command(monkeypatch, "export-dicom", one_case, "--dicomweb", url) == code
    printed = capsys.readouterr().err
    assert message in printed
    assert all(x.isprintable() or x == "\n" for x in printed)


def answers(study: str, series: str, instance: str, file: bytes, kind: str) -> Any:
    """A server with one image; UIDs and file as given."""

    def item(tag: str, value: str) -> dict[str, Any]:
        return {tag: {"vr": "UI", "Value": [value]}}

    def reply(_: str, path: str, __: Any) -> Reply:
        name = path.partition("?")[0].rsplit("/", 1)[-1]
        if "?" in path and "offset=0" not in path:
            return 204, JSON, b""
        found = {
            "studies": item("0020000D", study),
            "series": item("0020000E", series),
            "instances": item("00080018", instance) | item("00080016", UltrasoundImageStorage),
        }.get(name)
        return (200, kind, file) if found is None else (200, JSON, json.dumps([found]).encode())

    return reply


def dicom_file() -> bytes:
    out = BytesIO()
    make_image(scan()[0]).save_as(out, enforce_file_format=True)
    return out.getvalue()


PARTS = 'multipart/related; type="application/dicom"; boundary=x'
GOOD = (uid(1), uid(1, 1), uid(1, 1, 1))


@pytest.mark.parametrize(
    ("uids", "file", "kind", "message"),
    [
        (("../../x", *GOOD[1:]), b"", PARTS, "sent a UID (0020,000D) that is none"),
        ((GOOD[0], "1.2/../3", GOOD[2]), b"", PARTS, "sent a UID (0020,000E) that is none"),
        ((*GOOD[:2], "/etc/passwd"), b"", PARTS, "sent a UID (0008,0018) that is none"),
        (GOOD, b"--x\r\n\r\n" + dicom_file(), PARTS, "is not a whole DICOM file"),
        (GOOD, b"--x\r\n\r\n<html>\r\n--x--", PARTS, "is not a DICOM file"),
        (GOOD, b"", "text/html", "is not a whole DICOM file"),
    ],
)
def test_a_hostile_server_is_refused_and_nothing_is_written_outside(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
    uids: tuple[str, str, str],
    file: bytes,
    kind: str,
    message: str,
) -> None:
    (tmp_path / "here").mkdir()
    with web_server(answers(*uids, file, kind)) as url:
        words = ("import", "--dicomweb", url, "--output", tmp_path / "here/a.zarr")
        assert command(monkeypatch, *words) == 1
    assert message in capsys.readouterr().err
    assert {x.name for x in tmp_path.iterdir()} == {"here"}
    assert {x.name for x in (tmp_path / "here").iterdir()} <= {"a.zarr.download"}


def test_a_server_that_sends_the_same_page_for_ever_comes_to_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = b"--x\r\nContent-Type: application/dicom\r\n\r\n" + dicom_file() + b"\r\n--x--\r\n"
    once = answers(*GOOD, body, PARTS)

    def again(method: str, path: str, headers: Any) -> Reply:
        reply: Reply = once(method, path.replace("offset=", "offset=0&was="), headers)
        return reply

    with web_server(again) as url:
        words = ("import", "--dicomweb", url, "--output", tmp_path / "a.zarr")
        assert command(monkeypatch, *words) == 0
    assert open_archive(tmp_path / "a.zarr").cases == 1


def test_an_answer_larger_than_its_limit_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(dicomweb, "JSON_LIMIT", 1000)
    with web_server(lambda *_: (200, JSON, b" " * 5_000_000)) as url:
        words = ("import", "--dicomweb", url, "--output", tmp_path / "a.zarr")
        assert command(monkeypatch, *words) == 1
    assert "more than 1000 bytes" in capsys.readouterr().err


def test_p10_a_password_goes_to_the_server_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    body = b"--x\r\nContent-Type: application/dicom\r\n\r\n" + dicom_file() + b"\r\n--x--\r\n"
    once, seen = answers(*GOOD, body, PARTS), set[str]()

    def reply(method: str, path: str, headers: Any) -> Reply:
        seen.add(headers.get("Authorization"))
        answer: Reply = once(method, path, headers)
        return answer

    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login anna password SECRET\n")
    (tmp_path / ".netrc").chmod(0o600)
    with web_server(reply) as url:
        words = ("import", "--output", tmp_path / "a.zarr", "--dicomweb")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert command(monkeypatch, *words, url) == 0
        shutil.rmtree(tmp_path / "a.zarr")
        (tmp_path / "a.zarr.dicom.json").unlink()
        monkeypatch.setenv(dicomweb.TOKEN, "SECRET")
        assert command(monkeypatch, *words, url.replace("//", "//anna:SECRET@")) == 0
    assert seen == {"Basic YW5uYTpTRUNSRVQ=", "Bearer SECRET"}
    assert b"SECRET" not in (tmp_path / "a.zarr.dicom.json").read_bytes()
    assert "SECRET" not in "".join(capsys.readouterr())


def test_a_folder_that_no_earlier_try_left_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    body = b"--x\r\nContent-Type: application/dicom\r\n\r\n" + dicom_file() + b"\r\n--x--\r\n"
    (tmp_path / "a.zarr.download").mkdir()
    (tmp_path / "a.zarr.download" / "thesis.txt").write_text("the only copy")
    with web_server(answers(*GOOD, body, PARTS)) as url:
        words = ("import", "--dicomweb", url, "--output", tmp_path / "a.zarr")
        assert command(monkeypatch, *words) == 2
        assert "holds other files than the images that match" in capsys.readouterr().err
        (tmp_path / "a.zarr.download" / "thesis.txt").rename(tmp_path / "thesis.txt")
        assert command(monkeypatch, *words) == 0
    assert (tmp_path / "thesis.txt").read_text() == "the only copy"


def test_an_address_that_is_none_is_refused_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for url in ("pacs", "ftp://a/b", "http://", "http://a:x/b", "http://a/b c", "http://a/\u00e4"):
        words = ("import", "--dicomweb", url, "--output", tmp_path / "a.zarr")
        assert command(monkeypatch, *words) == 2
