"""Where an old record stays because the archive has lost a case, what a run found now is said."""

from pathlib import Path
from typing import Any

import pytest

from mcdiff_batch.engine.errors import Exit
from tests.support.crafting import command
from tests.support.running import archive, break_case, image, inline, job


def chunk(source: Path, case: int) -> Path:
    return source / f"depths/c/{case}/0/0/0"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Case 0 is missing, and a run has said so."""
    path = archive(tmp_path / "night.zarr", 4)
    chunk(path, 0).rename(tmp_path / "case0")
    inline(job(path, tmp_path / "night.enhanced"))
    return path


def lines(output: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> str:
    capsys.readouterr()
    assert command(monkeypatch, "status", output) == Exit.DONE
    return "".join(capsys.readouterr())


def retry(source: Path) -> None:
    inline(job(source, source.with_suffix(".enhanced"), retry_failed=True))


def test_a_reason_that_is_old_is_said_with_the_new_one(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    output = source.with_suffix(".enhanced")
    before = image(output, 1)
    (tmp_path / "case0").rename(chunk(source, 0))
    break_case(source, 0)
    chunk(source, 1).rename(tmp_path / "case1")
    retry(source)
    said = lines(output, monkeypatch, capsys)
    assert "case 0: failed missing:" in said
    assert "(the last try: failed, corrupt:" in said
    assert "case 1, which was done before, failed now (missing)" in said
    assert image(output, 1) == before


def test_a_case_that_was_repaired_in_vain_is_told_which_other_one_to_repair(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    output = source.with_suffix(".enhanced")
    (tmp_path / "case0").rename(chunk(source, 0))
    chunk(source, 2).rename(tmp_path / "case2")
    retry(source)
    said = lines(output, monkeypatch, capsys)
    assert "the last try: can be enhanced, but case 2" in said
    assert "repair that case too" in said
    (tmp_path / "case2").rename(chunk(source, 2))
    retry(source)
    assert "4 of 4 cases done" in lines(output, monkeypatch, capsys)


def test_once_the_record_is_replaced_the_old_incident_is_not_shown(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "case0").rename(chunk(source, 0))
    break_case(source, 0)
    chunk(source, 1).rename(tmp_path / "case1")
    retry(source)
    (tmp_path / "case1").rename(chunk(source, 1))
    retry(source)
    said = lines(source.with_suffix(".enhanced"), monkeypatch, capsys)
    assert "case 0: failed corrupt:" in said
    assert "the last try" not in said
