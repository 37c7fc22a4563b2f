"""What several test files need and is dear to make: phantoms, a toy training, a toy bundle."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from mcdiff_batch.engine.backends.gpus import gpus
from tests.support.clusters import RayCluster, started_cluster

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked gpu are left out where there is none."""
    if gpus():
        return
    left_out = [x for x in items if x.get_closest_marker("gpu")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [x for x in items if x not in left_out]


@pytest.fixture(scope="session")
def cluster() -> Iterator[RayCluster]:
    """A Ray cluster for all tests that need one; each says how many nodes it wants."""
    with started_cluster() as found:
        yield found


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 phantom cases."""
    from mcdiff_batch.train.phantom.archive import write_phantoms

    path = tmp_path_factory.mktemp("data") / "phantoms.zarr"
    write_phantoms(path, cases=24, seed=5, workers=2)
    return path


@pytest.fixture(scope="session")
def toy_training(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy preset, all three stages, through the command."""
    from click.testing import CliRunner

    from mcdiff_batch.train.training.cli import train

    output = tmp_path_factory.mktemp("training") / "toy"
    words = ["--data", str(phantoms), "--preset", "toy", "--output", str(output)]
    CliRunner().invoke(train, words, catch_exceptions=False)
    return output


@pytest.fixture(scope="session")
def toy_bundle(
    toy_training: Path, phantoms: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    from click.testing import CliRunner

    from mcdiff_batch.export.cli import export

    output = tmp_path_factory.mktemp("bundle") / "toy"
    words = [str(toy_training), "--output", str(output), "--data", str(phantoms), "--cases", "2"]
    words += ["--optimal-share", "0.25"]
    CliRunner().invoke(export, words, catch_exceptions=False)
    return output
