"""An import from a DICOMweb server gets everything that matches, or says what is missing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.pacs import dicomweb
from tests.support.crafting import command
from tests.support.network import time_limit
from tests.support.pacs import ADDITIONAL, Pacs, serving

EXCEEDED = "299 pacs: The number of results exceeded the maximum supported by the server."


@pytest.fixture(autouse=True)
def _limited(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(dicomweb, "PAGE", 2)
    monkeypatch.setattr(dicomweb, "WAIT", 0.01)
    monkeypatch.setenv("HOME", "/nonexistent")
    with time_limit(30):
        yield


def imported(url: str, output: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    return command(monkeypatch, "import", "--dicomweb", url, "--output", output, *words)


WHOLE = {
    "turns its pages": Pacs(),
    "has a smaller page": Pacs(cap=1),
    "has a smaller page, and says so": Pacs(cap=1, warns=ADDITIONAL),
    "ignores offset": Pacs(offset=False),
    "ignores offset, and says no counts": Pacs(offset=False, counts=False, studies=9),
    "ignores offset and warns": Pacs(offset=False, warns=EXCEEDED),
    "ignores limit": Pacs(limit=False),
    "ignores offset and limit": Pacs(offset=False, limit=False),
    "has pages that overlap": Pacs(studies=6, shift=1, counts=False),
    "warns of something else": Pacs(warns='299 - "fuzzymatching is not supported"'),
}


@pytest.mark.parametrize("name", WHOLE)
def test_everything_comes_from_a_server_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    pacs = WHOLE[name]
    with serving(pacs) as url:
        assert imported(url, tmp_path / "a.zarr", monkeypatch) == 0
    archive = open_archive(tmp_path / "a.zarr")
    assert archive.cases == pacs.studies
    assert all(archive.read(k).present.all() for k in range(archive.cases))
    assert archive.read(0).depths.shape[0] == pacs.depths


CUT: dict[str, tuple[Pacs, str]] = {
    "the list of studies ends with a warning": (
        Pacs(cap=2, offset=False, warns=ADDITIONAL),
        "names 2 studies, and there may be more; narrow --match",
    ),
    "studies beyond its limit": (
        Pacs(cap=2, offset=False, counts=False),
        "names 2 studies, and there may be more; narrow --match",
    ),
    "studies beyond a limit of its own": (
        Pacs(studies=8, cap=3, offset=False, counts=False),
        "names 3 studies, and there may be more; narrow --match",
    ),
    "an image of each study": (
        Pacs(hidden={2: 1}),
        "names 2 of its 3 images of a series",
    ),
    "a series of each study": (Pacs(hidden={1: 1}), "names 0 of its 1 series"),
    "images, with a warning": (
        Pacs(studies=1, cap=2, offset=False, warns=EXCEEDED, counts=False),
        "names 2 images of a series, and there may be more",
    ),
}


@pytest.mark.parametrize("name", CUT)
def test_an_import_is_refused_where_the_server_does_not_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, name: str
) -> None:
    pacs, message = CUT[name]
    with serving(pacs) as url:
        assert imported(url, tmp_path / "a.zarr", monkeypatch) == 4
    printed = capsys.readouterr().err
    assert message in printed
    assert "--skip-refused imports what is complete" in printed
    assert "1.2.826" not in printed  # UIDs lead to patients
    assert list(tmp_path.iterdir()) == []


def test_what_is_complete_is_imported_on_request_and_the_exit_code_says_that_it_is_not_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with serving(Pacs(cap=2, offset=False, warns=ADDITIONAL, depths=2)) as url:
        assert imported(url, tmp_path / "a.zarr", monkeypatch, "--skip-refused") == 3
    printed = capsys.readouterr().err
    assert "names 2 studies, and there may be more" in printed
    assert "did not give everything" in printed
    assert open_archive(tmp_path / "a.zarr").cases == 2


def test_a_study_with_a_gap_is_left_out_on_request_and_named_by_number_or_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    pacs = Pacs(lost=["1.2.826.0.1.3680043.8.498.2.1.3"])
    words = ("--skip-refused",)
    with serving(pacs) as url:
        assert imported(url, tmp_path / "a.zarr", monkeypatch, *words) == 3
        assert "study 2 of 3: the server names 2 of its 3 images" in capsys.readouterr().err
        assert imported(url, tmp_path / "b.zarr", monkeypatch, *words, "--show-ids") == 3
        assert "study 1.2.826.0.1.3680043.8.498.2: the server" in capsys.readouterr().err
    assert open_archive(tmp_path / "a.zarr").cases == 2


def test_a_server_that_sends_one_image_for_every_other_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with serving(Pacs(swaps=True)) as url:
        assert imported(url, tmp_path / "a.zarr", monkeypatch) == 1
    assert "sent another image than the one that was asked for" in capsys.readouterr().err
    assert not (tmp_path / "a.zarr").exists()


def test_a_server_whose_lists_have_no_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(dicomweb, "MOST", 6)
    with serving(Pacs(studies=9)) as url:
        assert imported(url, tmp_path / "a.zarr", monkeypatch) == 1
    assert "names more than 6 results; narrow --match" in capsys.readouterr().err


def test_a_note_says_that_a_server_has_no_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with serving(Pacs(offset=False, limit=False)) as url:
        assert imported(url, tmp_path / "a.zarr", monkeypatch) == 0
    assert "names 3 studies, and repeats them" in capsys.readouterr().err
