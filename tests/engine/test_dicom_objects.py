"""`export-dicom` writes sound DICOM: image, segmentation and report of a phantom."""

import json
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import zarr
from pydicom import uid as uids
from pydicom.dataset import Dataset
from pydicom.sr._concepts_dict import concepts

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.image.frame import from_frame, nearest_from_frame
from mcdiff_batch.engine.output import ledger
from tests.support.crafting import command, snapshot
from tests.support.dicom import Change, enhance, make_image, region, save, uid, written

KINDS = {"image", "segmentation", "report"}
DCIODVFY = shutil.which("dciodvfy")


@pytest.fixture(scope="module")
def spine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the export of one phantom, enhanced by the shipped model."""
    from click.testing import CliRunner

    from mcdiff_batch.engine.cli import group

    root = tmp_path_factory.mktemp("spine")

    def call(*words: object) -> None:
        CliRunner().invoke(group, [str(x) for x in words], catch_exceptions=False)

    call("phantom", "--output", root / "p.zarr", "--cases", 1, "--seed", 3, "--workers", 1)
    case = open_archive(root / "p.zarr").read(0)
    for number, pixels in enumerate(case.depths, 1):
        source = make_image(np.pad(pixels, ((30, 9), (8, 4))), number=number)
        source.SequenceOfUltrasoundRegions = [
            region(30, 8, 29 + pixels.shape[0], 7 + pixels.shape[1], case.spacing_mm[0])
        ]
        del source.PixelSpacing
        save(root / "in" / f"{number}.dcm", source)
    call("import", "--dicom", root / "in", "--output", root / "a.zarr")
    call("run", root / "a.zarr", "--devices", "cpu:1")
    call("export-dicom", root / "a.enhanced", "--to", root / "out")
    return root


def complaints(path: Path) -> list[str]:
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True)
    lines = (done.stdout + done.stderr).splitlines()
    return [x for x in lines if x.startswith(("Error", "Abort"))]


needs_dciodvfy = pytest.mark.skipif(
    DCIODVFY is None, reason="Debian's package dicom3tools is not installed"
)


@needs_dciodvfy
def test_dciodvfy_finds_no_error_in_image_segmentation_and_report(spine: Path) -> None:
    files = {x.stem: x for x in (spine / "out").rglob("*.dcm")}
    assert set(files) == KINDS
    assert {kind: complaints(path) for kind, path in files.items()} == {x: [] for x in KINDS}


@needs_dciodvfy
def test_dciodvfy_notices_what_is_missing(spine: Path, tmp_path: Path) -> None:
    """So that the test above can fail."""
    bad = written(spine / "out")
    del bad.SourceImageSequence, bad.Rows
    assert complaints(save(tmp_path / "bad.dcm", bad)) != []


def as_multi_frame(source: Any) -> None:
    name = uids.UltrasoundMultiFrameImageStorage
    source.SOPClassUID = source.file_meta.MediaStorageSOPClassUID = name


def as_capture(source: Any) -> None:
    name = uids.SecondaryCaptureImageStorage
    source.SOPClassUID = source.file_meta.MediaStorageSOPClassUID = name
    source.ConversionType = "WSD"


@needs_dciodvfy
@pytest.mark.parametrize("change", [as_multi_frame, as_capture], ids=["frames", "capture"])
def test_the_image_is_of_the_class_of_its_source(
    tmp_path: Path, change: Change, monkeypatch
) -> None:
    output = enhance(tmp_path, cases=1, change=change)
    assert command(monkeypatch, "export-dicom", output, "--to", tmp_path / "out") == 0
    source = pydicom.dcmread(tmp_path / "in/CANARY 1/IM1.dcm")
    assert written(tmp_path / "out").SOPClassUID == source.SOPClassUID
    segmentation = written(tmp_path / "out", kind="segmentation")
    (series,) = segmentation.ReferencedSeriesSequence
    assert series.ReferencedInstanceSequence[0].ReferencedSOPClassUID == source.SOPClassUID
    for path in (tmp_path / "out").rglob("*.dcm"):
        assert complaints(path) == []


def test_the_report_has_the_angles_of_the_run_with_their_confidence(spine: Path) -> None:
    (entry,) = ledger.read(spine / "a.enhanced", 0).cases
    report = written(spine / "out", kind="report")
    numbers = list(measurements(report))
    quality = entry.quality
    angles = [value for name, value, unit in numbers if unit == "deg"]
    assert angles == [quality["uca_thoracic_after"], quality["uca_lumbar_after"]]
    assert sites(report) == ["Thoracic spine", "Lumbar spine"]
    confidence = ("Confidence in the curve angles, 0 to 1", quality["uca_confidence"], "1")
    assert numbers.count(confidence) == 2
    assert report.VerificationFlag == "UNVERIFIED"
    assert "Not for diagnosis" in " ".join(texts(report))
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert evidence.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == (
        written(spine / "out").SOPInstanceUID
    )


def measurements(item: Dataset) -> Any:
    """(name, value, unit) of every measurement in a tree."""
    for child in item.get("ContentSequence", ()):
        if child.ValueType == "NUM":
            measured = child.MeasuredValueSequence[0]
            unit = measured.MeasurementUnitsCodeSequence[0].CodeValue
            yield child.ConceptNameCodeSequence[0].CodeMeaning, float(measured.NumericValue), unit
        yield from measurements(child)


def sites(item: Dataset) -> list[str]:
    """The finding sites of a report, in its order."""
    names = [x.CodeMeaning for x in item.get("ConceptCodeSequence", ())]
    concept = item.get("ConceptNameCodeSequence", [Dataset()])[0].get("CodeMeaning", "")
    found = names if concept.lower() == "finding site" else []
    return found + [x for child in item.get("ContentSequence", ()) for x in sites(child)]


def code_items(dataset: Dataset) -> Iterator[Dataset]:
    for element in dataset.iterall():
        if element.VR == "SQ":
            yield from (x for x in element.value if "CodeValue" in x)


def test_every_public_code_is_one_of_the_standards_and_every_code_has_one_meaning(
    spine: Path,
) -> None:
    """pydicom has the dictionaries of PS3.16; one meaning there has a slip of the pen."""
    known = {("SCT", "73400003"): {"Transverse process of vertebra"}}
    for scheme, names in concepts.items():
        for versions in names.values():
            for code, (meaning, _) in versions.items():
                known.setdefault((scheme, code), set()).add(meaning)
    items = [x for p in (spine / "out").rglob("*.dcm") for x in code_items(pydicom.dcmread(p))]
    meanings: dict[tuple[str, str], set[str]] = {}
    for item in items:
        key = (str(item.CodingSchemeDesignator), str(item.CodeValue))
        meanings.setdefault(key, set()).add(str(item.CodeMeaning))
    for key, found in meanings.items():
        assert len(found) == 1, key
        if key[0] in ("DCM", "SCT", "UCUM"):
            assert found <= known[key], key
    assert {("SCT", "113197003"), ("SCT", "122495006"), ("SCT", "122496007")} <= set(meanings)


def texts(item: Dataset) -> Any:
    for child in item.get("ContentSequence", ()):
        yield str(child.get("TextValue", ""))
        yield from texts(child)


def test_image_and_segmentation_lie_on_the_grid_of_the_source(spine: Path) -> None:
    case = open_archive(spine / "a.zarr").read(0)
    height, width = case.depths.shape[1:]
    group: Any = zarr.open_group(spine / "a.enhanced/images.zarr", mode="r")
    derived = written(spine / "out")
    expected = np.zeros((height + 39, width + 12), np.uint8)
    inner = from_frame(group["enhanced"][0], (height, width))
    expected[30 : 30 + height, 8 : 8 + width] = np.rint(inner)
    np.testing.assert_array_equal(derived.pixel_array, expected)
    source = pydicom.dcmread(spine / "in/1.dcm")
    assert derived.SequenceOfUltrasoundRegions == source.SequenceOfUltrasoundRegions
    labels = nearest_from_frame(group["label"][0], (height, width))
    segmentation = written(spine / "out", kind="segmentation")
    found = np.zeros_like(expected)
    for plane, functions in zip(
        segmentation.pixel_array, segmentation.PerFrameFunctionalGroupsSequence, strict=True
    ):
        number = functions.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        found[plane > 0] = number
    np.testing.assert_array_equal(found[30 : 30 + height, 8 : 8 + width], labels)
    assert np.count_nonzero(found) == np.count_nonzero(labels)
    names = [x.SegmentLabel for x in segmentation.SegmentSequence]
    assert names == ["transverse process", "rib", "lumbar lump"]


def test_the_image_says_what_it_is_and_where_it_comes_from(spine: Path) -> None:
    derived = written(spine / "out")
    assert list(derived.ImageType) == ["DERIVED", "SECONDARY"]
    assert "Not for diagnosis" in derived.DerivationDescription
    assert derived.BurnedInAnnotation == "NO"
    sources = [x.ReferencedSOPInstanceUID for x in derived.SourceImageSequence]
    assert sources == [uid(1, 1, k) for k in range(1, 6)]
    (equipment,) = derived.ContributingEquipmentSequence
    assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    run = json.loads((spine / "a.enhanced/run.json").read_text())
    assert equipment.DeviceSerialNumber == run["settings"]["bundle"]
    assert derived.StudyInstanceUID == uid(1)
    assert derived.PatientName == "CANARY^Name1"
    assert derived.SeriesInstanceUID != uid(1, 1)
    assert all(b"CANARY private" not in x.read_bytes() for x in (spine / "out").rglob("*.dcm"))


def test_the_same_export_has_the_same_bytes_at_another_time(
    spine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 10_000_000)
    time.sleep(1.1)  # datetime.now() does not ask time.time()
    words = ("export-dicom", spine / "a.enhanced", "--to", tmp_path / "out")
    assert command(monkeypatch, *words) == 0
    assert snapshot(tmp_path / "out") == snapshot(spine / "out")
    assert command(monkeypatch, *words) == 0  # and again over it
    assert snapshot(tmp_path / "out") == snapshot(spine / "out")
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o700
