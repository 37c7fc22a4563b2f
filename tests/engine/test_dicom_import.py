"""`import --dicom` makes cases of the files in a folder, and the map that leads back to them."""

import errno
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import uid as uids

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.dicom import uid_map
from mcdiff_batch.engine.dicom.importer import Options, import_dicom
from mcdiff_batch.engine.errors import ArchiveError, SpaceError, UsageError
from mcdiff_batch.engine.telemetry import pace
from tests.support.crafting import command, snapshot
from tests.support.dicom import (
    SPACING,
    Change,
    make_image,
    multi_frame,
    save,
    scan,
    set_pixels,
    setting,
    tinted,
    uid,
    with_class,
    write_cases,
)


def test_a_series_is_a_case_whose_depths_are_ordered_by_instance_number(tmp_path: Path) -> None:
    for number, pixels in ((10, scan(0)[0]), (2, scan(0)[1]), (1, scan(1)[0])):
        save(tmp_path / "in" / f"{10 - number}.dcm", make_image(pixels, number=number))
    import_dicom(tmp_path / "in", tmp_path / "out.zarr", Options())
    case = open_archive(tmp_path / "out.zarr").read(0)
    np.testing.assert_array_equal(case.depths, [scan(1)[0], scan(0)[1], scan(0)[0]])
    assert case.spacing_mm == (SPACING, SPACING)
    assert case.intensity_range == (0, 255)


def test_studies_of_different_sizes_and_depths_become_one_archive(tmp_path: Path) -> None:
    write_cases(tmp_path / "in", cases=1)
    big = make_image(scan(7, 1, (60, 30))[0], study=5)
    save(tmp_path / "in" / "other.dcm", big)
    made = import_dicom(tmp_path / "in", tmp_path / "out.zarr", Options())
    assert (made.cases, made.depths, made.grid) == (2, 2, (60, 30))
    archive = open_archive(tmp_path / "out.zarr")
    cases = sorted((archive.read(k) for k in range(2)), key=lambda x: x.depths.shape[1])
    np.testing.assert_array_equal(cases[0].depths, scan(1))
    np.testing.assert_array_equal(cases[1].depths[0], scan(7, 1, (60, 30))[0])
    assert cases[1].present.tolist() == [True, False]


def test_cases_can_be_studies_or_folders(tmp_path: Path) -> None:
    for series in (2, 1):
        image = make_image(scan(series)[0], series=series)
        save(tmp_path / "in" / "x" / f"{series}.dcm", image)
    by_series = import_dicom(tmp_path / "in", tmp_path / "a.zarr", Options())
    assert (by_series.cases, by_series.depths) == (2, 1)
    for way in ("study", "folder"):
        import_dicom(tmp_path / "in", tmp_path / way, Options(group_by=way))  # type: ignore[arg-type]
        case = open_archive(tmp_path / way).read(0)
        np.testing.assert_array_equal(case.depths, [scan(1)[0], scan(2)[0]])


def second(change: Callable[[Any], object]) -> Change:
    """Changes the second depth of a case."""
    return lambda image: change(image) if image.InstanceNumber == 2 else None


def spell(image: Any) -> None:
    del image.InstanceNumber
    image.add_new("InstanceNumber", "LO", "two")


