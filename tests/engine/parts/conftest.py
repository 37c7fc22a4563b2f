"""An archive, what a run without parts makes of it, and a run in parts that has begun."""

import shutil
from pathlib import Path

import pytest

from mcdiff_batch.engine.errors import Exit
from mcdiff_batch.engine.output import locks
from tests.support.crafting import command
from tests.support.parts import CASES, part
from tests.support.running import archive, bundle, committed, inline, job


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive(tmp_path_factory.mktemp("parts") / "night.zarr", CASES)


@pytest.fixture(scope="session")
def clean(source: Path) -> dict[str, str]:
    """What an undisturbed run without parts comes to."""
    inline(job(source, source.parent / "clean", unit_size=2))
    return committed(source.parent / "clean")


@pytest.fixture(scope="session")
def begun(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by the command, of which part 1 of 3 is done; 2 was killed, and 3 never started."""
    folder = tmp_path_factory.mktemp("begun")
    shutil.copytree(source, folder / "night.zarr")
    bundle(folder / "bundle")
    with pytest.MonkeyPatch.context() as patch:
        words = (folder / "night.zarr", "--bundle", folder / "bundle", "--devices", "cpu")
        assert command(patch, "run", *words, "--unit-size", 2, "--part", "1/3") == Exit.DONE
    with locks.lock(folder / "night.enhanced", part(2, 3)):
        pass
    return folder
