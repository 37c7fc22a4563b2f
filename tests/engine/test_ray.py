"""`run --on ray`: hosts that come, go, stop or cannot take part, and what Ray must not show."""

import hashlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from mcdiff_batch.engine.cluster import session
from mcdiff_batch.engine.cluster.host import Order, check_places, check_versions
from mcdiff_batch.engine.errors import DeviceError, Exit, McdiffError
from mcdiff_batch.engine.files import json_lines
from mcdiff_batch.engine.model.plan import Device
from mcdiff_batch.engine.output import ledger, runs
from mcdiff_batch.engine.output.verify import find_damage
from mcdiff_batch.engine.run.enhance import enhance
from mcdiff_batch.engine.run.protocol import Recipe
from tests.support.clusters import RayCluster
from tests.support.crafting import CLI, MAIN
from tests.support.fake import FakeMaker, InlineWorkers
from tests.support.many import LIMIT, Night, workers_on
from tests.support.network import deaf_port
from tests.support.processes import still_running, wait_for
from tests.support.running import archive, bundle, clean, committed, job

CASES = 16  # in units of 2


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive(tmp_path_factory.mktemp("ray") / "night.zarr", CASES)


@pytest.fixture(scope="module")
def undisturbed(source: Path) -> dict[str, str]:
    return clean(source, source.parent / "clean", unit_size=2)


@pytest.fixture
def night(source: Path, tmp_path: Path, cluster: RayCluster) -> Night:
    cluster.keep(2)
    return Night(source=source, output=tmp_path / "out", way="ray", cluster=cluster)


def incidents(output: Path) -> list[str]:
    path = output / ledger.INCIDENTS
    return [json.loads(x)["kind"] for x in path.read_text().splitlines()] if path.exists() else []


def devices(output: Path) -> set[str]:
    """The devices that did units."""
    return {x["device"] for x in json_lines(output / "report/timings.jsonl")}


@pytest.mark.slow
def test_a_node_lost_in_the_middle_of_a_unit_and_a_node_that_comes_change_nothing(
    night: Night, undisturbed: dict[str, str], cluster: RayCluster
) -> None:
    """The first hosts are held in their first units, so the one that comes does the others."""
    release = night.output.parent / "release"
    first = ["host1/cpu:0", "host2/cpu:0"]
    with night.begun(held=first, release=str(release)) as (command,):
        wait_for(lambda: night.counter.stat().st_size == 2 * (1 + 2))  # canary and two cases
        cluster.kill()
        cluster.add()
        wait_for(lambda: "host3/cpu:0" in devices(night.output))
        release.touch()
        assert command.wait(LIMIT) == Exit.DONE
    assert committed(night.output) == undisturbed
    assert incidents(night.output).count("host") == 1
    assert devices(night.output) <= {*first, "host3/cpu:0"}


@pytest.mark.slow
def test_a_signal_finishes_the_units_under_way_and_no_other(
    night: Night, undisturbed: dict[str, str]
) -> None:
    with night.begun() as (command,):
        family = [worker for _, worker in workers_on()]
        command.send_signal(signal.SIGTERM)
        assert command.wait(LIMIT) == Exit.DRAINED
        assert not still_running(family)
    assert 0 < len(ledger.list_units(night.output)) < CASES // 2
    assert night.finish()[-1] == Exit.DONE
    assert committed(night.output) == undisturbed


@contextmanager
def suspended(node: psutil.Process, spared: psutil.Process) -> Iterator[None]:
    """Stops a node and all its processes but one until the end of the block."""
    family = [node, *(x for x in node.children(recursive=True) if x != spared)]
    for process in family:
        process.suspend()
    try:
        yield
    finally:
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.resume()


@pytest.mark.slow
def test_a_straggler_that_commits_late_changes_nothing(
    source: Path, tmp_path: Path, undisturbed: dict[str, str], cluster: RayCluster
) -> None:
    """A node that is cut off counts as lost, while its worker works on."""
    cluster.empty()
    cluster.keep(1)
    night = Night(source=source, output=tmp_path / "out", way="ray", cluster=cluster)
    release = tmp_path / "release"
    with night.begun(held=["host1/cpu:0"], release=str(release)) as (command,):
        ((_, straggler),) = workers_on()
        cluster.add()
        wait_for(lambda: len(workers_on()) == 2)
        with suspended(psutil.Process(cluster.pid(0)), straggler):
            assert command.wait(LIMIT) == Exit.DONE
            assert incidents(night.output) == ["host"]
            reads = straggler.io_counters().read_count
            release.touch()
            wait_for(lambda: straggler.io_counters().read_count > reads)  # it reads the record
            wait_for(lambda: straggler.status() == psutil.STATUS_SLEEPING)
    assert committed(night.output) == undisturbed
    assert list(find_damage(night.output)) == []
    cluster.empty()