CONTRADICTIONS: dict[str, tuple[Change, str]] = {
    "another patient": (second(setting(PatientID="other")), r"\(0010,0020\) PatientID differs"),
    "another name without an ID": (
        lambda x: setting(PatientID="", PatientName=f"CANARY^{x.InstanceNumber}")(x),
        r"\(0010,0010\) PatientName differs",
    ),
    "another size": (
        second(lambda x: set_pixels(x, scan()[0, :30])),
        r"\(0028,0010\) Rows differs",
    ),
    "another spacing": (second(setting(PixelSpacing=[0.4, 0.4])), "PixelSpacing .* differs"),
    "another side": (second(setting(PatientOrientation=["L", "F"])), "PatientOrientation differs"),
    "the same number": (setting(InstanceNumber=1), r"\(0020,0013\) InstanceNumber is 1, as in"),
    "no number": (second(lambda x: delattr(x, "InstanceNumber")), "InstanceNumber is absent"),
    "many frames": (second(lambda x: set_pixels(x, scan(0, 3))), r"\(0028,0008\) NumberOfFrames"),
    "two scans of many frames": (multi_frame, r"NumberOfFrames is 5 .* --case-by folder"),
    "a number in words": (second(spell), "InstanceNumber is absent or no number"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_images_that_contradict_each_other_are_refused(tmp_path: Path, name: str) -> None:
    change, message = CONTRADICTIONS[name]
    write_cases(tmp_path / "in", cases=1, change=change)
    with pytest.raises(ArchiveError, match=message):
        import_dicom(tmp_path / "in", tmp_path / "out.zarr", Options())
    assert [x.name for x in tmp_path.iterdir()] == ["in"]


def test_archives_of_different_white_are_refused(tmp_path: Path) -> None:
    write_cases(tmp_path / "in", cases=1)
    deep = make_image(scan()[0], study=7)
    set_pixels(deep, scan()[0].astype(np.uint16))
    save(tmp_path / "in" / "deep.dcm", deep)
    with pytest.raises(ArchiveError, match="white as 255 in some cases and 65535 in others"):
        import_dicom(tmp_path / "in", tmp_path / "out.zarr", Options())


def test_other_files_are_counted_and_copies_are_read_once(tmp_path: Path) -> None:
    write_cases(tmp_path / "in", cases=1)
    shutil.copytree(tmp_path / "in" / "CANARY 1", tmp_path / "in" / "again")
    (tmp_path / "in" / "notes.txt").write_text("hello")
    other = make_image(scan()[0], study=3)
    with_class(uids.CTImageStorage)(other)
    save(tmp_path / "in" / "ct", other)
    own = make_image(scan()[0], study=4)
    own.Manufacturer = "mcdiff-batch"
    save(tmp_path / "in" / "own", own)
    made = import_dicom(tmp_path / "in", tmp_path / "out.zarr", Options())
    assert made.cases == 1
    assert set(made.notes) == {
        "1 file not imported: files that are not DICOM",
        "1 file not imported: DICOM objects of other kinds",
        "1 file not imported: results of mcdiff-batch",
        "2 files not imported: copies of another file",
    }


def test_two_files_with_one_uid_and_other_pixels_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.dcm", make_image(scan(0)[0]))
    save(tmp_path / "in" / "b.dcm", make_image(scan(1)[0]))
    with pytest.raises(ArchiveError, match=r"\(0008,0018\) SOPInstanceUID is that of another"):
        import_dicom(tmp_path / "in", tmp_path / "out.zarr", Options())


def test_cases_that_cannot_be_used_are_left_out_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cases(tmp_path / "in", cases=4)
    for case, change in ((2, setting(BurnedInAnnotation="YES")), (3, tinted)):
        image = make_image(scan(case)[0], case, 1, 1)
        change(image)
        save(tmp_path / "in" / f"CANARY {case}" / "IM1.dcm", image)
    words = ("import", "--dicom", tmp_path / "in", "--output", tmp_path / "out.zarr")
    assert command(monkeypatch, *words) == 4
    assert command(monkeypatch, *words, "--skip-refused") == 3
    printed = capsys.readouterr()
    assert "2 cases of 2 depths" in printed.out
    assert "BurnedInAnnotation is YES" in printed.err
    assert "PhotometricInterpretation is RGB" in printed.err
    archive = open_archive(tmp_path / "out.zarr")
    found = sorted(archive.read(k).depths.tobytes() for k in range(archive.cases))
    assert found == sorted(scan(k).tobytes() for k in (1, 4))
    assert len(uid_map.load(tmp_path / "out.zarr.dicom.json").cases) == 2


def test_p10_no_text_of_a_patient_reaches_the_archive_or_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cases(tmp_path / "in")
    words = ("import", "--dicom", tmp_path / "in", "--output", tmp_path / "out.zarr")
    assert command(monkeypatch, *words) == 0
    stored = b"".join(snapshot(tmp_path / "out.zarr").values())
    assert b"CANARY" not in stored
    assert uid(1).encode() not in stored
    bad = make_image(scan(9)[0], 9)
    bad.BurnedInAnnotation = "YES"
    path = save(tmp_path / "in" / "CANARY 9" / "a.dcm", bad)
    path.write_bytes(path.read_bytes().replace(b"20260101", b"CANARY99"))  # of no valid date
    assert command(monkeypatch, *words[:-1], tmp_path / "b.zarr") == 4
    printed = "".join(capsys.readouterr())
    assert "CANARY" not in printed
    assert "file 5 of 5" in printed
    assert command(monkeypatch, *words[:-1], tmp_path / "b.zarr", "--show-ids") == 4
    assert "CANARY 9/a.dcm" in capsys.readouterr().err


def test_the_map_leads_back_and_is_for_its_owner_only(tmp_path: Path) -> None:
    write_cases(tmp_path / "in")
    made = import_dicom(tmp_path / "in", tmp_path / "out.zarr", Options())
    assert stat.S_IMODE(made.map.stat().st_mode) == 0o600
    document = uid_map.load(made.map)
    archive = open_archive(tmp_path / "out.zarr")
    assert document.archive == archive.identity
    for index, case in enumerate(document.cases):
        assert case.case_id == archive.key(index)
        first = pydicom.dcmread(tmp_path / "in" / case.sources[0].file)
        np.testing.assert_array_equal(archive.read(index).depths[0], first.pixel_array)
    assert b"CANARY^" not in made.map.read_bytes()  # names of files, but not of patients


def test_importing_twice_makes_the_same_bytes_and_touches_no_source(tmp_path: Path) -> None:
    write_cases(tmp_path / "in", cases=3)
    before = snapshot(tmp_path / "in")
    for name in ("x", "y"):
        import_dicom(tmp_path / "in", tmp_path / name, Options())
    assert snapshot(tmp_path / "x") == snapshot(tmp_path / "y")
    maps = [(tmp_path / f"{name}.dicom.json").read_bytes() for name in ("x", "y")]
    assert maps[0] == maps[1]
    assert snapshot(tmp_path / "in") == before


def test_a_map_of_another_archive_is_never_overwritten(tmp_path: Path) -> None:
    write_cases(tmp_path / "in")
    made = import_dicom(tmp_path / "in", tmp_path / "out.zarr", Options())
    shutil.rmtree(tmp_path / "out.zarr")
    before = made.map.read_bytes()
    write_cases(tmp_path / "in", cases=3)
    with pytest.raises(UsageError, match="maps other cases"):
        import_dicom(tmp_path / "in", tmp_path / "out.zarr", Options())
    assert made.map.read_bytes() == before
    shutil.rmtree(tmp_path / "in" / "CANARY 3")  # the same cases again: as after a power cut
    import_dicom(tmp_path / "in", tmp_path / "out.zarr", Options())
    assert made.map.read_bytes() == before


def test_options_that_exclude_each_other_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cases(tmp_path / "in", cases=1)
    words = ["import", "--output", tmp_path / "out.zarr"]
    assert command(monkeypatch, *words) == 2
    both = ["--dicom", tmp_path / "in", "--dicomweb", "http://127.0.0.1:1"]
    assert command(monkeypatch, *words, *both) == 2
    assert command(monkeypatch, *words, "--dicom", tmp_path / "in", tmp_path / "in") == 2
    assert command(monkeypatch, *words, "--dicom", tmp_path / "in", "--match", "StudyID=1") == 2
    assert not (tmp_path / "out.zarr").exists()


def test_without_the_extra_a_line_says_what_to_install(tmp_path: Path) -> None:
    write_cases(tmp_path / "in", cases=1)
    code = (
        "import sys; sys.modules['pydicom'] = None; from mcdiff_batch.engine.cli import main; "
        f"sys.argv = ['mcdiff-batch', 'import', '--dicom', {str(tmp_path / 'in')!r}, "
        f"'--output', {str(tmp_path / 'out.zarr')!r}]; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        "error: DICOM needs pydicom, which is not installed: pip install 'mcdiff-batch[dicom]'\n"
    )


def test_two_studies_of_one_patient_are_two_cases(tmp_path: Path) -> None:
    write_cases(tmp_path / "in", change=setting(PatientID="CANARY-1"))
    import_dicom(tmp_path / "in", tmp_path / "out.zarr", Options())
    archive = open_archive(tmp_path / "out.zarr")
    found = sorted(archive.read(k).depths.tobytes() for k in range(archive.cases))
    assert found == sorted(scan(k).tobytes() for k in (1, 2))


def test_what_is_no_file_is_counted_and_not_opened(tmp_path: Path) -> None:
    """A pipe would never end, and a link may lead anywhere."""
    write_cases(tmp_path / "in", cases=1)
    write_cases(tmp_path / "elsewhere", cases=3)
    (tmp_path / "in" / "folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "nowhere.dcm").symlink_to(tmp_path / "nowhere")
    (tmp_path / "in" / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "in" / "pipe.dcm")
    (tmp_path / "in" / ".hidden").mkdir()
    save(tmp_path / "in" / ".hidden" / "a.dcm", make_image(scan()[0], study=7))
    directory = make_image(scan()[0], study=8)
    with_class(uids.MediaStorageDirectoryStorage)(directory)
    save(tmp_path / "in" / "DICOMDIR", directory)
    made = import_dicom(tmp_path / "in", tmp_path / "out.zarr", Options())
    assert made.cases == 1
    assert set(made.notes) == {
        "3 files not imported: pipes, other special files and broken links",
        "1 file not imported: hidden files",
        "1 file not imported: links to folders, which are not followed",
        "1 file not imported: DICOM objects of other kinds",
    }


def test_a_long_import_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pace, "EVERY", 0.0)
    write_cases(tmp_path / "in", cases=2)
    words = ("import", "--dicom", tmp_path / "in", "--output", tmp_path / "out.zarr")
    assert command(monkeypatch, *words) == 0
    printed = capsys.readouterr().err
    assert "3 of 4 headers read\n" in printed
    assert "1 of 2 cases written\n" in printed


def test_a_map_that_was_half_written_does_not_block_the_next_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The map is written under another name first, and is renamed when it is complete."""
    write_cases(tmp_path / "in")

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fail)
        with pytest.raises(SpaceError):
            import_dicom(tmp_path / "in", tmp_path / "out.zarr", Options())
    assert [x.name for x in tmp_path.iterdir()] == ["in"]
    import_dicom(tmp_path / "in", tmp_path / "out.zarr", Options())


def test_images_that_moved_are_imported_again_with_a_map_of_their_new_place(
    tmp_path: Path,
) -> None:
    write_cases(tmp_path / "in")
    import_dicom(tmp_path / "in", tmp_path / "out.zarr", Options())
    shutil.rmtree(tmp_path / "out.zarr")
    (tmp_path / "in").rename(tmp_path / "moved")
    made = import_dicom(tmp_path / "moved", tmp_path / "out.zarr", Options())
    assert uid_map.load(made.map).place == str(tmp_path / "moved")
