"""`export-dicom` takes what a run has, and leaves out what must not leave it."""

import json
import shutil
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from mcdiff_batch.engine.dicom.importer import Options, import_dicom
from mcdiff_batch.engine.output import ledger
from tests.support.crafting import command, snapshot
from tests.support.dicom import enhance, make_image, save, scan, write_cases, written
from tests.support.running import image, inline, job


@pytest.mark.parametrize("grid", ["frame", "input"])
def test_both_grids_of_a_run_come_back_to_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grid: str
) -> None:
    output = enhance(tmp_path, grid=grid)
    assert command(monkeypatch, "export-dicom", output, "--to", tmp_path / "out") == 0
    for case in range(2):
        found = written(tmp_path / "out", case).pixel_array
        assert found.shape == (40, 16)
        if grid == "input":
            assert found.tobytes() == image(output, case)


def test_other_pixels_or_another_name_of_the_patient_give_other_uids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = enhance(tmp_path, cases=1)
    inline(job(tmp_path / "a.zarr", tmp_path / "b.enhanced", seed=5))
    mapped = tmp_path / "a.zarr.dicom.json"
    assert command(monkeypatch, "export-dicom", output, "--to", tmp_path / "1") == 0
    words = ("export-dicom", tmp_path / "b.enhanced", "--map", mapped)
    assert command(monkeypatch, *words, "--to", tmp_path / "2") == 0
    for path in (tmp_path / "in").rglob("*.dcm"):
        source = pydicom.dcmread(path)
        source.PatientName = "Corrected^Name"
        save(path, source)
    assert command(monkeypatch, "export-dicom", output, "--to", tmp_path / "3") == 0
    derived = [written(tmp_path / name) for name in "123"]
    assert len({x.SOPInstanceUID for x in derived}) == 3
    assert derived[2].PatientName == "Corrected^Name"
    assert command(monkeypatch, *words, "--to", tmp_path / "1") == 2  # nothing is overwritten
    assert written(tmp_path / "1") == derived[0]


def test_cases_that_the_review_rejected_are_held_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = enhance(tmp_path, cases=4)
    pixels = [x.pixels for x in ledger.read(output, 0).cases]
    lines = [
        {"case": 0, "pixels": pixels[0], "verdict": "reject", "reason": "blurred"},
        {"case": 1, "pixels": "of an earlier run", "verdict": "reject"},
        {"case": 2, "pixels": pixels[2], "verdict": "reject"},
        {"case": 2, "pixels": pixels[2], "verdict": "accept"},
    ]
    (output / "review").mkdir()
    verdicts = output / "review/verdicts.jsonl"
    verdicts.write_text("".join(json.dumps(x) + "\n" for x in lines))
    assert command(monkeypatch, "export-dicom", output, "--to", tmp_path / "out") == 0
    assert "1 held back by the review" in capsys.readouterr().out
    assert {x.name for x in (tmp_path / "out").iterdir()} == {"000001", "000002", "000003"}
    lines.append({"case": 3, "pixels": pixels[3], "verdict": "reject"})
    verdicts.write_text("".join(json.dumps(x) + "\n" for x in lines))
    assert command(monkeypatch, "export-dicom", output, "--to", tmp_path / "out") == 0
    assert "rejected now (3); delete" in capsys.readouterr().err  # not case 0, which never left
    verdicts.write_text('{"case": 1, "verdict": "perhaps"}\n')
    assert command(monkeypatch, "export-dicom", output, "--to", tmp_path / "b") == 2


def test_damaged_pixels_a_lost_source_and_failed_cases_are_not_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cases(tmp_path / "in", cases=4)
    import_dicom(tmp_path / "in", tmp_path / "a.zarr", Options())
    (tmp_path / "a.zarr/depths/c/1/0/0/0").write_bytes(b"damaged")
    output = tmp_path / "a.enhanced"
    inline(job(tmp_path / "a.zarr", output, unit_size=1))
    shard = output / "images.zarr/enhanced/c/0/0/0"
    data = bytearray(shard.read_bytes())
    data[10] ^= 1
    shard.write_bytes(data)
    sources = json.loads((tmp_path / "a.zarr.dicom.json").read_text())["cases"][2]["sources"]
    (tmp_path / "in" / sources[0]["file"]).unlink()
    assert command(monkeypatch, "export-dicom", output, "--to", tmp_path / "out") == 3
    printed = capsys.readouterr()
    assert "case 0: its pixels are not as they were committed" in printed.err
    assert "case 2: its source image cannot be read" in printed.err
    assert "1 case exported" in printed.out
    assert "2 failed" in printed.out
    assert "1 without a result" in printed.out
    assert "CANARY" not in printed.out + printed.err
    assert {x.name for x in (tmp_path / "out").iterdir()} == {"000003"}


def test_a_map_of_another_archive_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = enhance(tmp_path, cases=2)
    write_cases(tmp_path / "other", cases=3)
    import_dicom(tmp_path / "other", tmp_path / "b.zarr", Options())
    words = ("export-dicom", output, "--to", tmp_path / "out")
    assert command(monkeypatch, *words, "--map", tmp_path / "b.zarr.dicom.json") == 2
    assert "is not the one that the map" in capsys.readouterr().err
    (tmp_path / "a.zarr.dicom.json").unlink()
    assert command(monkeypatch, *words) == 2
    assert "map of UIDs cannot be read" in capsys.readouterr().err
    (tmp_path / "a.zarr.dicom.json").write_text("{}")
    assert command(monkeypatch, *words) == 2


