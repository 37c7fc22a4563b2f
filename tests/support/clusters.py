"""A Ray cluster for tests; see bench/common/ray_cluster.py."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mcdiff_batch.bench.common.ray_cluster import RayCluster, ray_cluster

ROOT = Path(__file__).parents[2]


def import_path() -> str:
    """PYTHONPATH for processes that need `tests` too."""
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


@contextmanager
def started_cluster() -> Iterator[RayCluster]:
    """Skips the test where Ray is absent."""
    pytest.importorskip("ray", reason="Ray is not installed")
    with ray_cluster({"PYTHONPATH": import_path()}) as cluster:
        yield cluster
