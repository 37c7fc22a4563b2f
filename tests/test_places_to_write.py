"""No command that trains, exports or measures writes into an archive or the output of a run."""

from pathlib import Path

import pytest

from mcdiff_batch.engine.errors import Exit
from tests.support.crafting import command, snapshot
from tests.support.running import archive, inline, job

COMMANDS = {
    "train": ("train", "--data", "{archive}", "--output", "{new}"),
    "export": ("export", "{bundle}", "--data", "{archive}", "--output", "{new}"),
    "fit-steps": (
        *("fit-steps", "{bundle}", "--data", "{archive}", "--held-out", "{archive}"),
        *("--output", "{new}"),
    ),
    "segmenter": ("segmenter", "--data", "{archive}", "--output", "{new}"),
    "bench": ("bench", "--quick", "--output", "{new}"),
    "bench startup": ("bench", "startup", "--repeats", "1", "--output", "{new}"),
    "bench latency": ("bench", "latency", "--quick", "--output", "{new}"),
    "bench phantom": ("bench", "phantom", "--sheet", "{new}"),
    "bench picture": (
        *("bench", "picture", "before-after", "--run", "{run}", "--truth", "{archive}"),
        *("--output", "{new}"),
    ),
    "bench fidelity": ("bench", "fidelity", "--data", "{archive}", "--work", "{new}"),
    "phantom": ("phantom", "--dicom", "{new}"),
    "export-dicom": ("export-dicom", "{run}", "--map", "{map}", "--to", "{new}"),
}


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an archive, a run on it, and a map of UIDs that belongs to it."""
    root = tmp_path_factory.mktemp("night")
    inline(job(archive(root / "a.zarr", 1), root / "a.enhanced"))
    identity = job(root / "a.zarr", root / "a.enhanced").archive.identity
    text = f'{{"archive": "{identity}", "place": "", "cases": [], "schema": 1}}'
    (root / "map.json").write_text(text)
    return root


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("place", ["a.zarr/new", "a.zarr/depths/x/new", "a.enhanced/report/new"])
def test_p6_a_place_in_an_archive_or_run_is_refused_before_anything_is_done(
    night: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    place: str,
) -> None:
    names = {
        "archive": night / "a.zarr",
        "run": night / "a.enhanced",
        "bundle": night,
        "map": night / "map.json",
        "new": night / place,
    }
    before = snapshot(night)
    words = [x.format(**names) for x in COMMANDS[name]]
    assert command(monkeypatch, *words) == Exit.USAGE
    assert f"{night / place}: is in {night / place.split('/')[0]}" in capsys.readouterr().err
    assert snapshot(night) == before
