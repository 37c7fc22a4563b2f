"""Stores of both kinds behind a proxy, an output in one, and the same output in a folder."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from shutil import which

import pytest

from mcdiff_batch.engine.errors import Exit
from tests.support import stores
from tests.support.crafting import command as cli
from tests.support.crafting import snapshot
from tests.support.running import archive, bundle, clean
from tests.support.store_outputs import CASES, Target, options
from tests.support.stores import Proxy


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of store: "s3" unless a test says otherwise."""
    return str(getattr(request, "param", "s3"))


@pytest.fixture(scope="package")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Proxy]]:
    """A proxy before a store of a kind, which is started when it is first asked for."""
    pytest.importorskip("obstore", reason="needs the extra `cloud`")
    pytest.importorskip("moto", reason="needs moto, which plays S3")
    with ExitStack() as stack:

        @cache
        def start(kind: str) -> Proxy:
            if kind == "az" and not which(stores.AZURITE):
                pytest.skip("needs azurite, which plays Azure: npm install azurite")
            folder = tmp_path_factory.mktemp(kind)
            server = stores.moto() if kind == "s3" else stores.azurite(folder)
            upstream = stack.enter_context(server)
            return stack.enter_context(Proxy(upstream=upstream).running())

        yield start


@pytest.fixture
def proxy(
    kind: str,
    servers: Callable[[str], Proxy],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Proxy:
    """Between this process and the store."""
    one = servers(kind)
    environment = stores.environment if kind == "s3" else stores.azure_environment
    for name, value in environment(one.address).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    one.clear()
    return one


@pytest.fixture(scope="package")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive(tmp_path_factory.mktemp("night") / "night.zarr", CASES)


@pytest.fixture(scope="package")
def expected(night: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The bytes of a run into a folder."""
    return clean(night, tmp_path_factory.mktemp("near") / "out")


@pytest.fixture
def target(kind: str, proxy: Proxy, request: pytest.FixtureRequest) -> Target:
    name = f"c{abs(hash(request.node.nodeid))}"
    make = stores.bucket if kind == "s3" else stores.container
    return Target(kind, name, make(proxy.upstream, name))


@pytest.fixture(scope="package")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(tmp_path_factory.mktemp("model") / "bundle")


@pytest.fixture(scope="package")
def near(night: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the command's run into a folder."""
    out = tmp_path_factory.mktemp("near") / "out"
    with pytest.MonkeyPatch.context() as patch:
        assert cli(patch, "run", night, "--output", out, *options(model)) == Exit.DONE
    return snapshot(out)