@pytest.mark.slow
def test_the_command_speaks_only_its_own_lines_and_names_no_host(
    source: Path, tmp_path: Path, cluster: RayCluster
) -> None:
    cluster.keep(2)
    out, model = tmp_path / "out", bundle(tmp_path / "bundle")
    words = ["run", str(source), "--output", str(out), "--bundle", str(model)]
    words += ["--unit-size", "2", "--devices", "cpu", "--progress", "json"]
    command = [*CLI, *words]
    on = [*command, "--on", f"ray={cluster.address}"]
    done = subprocess.run(on, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == Exit.DONE, done.stderr
    assert [json.loads(x) for x in done.stderr.splitlines()][-1]["state"] == "complete"
    assert done.stdout.startswith(f"{CASES} of {CASES} cases done")
    assert len(done.stdout.splitlines()) == 1
    page = (out / "report/index.html").read_text()
    assert "CPU of host" in page
    names = {x for x in (cluster.address.split(":")[0], socket.getfqdn()) if len(x) > 5}
    files = [x for x in out.rglob("*") if x.is_file()]
    assert not [x for x in files for name in names if name.encode() in x.read_bytes()]
    here = [*command, "--output", str(tmp_path / "here")]
    assert subprocess.run(here, capture_output=True, timeout=LIMIT).returncode == Exit.DONE
    assert committed(out) == committed(tmp_path / "here")


def say(*words: str) -> tuple[int, str]:
    """Exit code and last line of stderr of `run` on an archive, without Ray if `absent`."""
    code = MAIN
    if words[0] == "absent":
        code, words = f"import sys; sys.modules['ray'] = None; {code}", words[1:]
    done = subprocess.run(
        [sys.executable, "-c", code, "run", *words], capture_output=True, text=True, timeout=LIMIT
    )
    return done.returncode, done.stderr.splitlines()[-1]


def test_without_ray_one_line_says_what_to_install(source: Path) -> None:
    code, line = say("absent", str(source), "--on", "ray=127.0.0.1:1")
    assert code == Exit.USAGE
    assert line.endswith("which is not installed: pip install 'mcdiff-batch[ray]'")


@pytest.mark.parametrize("on", ["ray=", "rays", "slurm", "ray=http://a:1", "ray=ray://a:1"])
def test_a_wrong_place_is_wrong_usage(source: Path, tmp_path: Path, on: str) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    code, line = say(str(source), "--output", str(tmp_path / "out"), "--on", on)
    assert code == Exit.USAGE
    assert "--on" in line
    assert "expected" in line


def test_an_address_where_no_cluster_answers_is_no_usable_device(
    source: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    model = bundle(tmp_path / "bundle")
    out = ["--output", str(tmp_path / "out"), "--bundle", str(model)]
    with deaf_port() as port:
        code, line = say(str(source), *out, "--on", f"ray=127.0.0.1:{port}")
    assert code == Exit.NO_DEVICE
    assert f"--on ray=127.0.0.1:{port}: no Ray cluster answers there" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", None])
def test_what_listens_and_is_no_head_does_not_hold_up_the_command(
    answer: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None: it is silent, as a head that hangs is."""
    pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setattr(session, "ANSWER_TIME", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:

        def serve() -> None:
            with server.accept()[0] as connection:
                if answer is None:
                    connection.recv(1 << 16)
                    connection.recv(1 << 16)  # until the other side goes
                else:
                    connection.sendall(answer)

        served = pool.submit(serve)
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with (
            pytest.raises(DeviceError, match="no Ray cluster answers there") as error,
            session.joined(address),
        ):
            pass
        assert address in str(error.value)
        served.exception(LIMIT)


@pytest.mark.parametrize("end", [KeyboardInterrupt(), SystemExit(signal.SIGTERM)])
def test_a_signal_while_ray_starts_ends_the_command_as_any_other_and_leaves_nothing(
    end: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray takes over SIGTERM, and answers it with an exit."""

    class Ray:
        closed = False

        def init(self, address: str, _temp_dir: str, **_: object) -> None:
            self.folder = Path(_temp_dir)
            assert self.folder.is_dir()
            signal.signal(signal.SIGTERM, lambda *_: None)
            raise end

        def shutdown(self) -> None:
            self.closed = True

    ray, before = Ray(), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(session, "load_ray", lambda: ray)
    with pytest.raises(KeyboardInterrupt), session.joined(None):
        pass
    assert ray.closed
    assert not ray.folder.exists()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_host_with_another_version_is_told_which() -> None:
    expected = runs.software_versions() | {"numpy": "1.0"}
    with pytest.raises(McdiffError, match=r"it has numpy .*, expected 1\.0 as where the command"):
        check_versions(expected)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({}, ""),
        ({"archive": Path("/absent")}, "it cannot read the archive"),
        ({"identity": "other"}, "it sees another archive"),
        ({"output": Path("/absent")}, "it cannot write to the output"),
        ({"run": "other"}, "it sees another output"),
    ],
)
def test_a_host_without_the_shared_folders_is_told_what_it_misses(
    source: Path, tmp_path: Path, change: dict[str, Any], line: str
) -> None:
    seen: list[Recipe] = []

    def peek(recipe: Recipe, *rest: Any) -> InlineWorkers:
        seen.append(recipe)
        return InlineWorkers(recipe, *rest)

    enhance(job(source, tmp_path / "out", unit_size=2), FakeMaker(), workers=peek)
    document = (tmp_path / "out/run.json").read_bytes()
    order = Order(
        recipe=replace(seen[0], **{k: x for k, x in change.items() if k != "run"}),
        maker=FakeMaker(),
        device=Device(kind="cpu", index=0),
        alone=False,
        run=change.get("run", hashlib.sha256(document).hexdigest()),
    )
    if not line:
        check_places(order)
        return
    with pytest.raises(McdiffError, match=f"^{line}.*same paths$") as refused:
        check_places(order)
    assert str(tmp_path) not in str(refused.value)
    assert "/absent" not in str(refused.value)
