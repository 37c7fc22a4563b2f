"""DICOM from and to a PACS: a real one, Orthanc, and others that are full, deaf or hostile."""

import json
import shutil
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    Comprehensive3DSRStorage,
    SegmentationStorage,
    UltrasoundImageStorage,
)

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.dicom.importer import Options, import_dicom
from mcdiff_batch.engine.pacs import dicomweb, store
from tests.support import orthanc
from tests.support.crafting import command, snapshot
from tests.support.dicom import make_image, scan, uid, write_cases
from tests.support.network import (
    Reply,
    mute_server,
    proxy,
    store_server,
    time_limit,
    web_server,
)
from tests.support.orthanc import Orthanc
from tests.support.running import inline, job

needs_orthanc = pytest.mark.skipif(bool(orthanc.ABSENT), reason=orthanc.ABSENT)
CASES, DEPTHS = 3, 2
ALL = (UltrasoundImageStorage, SegmentationStorage, Comprehensive3DSRStorage)


@pytest.fixture(autouse=True)
def _limited() -> Iterator[None]:
    with time_limit(90):
        yield


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries again soon, and looks for no password in the home of the user."""
    monkeypatch.setattr(store, "TIMEOUT", 5.0)
    monkeypatch.setattr(dicomweb, "TIMEOUT", 5.0)
    monkeypatch.setattr(dicomweb, "WAIT", 0.01)
    monkeypatch.setenv("HOME", "/nonexistent")


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[Orthanc]:
    """Orthanc with three studies of two images each."""
    write_cases(tmp_path / "in", CASES, DEPTHS)
    with orthanc.running(tmp_path / "orthanc") as server:
        for path in sorted((tmp_path / "in").rglob("*.dcm")):
            server.put(path.read_bytes())
        yield server


def enhanced(tmp_path: Path, cases: int = CASES) -> Path:
    """The output of a run on a folder of DICOM images."""
    if not (tmp_path / "in").exists():
        write_cases(tmp_path / "in", cases, DEPTHS)
    import_dicom(tmp_path / "in", tmp_path / "a.zarr", Options())
    inline(job(tmp_path / "a.zarr", tmp_path / "a.enhanced"))
    return tmp_path / "a.enhanced"


@pytest.fixture(scope="module")
def one_case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run on one case, to be sent only."""
    return enhanced(tmp_path_factory.mktemp("one"), cases=1)


def exported(folder: Path) -> dict[str, Any]:
    """The objects in a folder, by UID."""
    return {x.SOPInstanceUID: x for x in map(pydicom.dcmread, folder.rglob("*.dcm"))}


def stored(server: Orthanc) -> dict[str, Any]:
    found = [pydicom.dcmread(BytesIO(x)) for x in server.files()]
    assert len({x.SOPInstanceUID for x in found}) == len(found)
    return {x.SOPInstanceUID: x for x in found}


