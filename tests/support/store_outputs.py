"""An output in a bucket of its own, for tests of outputs in object stores."""

from pathlib import Path
from typing import Any

import pytest

from mcdiff_batch.engine.cloud.place import Url
from mcdiff_batch.engine.cloud.workspace import open_workspace
from tests.support import stores

CASES = 9
WAIT = 120.0  # s
BOTH = pytest.mark.parametrize("kind", ["s3", "az"], indirect=True)


class Target:
    """An output in a bucket of its own."""

    def __init__(self, kind: str, bucket: str, store: Any) -> None:
        self.store, self.url = store, Url(kind, bucket, "study/out")

    @property
    def root(self) -> Path:
        return open_workspace(self.url)

    def files(self) -> dict[str, bytes]:
        return stores.contents(self.store, self.url.prefix)

    def promised(self) -> dict[str, str]:
        return stores.promised(self.files())


def options(model: Path) -> tuple[object, ...]:
    return "--bundle", model, "--devices", "cpu", "--unit-size", 3, "--batch-size", 2
