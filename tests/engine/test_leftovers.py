"""What a killed command leaves beside its output, and who deletes it."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mcdiff_batch.engine.files import workplace
from tests.support.crafting import command

PHANTOM = "from mcdiff_batch.engine.cli import main; main()"


def test_p7_a_killed_phantom_ends_silently_and_the_next_one_deletes_what_it_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["phantom", "--output", str(tmp_path / "a.zarr")]
    killed = subprocess.Popen(
        [sys.executable, "-c", PHANTOM, *words, "--cases", "500", "--workers", "2"],
        stderr=subprocess.PIPE,
    )
    end = time.monotonic() + 60
    while not list(tmp_path.glob(".a.zarr.*.partial/a.zarr/depths/c/*")):
        assert time.monotonic() < end
        assert killed.poll() is None
        time.sleep(0.05)
    killed.kill()
    _, errors = killed.communicate(timeout=60)  # the workers have the pipe too
    assert errors == b""
    assert len(list(tmp_path.iterdir())) == 1
    assert command(monkeypatch, *words, "--cases", "1", "--workers", "1") == 0
    assert [x.name for x in tmp_path.iterdir()] == ["a.zarr"]


def test_p7_an_import_deletes_what_is_left_of_its_own_output_and_nothing_that_is_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / ".a.zarr.00000000.partial").symlink_to(outside)
    for name in (".a.zarr.12345678.partial", ".b.zarr.12345678.partial", ".a.zarr.old.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "zarr.json").touch()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 32), np.uint8)).save(tmp_path / "a.png")
    with workplace(tmp_path / "a.zarr") as used:
        used.mkdir()
        words = ("import", str(tmp_path / "a.png"), "--output", str(tmp_path / "a.zarr"))
        assert command(monkeypatch, *words) == 0
        assert used.is_dir()
    assert {x.name for x in tmp_path.iterdir()} == {
        *("a.zarr", "a.png", "outside", ".b.zarr.12345678.partial", ".a.zarr.old.partial"),
        ".a.zarr.00000000.partial",
    }
    assert list(outside.iterdir()) == []