@needs_orthanc
def test_an_import_from_a_pacs_equals_one_from_a_folder(
    tmp_path: Path, pacs: Orthanc, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_dicom(tmp_path / "in", tmp_path / "folder.zarr", Options())
    words = ("import", "--dicomweb", pacs.url, "--output", tmp_path / "web.zarr")
    assert command(monkeypatch, *words) == 0
    assert snapshot(tmp_path / "web.zarr") == snapshot(tmp_path / "folder.zarr")
    mapped = json.loads((tmp_path / "web.zarr.dicom.json").read_text())
    assert mapped["place"] == pacs.url
    assert not (tmp_path / "web.zarr.download").exists()  # no patient's data are left behind


@needs_orthanc
def test_only_the_studies_that_match_are_imported(
    tmp_path: Path, pacs: Orthanc, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    words = ("import", "--dicomweb", pacs.url, "--output", tmp_path / "a.zarr", "--match")
    assert command(monkeypatch, *words, "PatientID=NOBODY") == 4
    assert "no image of the classes" in capsys.readouterr().err
    assert command(monkeypatch, *words, "nonsense") == 2
    assert command(monkeypatch, *words, "PatientID=CANARY-2") == 0
    assert "CANARY" not in "".join(capsys.readouterr())
    case = open_archive(tmp_path / "a.zarr").read(0)
    np.testing.assert_array_equal(case.depths, scan(2))


@needs_orthanc
@pytest.mark.parametrize("way", ["--store", "--dicomweb"])
def test_what_comes_back_from_the_pacs_is_what_was_exported_and_twice_is_once(
    tmp_path: Path, pacs: Orthanc, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    output = enhanced(tmp_path)
    assert command(monkeypatch, "export-dicom", output, "--to", tmp_path / "out") == 0
    address = pacs.address if way == "--store" else pacs.url
    for _ in range(2):
        assert command(monkeypatch, "export-dicom", output, way, address) == 0
        back, sent = stored(pacs), exported(tmp_path / "out")
        assert len(back) == CASES * DEPTHS + len(sent)
        for name, item in sent.items():
            assert back[name] == item
            if "PixelData" in item:
                np.testing.assert_array_equal(back[name].pixel_array, item.pixel_array)
    for path in (tmp_path / "in").rglob("*.dcm"):
        source = pydicom.dcmread(path)
        np.testing.assert_array_equal(back[source.SOPInstanceUID].pixel_array, source.pixel_array)


@needs_orthanc
def test_an_archive_from_a_pacs_is_exported_to_it_and_not_imported_again(
    tmp_path: Path, pacs: Orthanc, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    words = ("import", "--dicomweb", pacs.url, "--output")
    assert command(monkeypatch, *words, tmp_path / "a.zarr") == 0
    inline(job(tmp_path / "a.zarr", tmp_path / "a.enhanced"))
    words_out = ("export-dicom", tmp_path / "a.enhanced", "--dicomweb", pacs.url)
    assert command(monkeypatch, *words_out) == 0
    assert len(stored(pacs)) == CASES * (DEPTHS + 3)
    capsys.readouterr()
    assert command(monkeypatch, *words, tmp_path / "b.zarr") == 0
    assert "3 files were not imported: results of mcdiff-batch" in capsys.readouterr().err
    assert snapshot(tmp_path / "a.zarr") == snapshot(tmp_path / "b.zarr")


@needs_orthanc
def test_an_import_whose_connection_is_cut_goes_on_where_it_was(
    tmp_path: Path, pacs: Orthanc, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with proxy(pacs.http) as line:
        url = f"http://127.0.0.1:{line.port}/dicom-web"
        words = ("import", "--dicomweb", url, "--output", tmp_path / "a.zarr")
        fetched, bytes_before_the_cut = 0, 16_000
        while not fetched:  # until it is enough for the queries and an image
            line.budget = [bytes_before_the_cut]
            bytes_before_the_cut += 3_000
            assert command(monkeypatch, *words) == 1
            assert not (tmp_path / "a.zarr").exists()
            assert "run the same command again" in capsys.readouterr().err
            fetched = len(list((tmp_path / "a.zarr.download").glob("*.dcm")))
        assert 0 < fetched < 6
        line.budget = None
        assert command(monkeypatch, *words) == 0
        assert f"6 images match, {6 - fetched} are still" in capsys.readouterr().err
    import_dicom(tmp_path / "in", tmp_path / "folder.zarr", Options())
    assert snapshot(tmp_path / "a.zarr") == snapshot(tmp_path / "folder.zarr")


@needs_orthanc
@pytest.mark.parametrize("way", ["--store", "--dicomweb"])
def test_an_export_whose_connection_is_cut_is_finished_by_the_same_command(
    tmp_path: Path, pacs: Orthanc, monkeypatch: pytest.MonkeyPatch, capsys: Any, way: str
) -> None:
    output = enhanced(tmp_path)
    with proxy(pacs.dicom if way == "--store" else pacs.http) as line:
        line.limit = 3_000
        address = f"127.0.0.1:{line.port}"
        address = address if way == "--store" else f"http://{address}/dicom-web"
        assert command(monkeypatch, "export-dicom", output, way, address) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert "run the same command again" in error
        line.limit = None
        assert command(monkeypatch, "export-dicom", output, way, address) == 0
        assert len(stored(pacs)) == CASES * (DEPTHS + 3)


@needs_orthanc
def test_a_connection_that_breaks_once_is_opened_again(
    tmp_path: Path, pacs: Orthanc, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = enhanced(tmp_path)
    with proxy(pacs.dicom) as line:
        line.limit, line.cuts = 9_000, 1
        address = f"127.0.0.1:{line.port}"
        assert command(monkeypatch, "export-dicom", output, "--store", address) == 0
    assert len(stored(pacs)) == CASES * (DEPTHS + 3)


HALVES = {  # what a peer says before it falls silent
    "nothing": b"",
    "two bytes of a PDU": b"\x02\x00",
    "a PDU that claims 4 GB": b"\x02\x00\xff\xff\xff\xff" + bytes(70),
    "half an answer": b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{",
}


@pytest.mark.parametrize("words", HALVES.values(), ids=list(HALVES))
@pytest.mark.parametrize("way", ["--store", "--dicomweb"])
def test_p9_a_peer_that_falls_silent_ends_the_export_and_leaves_no_thread(
    one_case: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, way: str, words: bytes
) -> None:
    monkeypatch.setattr(store, "TIMEOUT", 0.3)
    monkeypatch.setattr(dicomweb, "TIMEOUT", 0.3)
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


@pytest.mark.parametrize("budget", [1_500, 3_000])
def test_p9_a_pacs_that_falls_silent_in_the_middle_ends_the_export(
    one_case: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, budget: int
) -> None:
    monkeypatch.setattr(store, "TIMEOUT", 0.3)
    with store_server(ALL) as (address, _), proxy(int(address.split(":")[1])) as line:
        line.limit, line.silent = budget, True
        words = ("export-dicom", one_case, "--store", f"127.0.0.1:{line.port}")
        assert command(monkeypatch, *words) == 1
        assert "the connection broke 3 times" in capsys.readouterr().err
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
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
    status: int,
    code: int,
    message: str,
) -> None:
    output = enhanced(tmp_path, cases=1)
    with store_server(ALL, status) as (address, _):
        assert command(monkeypatch, "export-dicom", output, "--store", address) == code
    assert message in capsys.readouterr().err


def test_a_pacs_without_segmentations_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    output = enhanced(tmp_path, cases=1)
    with store_server((UltrasoundImageStorage,)) as (address, received):
        words = ("export-dicom", output, "--store", address)
        assert command(monkeypatch, *words) == 3
        assert "does not accept Segmentation Storage; leave it out" in capsys.readouterr().err
        assert command(monkeypatch, *words, "--objects", "image") == 0
    assert len(set(received)) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of pynetdicom
def test_a_pacs_that_rejects_us_or_is_not_there_is_said_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    output = enhanced(tmp_path, cases=1)
    with store_server(ALL, reject=True) as (address, _):
        assert command(monkeypatch, "export-dicom", output, "--store", address) == 2
        assert "check --called-aet" in capsys.readouterr().err
        words = ("export-dicom", output, "--store", address, "--called-aet", "PACS")
        assert command(monkeypatch, *words) == 0
    free = orthanc.free_port()
    assert command(monkeypatch, "export-dicom", output, "--store", f"127.0.0.1:{free}") == 1
    assert "cannot be reached" in capsys.readouterr().err
    web = f"http://127.0.0.1:{free}"
    assert command(monkeypatch, "export-dicom", output, "--dicomweb", web) == 1
    assert command(monkeypatch, "import", "--dicomweb", web, "--output", tmp_path / "b.zarr") == 1


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
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
    reply: Reply,
    code: int,
    message: str,
) -> None:
    output = enhanced(tmp_path, cases=1)
    with web_server(lambda *_: reply) as url:
        assert command(monkeypatch, "export-dicom", output, "--dicomweb", url) == code
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
