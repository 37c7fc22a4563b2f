"""`check` reports the problems of an archive and changes nothing."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.crafting import chunk, command, ids, pictures, put_chunk, snapshot, write_archive

HOSTILE = "<script>\x1b[31m\u202e\n=cmd"


def test_a_good_archive_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_archive(tmp_path / "a.zarr", pictures(), attributes={"pixel_spacing_mm": 5})
    before = snapshot(path)
    assert command(monkeypatch, "check", path) == 0
    printed = capsys.readouterr().out
    assert "3 cases of 5 depths, u1, 40 x 16 px" in printed
    assert "zstd with checksum" in printed
    assert "3 usable, 0 not" in printed
    assert "warning" not in printed
    assert snapshot(path) == before  # P6


def test_bad_cases_are_named_by_index_and_end_in_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = {"case_id": ids("PHI-anna", HOSTILE, "PHI-cleo", "PHI-dora")}
    path = write_archive(tmp_path / "a.zarr", pictures(cases=4), columns=columns)
    put_chunk(path, 1, b"junk")
    chunk(path, 3).unlink()
    assert command(monkeypatch, "check", path) == 3
    printed = capsys.readouterr()
    assert "case 1: corrupt: " in printed.out
    assert "case 3: missing: " in printed.out
    assert "2 usable, 2 not" in printed.out
    assert "warning: 1 of 4 cases lack chunks: restore" in printed.out
    assert "PHI" not in printed.out + printed.err  # P10
    assert command(monkeypatch, "check", path, "--show-ids") == 3
    printed = capsys.readouterr()
    assert "case 3 (PHI-dora): missing" in printed.out
    assert all(x.isprintable() for x in printed.out.split("\n"))
    assert printed.out.count("\n") == 7  # the id's own line break is escaped


def test_json_lists_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = pictures(cases=30)
    images[:25] = 7
    columns = {"extent": np.array([[40, 16]] * 29 + [[20, 10]], "i4")}
    path = write_archive(tmp_path / "a.zarr", images, columns=columns)
    assert command(monkeypatch, "check", path, "--json") == 3
    document = json.loads(capsys.readouterr().out)
    assert [x["index"] for x in document["problems"]] == list(range(25))
    assert {x["reason"] for x in document["problems"]} == {"constant"}
    assert (document["smallest"], document["largest"]) == ([20, 10], [40, 16])
    assert len(document["identity"]) == 64
    assert command(monkeypatch, "check", path) == 3
    assert "and 5 more" in capsys.readouterr().out


def test_an_unusable_archive_ends_in_4(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_archive(tmp_path / "a.zarr", pictures().astype("i4"))
    assert command(monkeypatch, "check", path) == 4
    assert "expected u1, u2, f2 or f4" in capsys.readouterr().err


def test_suspicious_but_usable_archives_give_warnings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = pictures(dtype="u2") // 16  # 12 bit data without an intensity_range
    images[1, 3] = images[1, 2]
    path = write_archive(tmp_path / "a.zarr", images, compressors=None)
    assert command(monkeypatch, "check", path) == 0
    printed = capsys.readouterr().out
    assert "warning: 3 of 3 cases use values from 0 to 4095 only" in printed
    assert "0 and 4095, as the attribute mcdiff.intensity_range; the first is case 0" in printed
    assert "warning: 1 cases show the same image at two depths; the first is case 1" in printed
    assert "warning: depths: codec none without checksum" in printed
    assert "warning: pixel spacing is unknown" in printed


def test_a_case_that_cannot_be_read_is_not_reported_as_bad_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_archive(tmp_path / "a.zarr", pictures())

    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("mcdiff_batch.engine.archive.chunks.unpack", broken)
    assert command(monkeypatch, "check", path) == 3
    assert "case 0: unreadable: Input/output error" in capsys.readouterr().out


@pytest.mark.parametrize(("depths", "warned"), [(5, 0), (1, 0), (3, 1)])
def test_a_number_of_depths_that_the_shipped_model_does_not_take_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    depths: int,
    warned: int,
) -> None:
    path = write_archive(tmp_path / "a.zarr", pictures()[:, :depths])
    assert command(monkeypatch, "check", path) == 0
    printed = capsys.readouterr().out
    assert printed.count(f"the archive has {depths} depths, the model ") == warned
    assert command(monkeypatch, "run", path, "--dry-run") == (4 if warned else 0)


def test_depths_that_come_last_are_told_how_to_come_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    last = np.zeros((2, 70, 20, 5), "u1")
    assert command(monkeypatch, "check", write_archive(tmp_path / "a.zarr", last)) == 4
    assert "store numpy.transpose(array, (0, 3, 1, 2))" in capsys.readouterr().err
    many = np.zeros((2, 70, 80, 80), "u1")
    assert command(monkeypatch, "check", write_archive(tmp_path / "b.zarr", many)) == 4
    assert "transpose" not in capsys.readouterr().err
