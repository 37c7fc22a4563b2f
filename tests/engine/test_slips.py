"""What a second round of strangers tried: slips of the hand, foreign values, late failures."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from PIL import Image

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.cli.terminal.progress import show_progress
from mcdiff_batch.engine.errors import CaseError, Exit, VerificationError
from mcdiff_batch.engine.output.places import default_archive, default_output
from mcdiff_batch.engine.run.tracker import Progress
from tests.support.crafting import CLI, command, pictures, snapshot, write_archive
from tests.support.running import archive, bundle, inline, job

Capture = pytest.CaptureFixture[str]
Monkey = pytest.MonkeyPatch


def test_the_root_of_the_file_system_is_refused_like_any_other_folder(
    monkeypatch: Monkey, capsys: Capture
) -> None:
    assert command(monkeypatch, "run", "/") == Exit.INPUT_INVALID
    assert command(monkeypatch, "status", "/") == Exit.USAGE
    assert "unexpected" not in capsys.readouterr().err
    assert default_output(Path("/")).parent == default_archive(Path("/")).parent == Path("/")


@pytest.mark.parametrize("where", ["a.zarr/new", "a.zarr/depths/new", "a.enhanced/new", "link/new"])
def test_no_command_writes_into_an_archive_or_a_run_that_it_was_not_given(
    where: str, tmp_path: Path, monkeypatch: Monkey, capsys: Capture
) -> None:
    source = archive(tmp_path / "a.zarr", 2)
    inline(job(source, tmp_path / "a.enhanced"))
    (tmp_path / "link").symlink_to(source / "depths")
    scans = tmp_path / "scans"
    scans.mkdir()
    Image.fromarray(pictures()[0, 0]).save(scans / "1.png")
    before = snapshot(tmp_path)
    for words in (("import", scans), ("phantom", "--cases", 1)):
        assert command(monkeypatch, *words, "--output", tmp_path / where) == Exit.USAGE
        assert "choose another --output" in capsys.readouterr().err
    assert snapshot(tmp_path) == before


def test_an_empty_list_of_cases_does_not_mean_all(
    tmp_path: Path, monkeypatch: Monkey, capsys: Capture
) -> None:
    source, model = archive(tmp_path / "a.zarr", 2), bundle(tmp_path / "tiny")
    words = ("run", source, "--bundle", model, "--cases", "")
    assert command(monkeypatch, *words) == Exit.USAGE
    assert "--cases" in capsys.readouterr().err
    assert not (tmp_path / "a.enhanced").exists()


@pytest.mark.parametrize("dtype", ["f8", "i2", "i4", "?", "u4"])
def test_images_of_another_type_are_refused_with_what_to_do(
    dtype: str, tmp_path: Path, monkeypatch: Monkey, capsys: Capture
) -> None:
    write_archive(tmp_path / "a.zarr", pictures().astype(dtype))
    assert command(monkeypatch, "check", tmp_path / "a.zarr") == Exit.INPUT_INVALID
    assert "store the values as one of these" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "values", "wanted"),
    [
        ("optimal_depth", np.array([1.0, 2.0, 3.0]), "integers"),
        ("extent", np.full((3, 2), 16.0), "integers"),
        ("case_id", np.array([0.5, 1.5, 2.5]), "text or integers"),
        ("pixel_spacing_mm", np.full((3, 2), 1), "floats"),
    ],
)
def test_columns_of_another_type_are_refused_in_words(
    name: str, values: Any, wanted: str, tmp_path: Path, monkeypatch: Monkey, capsys: Capture
) -> None:
    write_archive(tmp_path / "a.zarr", pictures(), columns={name: values})
    assert command(monkeypatch, "check", tmp_path / "a.zarr") == Exit.INPUT_INVALID
    assert f"expected {wanted}; store it as that" in capsys.readouterr().err


def test_a_file_beside_the_folders_of_cases_is_named(
    tmp_path: Path, monkeypatch: Monkey, capsys: Capture
) -> None:
    (tmp_path / "scans/case 1").mkdir(parents=True)
    (tmp_path / "scans/protocol.docx").touch()
    words = ("import", tmp_path / "scans", "--output", tmp_path / "a.zarr")
    assert command(monkeypatch, *words) == Exit.INPUT_INVALID
    assert "such as protocol.docx" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["nodata", "NoData", "no_data", "missing_values"])
def test_other_words_for_missing_values_are_honoured(key: str, tmp_path: Path) -> None:
    images = pictures()
    images[1, 2, :3] = 255
    path = write_archive(tmp_path / "a.zarr", np.minimum(images, 254))
    group = zarr.open_group(path)
    group["depths"].attrs[key] = 254
    with pytest.raises(CaseError, match="no measurement"):
        open_archive(path).read(1)


def test_the_end_state_comes_after_what_the_report_has_to_say(tmp_path: Path) -> None:
    source, model = archive(tmp_path / "a.zarr", 2), bundle(tmp_path / "tiny")
    words = [*CLI, "run", str(source), "--bundle", str(model), "--progress", "json"]
    subprocess.run(words, check=True, capture_output=True, timeout=120)
    page = tmp_path / "a.enhanced/report/index.html"
    page.unlink()
    (page / "in its place").mkdir(parents=True)
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    lines = [json.loads(x) for x in done.stderr.splitlines()]
    assert any("the report is not written" in x.get("warning", "") for x in lines)
    assert (lines[-1]["state"], lines[-1]["exit_code"]) == ("complete", done.returncode)


def test_the_end_state_has_the_exit_code_that_is_decided_last(capsys: Capture) -> None:
    end = Progress(
        cases=1,
        done=1,
        failed=0,
        open=0,
        computed=0,
        rate=0.0,
        incidents=0,
        elapsed=1.0,
        state="complete",
        exit_code=0,
    )

    def end_badly() -> None:
        with show_progress("json") as show:
            show(end)
            raise VerificationError("1 file could not be repaired")

    with pytest.raises(VerificationError):
        end_badly()
    last = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert (last["state"], last["exit_code"]) == ("complete", Exit.VERIFICATION_FAILED)


def test_who_stops_watching_a_run_does_not_say_that_it_stopped(
    capsys: Capture,
) -> None:
    def leave() -> None:
        with show_progress("json", watch=True):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leave()
    assert capsys.readouterr().err == ""
