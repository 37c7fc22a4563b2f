"""Where a run may write: never in its archive, its model or another store, by whatever path."""

from pathlib import Path

import pytest
import zarr

from mcdiff_batch.engine.errors import Exit, UsageError
from mcdiff_batch.engine.output.places import check_apart, default_output
from tests.support.crafting import command
from tests.support.running import archive, bundle, inline, job


@pytest.fixture
def night(tmp_path: Path) -> Path:
    return archive(tmp_path / "data/night.zarr", 1)


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {x: x.read_bytes() for x in sorted(folder.rglob("*")) if x.is_file()}


@pytest.mark.parametrize(
    "words",
    [
        [".", "--output", "new"],
        [".", "--output", "."],
        ["../night.zarr", "--output", "../night.zarr"],
        ["../night.zarr", "--output", "../night.zarr/depths/../x/y"],
        ["../night.zarr", "--output", "../link/x"],
        ["../link", "--output", "../night.zarr/x"],
        ["../night.zarr", "--output", ".."],
        ["../night.zarr", "--output", "../../around"],
        ["../night.zarr", "--output", "../model"],
        ["../night.zarr", "--output", "../model/x"],
        ["../night.zarr", "--output", "../NIGHT.zarr/x"],
    ],
)
def test_p6_an_output_that_is_not_apart_is_refused_with_a_proposal(
    night: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
) -> None:
    """NIGHT.zarr stands for the same folder on a file system that ignores case."""
    (night.parent / "link").symlink_to(night)
    (night.parent / "NIGHT.zarr").symlink_to(night)
    (night.parent.parent / "around").symlink_to(night.parent)
    model = bundle(night.parent / "model")
    before = snapshot(night.parent)
    monkeypatch.chdir(night)
    for more in ([], ["--dry-run"]):
        assert command(monkeypatch, "run", *words, "--bundle", model, *more) == Exit.USAGE
        assert f"use --output {night.parent}/" in capsys.readouterr().err
    assert snapshot(night.parent) == before


def test_p6_a_run_from_inside_its_archive_writes_beside_it(
    night: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = bundle(night.parent / "model")
    before = snapshot(night)
    monkeypatch.chdir(night)
    assert command(monkeypatch, "run", ".", "--bundle", model) == Exit.DONE
    assert snapshot(night) == before
    assert (night.parent / "night.enhanced/manifest.json").is_file()


def test_another_store_or_run_is_no_place_for_an_output(night: Path, tmp_path: Path) -> None:
    other, out = archive(tmp_path / "other.zarr", 1), tmp_path / "out"
    inline(job(night, out))
    with pytest.raises(UsageError, match=r"other.zarr, which is an archive"):
        inline(job(night, other / "deep/inside"))
    with pytest.raises(UsageError, match="the output of another run"):
        inline(job(night, out / "report/again"))


def test_a_group_inside_a_store_has_its_output_beside_the_store(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "study.zarr")
    zarr.create_group(tmp_path / "study.zarr/2026")
    inner = archive(tmp_path / "study.zarr/2026/night", 1)
    before = snapshot(tmp_path / "study.zarr")
    found = default_output(inner)
    assert found == tmp_path / "study-2026-night.enhanced"
    check_apart(found, inner)
    with pytest.raises(UsageError, match=r"study-2026-night\.enhanced"):
        check_apart(tmp_path / "study.zarr/2026/night.enhanced", inner)
    inline(job(inner, found))
    assert snapshot(tmp_path / "study.zarr") == before


def test_links_in_a_circle_are_an_error_of_usage(
    night: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (night.parent / "a").symlink_to(night.parent / "b")
    (night.parent / "b").symlink_to(night.parent / "a")
    model = bundle(night.parent / "model")
    out = night.parent / "a/out"
    assert command(monkeypatch, "run", night, "--bundle", model, "--output", out) == Exit.USAGE
    assert "Traceback" not in capsys.readouterr().err