def test_the_sources_may_have_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = enhance(tmp_path, cases=1)
    (tmp_path / "in").rename(tmp_path / "moved")
    words = ("export-dicom", output, "--to", tmp_path / "out")
    assert command(monkeypatch, *words) == 3
    assert command(monkeypatch, *words, "--source", tmp_path / "moved") == 0
    assert written(tmp_path / "out").PatientID == "CANARY-1"


def test_another_image_in_the_place_of_the_source_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = enhance(tmp_path, cases=1)
    save(tmp_path / "in/CANARY 1/IM1.dcm", make_image(scan()[0], study=8))
    assert command(monkeypatch, "export-dicom", output, "--to", tmp_path / "out") == 3
    assert "another image than at the import" in capsys.readouterr().err


NAMES = {
    "ISO_IR 100": "Müller^Jörg",
    "ISO_IR 192": "王^小東=Wang^XiaoDong",
    "GB18030": "王^小东",
    ("", "ISO 2022 IR 87"): "Yamada^Tarou=山田^太郎=やまだ^たろう",
    ("", "ISO 2022 IR 149"): "Hong^Gildong=洪^吉洞=홍^길동",
}


@pytest.mark.parametrize("charset", NAMES, ids=str)
def test_names_in_every_script_come_back_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, charset: str | tuple[str, ...]
) -> None:
    def rename(source: Dataset) -> None:
        source.SpecificCharacterSet = charset if isinstance(charset, str) else list(charset)
        source.PatientName = NAMES[charset]

    output = enhance(tmp_path, cases=1, change=rename)
    assert command(monkeypatch, "export-dicom", output, "--to", tmp_path / "out") == 0
    for kind in ("image", "segmentation"):
        found = written(tmp_path / "out", kind=kind)
        assert found.PatientName == NAMES[charset], kind
        assert found.SpecificCharacterSet == (charset if isinstance(charset, str) else [*charset])


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_values_that_break_the_standard_are_passed_on_or_refused_quietly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def spoil(source: Dataset) -> None:
        source.PatientID = "CANARY" * 20  # longer than its representation allows
        source.AccessionNumber = "CANARY\x1b[31m" * 3

    output = enhance(tmp_path, cases=1, change=spoil)
    code = command(monkeypatch, "export-dicom", output, "--to", tmp_path / "out")
    printed = "".join(capsys.readouterr())
    assert code in (0, 3)
    assert "CANARY" not in printed
    if code == 0:
        assert written(tmp_path / "out").PatientID == "CANARY" * 20


def test_only_the_objects_and_cases_that_are_asked_for_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = enhance(tmp_path, cases=3)
    words = ("export-dicom", output, "--to", tmp_path / "out")
    assert command(monkeypatch, *words, "--objects", "image", "--cases", "0,2") == 0
    found = {str(x.relative_to(tmp_path / "out")) for x in (tmp_path / "out").rglob("*.dcm")}
    assert found == {"000000/image.dcm", "000002/image.dcm"}
    assert command(monkeypatch, *words, "--objects", "video") == 2
    assert command(monkeypatch, *words, "--dicomweb", "http://127.0.0.1:1") == 2
    assert command(monkeypatch, "export-dicom", output) == 2
    assert command(monkeypatch, "export-dicom", output, "--store", "nowhere") == 2
    assert command(monkeypatch, "export-dicom", tmp_path / "in", "--to", tmp_path / "x") == 2


def test_a_case_that_gets_no_report_of_angles_is_counted_and_the_reason_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = enhance(tmp_path, change=lambda x: x.pop("PixelSpacing"))
    words = ("export-dicom", output, "--to", tmp_path / "out")
    assert command(monkeypatch, *words) == 0
    said = "2 cases exported without a report of angles: the size of a pixel is unknown"
    assert said in capsys.readouterr().err
    assert list((tmp_path / "out").rglob("report.dcm")) == []
    assert command(monkeypatch, *words, "--objects", "image,segmentation") == 0
    assert "report of angles" not in capsys.readouterr().err


def test_p6_p3_an_export_changes_neither_run_nor_archive_nor_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = enhance(tmp_path)
    before = snapshot(tmp_path)
    assert command(monkeypatch, "export-dicom", output, "--to", tmp_path / "out") == 0
    shutil.rmtree(tmp_path / "out")
    assert snapshot(tmp_path) == before


def test_lossy_compression_of_the_source_is_still_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lossy(source: Dataset) -> None:
        source.LossyImageCompression, source.LossyImageCompressionRatio = "01", "12"
        source.LossyImageCompressionMethod = "ISO_10918_1"

    output = enhance(tmp_path, cases=1, change=lossy)
    assert command(monkeypatch, "export-dicom", output, "--to", tmp_path / "out") == 0
    derived = written(tmp_path / "out")
    assert (derived.LossyImageCompression, derived.LossyImageCompressionRatio) == ("01", 12)
