"""DICOM from and to a real PACS, Orthanc, also through a line that is cut and onto a full disk."""

import gc
import json
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from mcdiff_batch.bench.common import orthanc
from mcdiff_batch.bench.common.orthanc import Orthanc
from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.dicom.importer import Options, import_dicom
from mcdiff_batch.engine.pacs import dicomweb, store
from tests.support.crafting import command, snapshot
from tests.support.dicom import enhance, scan, write_cases
from tests.support.network import LEFT_SOCKETS, proxy, time_limit
from tests.support.running import inline, job

pytestmark = [
    pytest.mark.skipif(bool(orthanc.ABSENT), reason=orthanc.ABSENT),
    pytest.mark.filterwarnings(LEFT_SOCKETS),
]
CASES, DEPTHS = 3, 2


@pytest.fixture(autouse=True)
def _limited(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Gives up soon, and looks for no password in the home of the user."""
    monkeypatch.setattr(dicomweb, "WAIT", 0.01)
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.setattr(store, "TIMEOUT", 10.0)
    monkeypatch.setattr(dicomweb, "TIMEOUT", 10.0)
    with time_limit(90):
        yield
        gc.collect()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with time_limit(60):
        running = orthanc.running(tmp_path_factory.mktemp("orthanc"))
        started = running.__enter__()
    yield started
    running.__exit__(None, None, None)


@pytest.fixture
def pacs(server: Orthanc, tmp_path: Path) -> Orthanc:
    """Orthanc with three studies of two images each, and nothing else."""
    write_cases(tmp_path / "in", CASES, DEPTHS)
    server.clear()
    for path in sorted((tmp_path / "in").rglob("*.dcm")):
        server.put(path.read_bytes())
    return server


def enhanced(tmp_path: Path) -> Path:
    return enhance(tmp_path, cases=CASES, depths=DEPTHS)


def exported(folder: Path) -> dict[str, Any]:
    """The objects in a folder, by UID."""
    return {x.SOPInstanceUID: x for x in map(pydicom.dcmread, folder.rglob("*.dcm"))}


def stored(server: Orthanc) -> dict[str, Any]:
    found = [pydicom.dcmread(BytesIO(x)) for x in server.files()]
    assert len({x.SOPInstanceUID for x in found}) == len(found)
    return {x.SOPInstanceUID: x for x in found}


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


def test_only_the_studies_that_match_are_imported(
    tmp_path: Path, pacs: Orthanc, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    words = ("import", "--dicomweb", pacs.url, "--output", tmp_path / "a.zarr", "--match")
    assert command(monkeypatch, *words, "PatientID=NOBODY") == 4
    assert "no image of the classes" in capsys.readouterr().err
    assert command(monkeypatch, *words, "nonsense") == 2
    assert command(monkeypatch, *words, "PatientID=*-2") == 0
    assert "CANARY" not in "".join(capsys.readouterr())
    case = open_archive(tmp_path / "a.zarr").read(0)
    np.testing.assert_array_equal(case.depths, scan(2))


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
    assert "3 files not imported: results of mcdiff-batch" in capsys.readouterr().err
    assert snapshot(tmp_path / "a.zarr") == snapshot(tmp_path / "b.zarr")


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


def test_a_connection_that_breaks_once_is_opened_again(
    tmp_path: Path, pacs: Orthanc, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = enhanced(tmp_path)
    with proxy(pacs.dicom) as line:
        line.limit, line.cuts = 9_000, 1
        address = f"127.0.0.1:{line.port}"
        assert command(monkeypatch, "export-dicom", output, "--store", address) == 0
    assert len(stored(pacs)) == CASES * (DEPTHS + 3)


@pytest.mark.parametrize(("way", "code"), [("--store", 9), ("--dicomweb", 3)])
def test_a_pacs_whose_disk_is_full_ends_the_export_and_the_same_command_finishes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, way: str, code: int
) -> None:
    """Orthanc says by C-STORE that its disk is full; by DICOMweb only that it failed."""
    output, disk = enhanced(tmp_path), tmp_path / "disk"
    disk.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", "size=16k", "none", str(disk))
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a small disk cannot be mounted here")
    try:
        with orthanc.running(tmp_path / "orthanc", storage=disk) as server:
            words = (
                "export-dicom",
                output,
                way,
                server.address if way == "--store" else server.url,
            )
            assert command(monkeypatch, *words) == code
            assert "space" in capsys.readouterr().err
            assert 0 < len(server.files()) < CASES * 3
            subprocess.run(["mount", "-o", "remount,size=10m", str(disk)], check=True)
            assert command(monkeypatch, *words) == 0
            assert len(stored(server)) == CASES * 3
    finally:
        subprocess.run(["umount", str(disk)], check=True)
