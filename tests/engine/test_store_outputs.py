"""Outputs in object stores: the bytes of a run on the disk, whatever the store and the runs do."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path
from shutil import which
from typing import Any

import pytest

from mcdiff_batch.engine.cloud.place import Url, parse_place
from mcdiff_batch.engine.cloud.workspace import open_workspace, send
from mcdiff_batch.engine.errors import Exit, FingerprintError, McdiffError, UsageError
from mcdiff_batch.engine.model.plan import Device
from mcdiff_batch.engine.output import durable, ledger, locks, runs, shards
from mcdiff_batch.engine.output.units import Part
from mcdiff_batch.engine.output.verify import find_damage
from mcdiff_batch.engine.run.enhance import enhance, repair
from tests.support import stores
from tests.support.crafting import command as cli
from tests.support.crafting import snapshot
from tests.support.fake import FakeMaker, InlineWorker, InlineWorkers
from tests.support.running import archive, break_case, bundle, clean, fault, inline, job
from tests.support.stores import Fault, Proxy

pytest.importorskip("obstore", reason="needs the extra `cloud`")
pytest.importorskip("moto", reason="needs moto, which plays S3")

CASES = 9
WAIT = 60.0  # s


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of store: "s3" unless a test says otherwise."""
    return str(getattr(request, "param", "s3"))


BOTH = pytest.mark.parametrize("kind", ["s3", "az"], indirect=True)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Proxy]]:
    """A proxy before a store of a kind, which is started when it is first asked for."""
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


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive(tmp_path_factory.mktemp("night") / "night.zarr", CASES)


@pytest.fixture(scope="module")
def expected(night: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The bytes of a run into a folder."""
    return clean(night, tmp_path_factory.mktemp("near") / "out")


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


@pytest.fixture
def target(kind: str, proxy: Proxy, request: pytest.FixtureRequest) -> Target:
    name = f"c{abs(hash(request.node.nodeid))}"
    make = stores.bucket if kind == "s3" else stores.container
    return Target(kind, name, make(proxy.upstream, name))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(tmp_path_factory.mktemp("model") / "bundle")


@pytest.fixture(scope="module")
def near(night: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the command's run into a folder."""
    out = tmp_path_factory.mktemp("near") / "out"
    with pytest.MonkeyPatch.context() as patch:
        assert cli(patch, "run", night, "--output", out, *options(model)) == Exit.DONE
    return snapshot(out)


def options(model: Path) -> tuple[object, ...]:
    return "--bundle", model, "--devices", "cpu", "--unit-size", 3, "--batch-size", 2


def test_the_command_line_from_run_to_a_damaged_object(
    night: Path,
    model: Path,
    near: dict[str, bytes],
    target: Target,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import obstore

    run = ("run", night, "--output", target.url, *options(model))
    assert cli(monkeypatch, *run) == Exit.DONE
    out, err = capsys.readouterr()
    assert "9 of 9 cases done in" in out
    assert f"{target.url}/report/index.html" in out
    files = target.files()
    assert stores.promised(files) == stores.promised(near)
    assert files["run.json"] == near["run.json"]
    assert {"report/index.html", "report/report.json", "report/timings.jsonl"} <= files.keys()
    said = [out.encode(), err.encode(), *files.values()]
    secrets = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    assert not any(stores.S3[x].encode() in y for x in secrets for y in said)
    assert not any(b"/outputs/" in x for x in said)  # the folder on this machine
    assert cli(monkeypatch, "status", target.url, "--json") == Exit.DONE
    assert json.loads(capsys.readouterr().out)["state"] == "complete"
    assert cli(monkeypatch, "verify", target.url) == Exit.DONE
    shard = f"{target.url.prefix}/images.zarr/enhanced/c/1/0/0"
    data = bytearray(obstore.get(target.store, shard).bytes())
    data[9] ^= 1
    obstore.put(target.store, shard, bytes(data))
    assert cli(monkeypatch, "verify", target.url) == Exit.VERIFICATION_FAILED
    out, err = capsys.readouterr()
    assert "images.zarr/enhanced/c/1/0/0 was changed: case 3" in out
    assert f"--output {target.url}" in err
    assert cli(monkeypatch, *run, "--repair") == Exit.DONE
    assert target.promised() == stores.promised(near)
    capsys.readouterr()
    assert cli(monkeypatch, "report", target.url, "--input", night) == Exit.DONE
    assert capsys.readouterr().out == f"{target.url}/report/index.html\n"
    assert b'"before": "read"' in target.files()["report/report.json"]


@BOTH
def test_p1_faults_of_the_store_leave_no_trace(
    night: Path, target: Target, proxy: Proxy, expected: dict[str, str]
) -> None:
    proxy.faults += [
        Fault(match="PUT .*/run.json", kind="lost", times=1),  # looks like a rival
        Fault(match="PUT .*/run.json", kind="409", times=1),
        Fault(match="PUT .*/ledger/000000", kind="lost", times=1),
        Fault(match="PUT .*/ledger/000001", kind="409", times=2),
        Fault(match="PUT .*/ledger/000002", kind="503", times=2),
        Fault(match="PUT .*/enhanced/c/1/", kind="503", times=2),
        Fault(match="PUT .*/label/c/1/", kind="lost", times=1),
        Fault(match="GET .*/ledger/", kind="cut", times=1),
        Fault(match="PUT .*/manifest", kind="lost", times=1),
    ]
    inline(job(night, target.root))
    assert target.promised() == expected
    assert all(x.times <= 0 for x in proxy.faults)


@BOTH
def test_p1_a_store_that_fails_ends_the_run_and_the_next_one_goes_on(
    night: Path, target: Target, proxy: Proxy, expected: dict[str, str]
) -> None:
    proxy.faults.append(Fault(match="PUT .*/label/c/1/", kind="403"))
    with pytest.raises(McdiffError, match=r"refuses access \(403\).*committed units are safe"):
        inline(job(night, target.root))
    assert ledger.list_units(target.root) == [0]
    proxy.faults.clear()
    inline(job(night, target.root))
    assert target.promised() == expected


def test_p1_a_run_that_is_killed_goes_on_elsewhere(
    night: Path,
    model: Path,
    near: dict[str, bytes],
    target: Target,
    proxy: Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = ("run", night, "--output", target.url, *options(model))
    proxy.faults.append(Fault(match="PUT .*/ledger/000001", kind="late", seconds=WAIT))
    code = "from mcdiff_batch.engine.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, run)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        end = time.monotonic() + WAIT
        while not any("/ledger/000001" in x for x in proxy.log if x.startswith("PUT")):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
        process.kill()
    files = target.files()
    assert "ledger/000000.json" in files
    assert "images.zarr/label/c/1/0/0" in files  # of a unit that has no record
    assert "manifest.json" not in files
    proxy.faults.clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert cli(monkeypatch, *run) == Exit.DONE
    assert target.promised() == stores.promised(near)


def test_parts_on_several_machines_make_one_output_and_one_report(
    night: Path,
    target: Target,
    expected: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number in (2, 1):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"machine {number}"))
        part, root = Part(number=number, count=2), target.root
        inline(job(night, root, part=part))
        send(locks.part_folder(root, part))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a third machine"))
    root = target.root
    assert [str(x) for x in locks.find_parts(root)] == ["1/2", "2/2"]
    assert enhance(job(night, root, finish=True), None).counts["done"] == CASES
    assert target.promised() == expected


@BOTH
def test_the_files_of_an_output_are_the_same_in_a_folder_and_in_a_store(
    target: Target, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    for root in (folder, target.root):
        files = durable.files(root)
        assert list(files.list()) == []
        assert not files.exists("a/b")
        with pytest.raises(FileNotFoundError):
            files.read("a/b")
        with pytest.raises(FileNotFoundError):
            files.size("a/b")
        assert files.create("a/b", b"one")
        assert files.create("a/b", b"one")  # as after a lost answer
        assert not files.create("a/b", b"two")
        assert not files.replace("a/b", b"two", b"three")
        assert files.replace("a/b", b"one", b"three")
        files.write("a/c", b"line\nrest")
        assert (files.read("a/b"), files.size("a/c")) == (b"three", 9)
        assert sorted(files.list("a")) == ["b", "c"]
        assert [*files.list()] == ["a"] or set(files.list()) == {"a", durable.SCRATCH}
        names = ["a/c", "a/b"]
        assert [*files.read_all(names)] == [("a/c", b"line\nrest"), ("a/b", b"three")]
        assert [line.rstrip() for _, line in files.read_heads(names)] == [b"line", b"three"]
        files.remove("a/b")
        files.remove("a/b")
        assert list(files.list("a")) == ["c"]
        assert files.try_writing() == ""


def test_the_report_knows_the_runs_of_all_machines(
    night: Path, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for machine in ("one", "two", "one"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / machine))
        root = target.root
        inline(job(night, root, limit=None))
        send(root)
    runs = json.loads(target.files()["report/run_stats.json"])["runs"]
    assert len(runs) == 3


@BOTH
def test_two_runs_at_once_waste_work_and_do_no_harm(
    night: Path,
    target: Target,
    expected: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two machines: neither sees the other's lock.  The second is through while the first is at
    its first unit."""
    here = target.root
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
        there = target.root
    assert here != there

    class Rival(InlineWorkers):
        def start(self, device: Device, *, alone: bool) -> InlineWorker:
            with monkeypatch.context() as elsewhere:
                elsewhere.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
                assert inline(job(night, there)).counts["done"] == CASES
            return super().start(device, alone=alone)

    summary = enhance(job(night, here), FakeMaker(), workers=Rival)
    assert summary.counts["done"] == CASES
    assert target.promised() == expected


def test_a_finished_record_is_never_replaced_by_one_with_open_cases(
    night: Path, target: Target, expected: dict[str, str]
) -> None:
    inline(job(night, target.root))
    root = target.root
    durable.files(root).remove("manifest.json")
    whole = ledger.read(root, 0)
    poor = replace(
        whole, cases=(ledger.Entry(case=0, status=ledger.OPEN), *whole.cases[1:]), shards={}
    )
    assert runs.commit(root, poor, {"enhanced": None, "label": None}) == whole.head
    inline(job(night, root))
    assert target.promised() == expected


def test_a_rival_that_finishes_a_unit_first_is_not_overwritten(
    night: Path, target: Target, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow run is about to write a record with an open case when another one writes its own."""
    root = target.root
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
        other = target.root
        inline(job(night, other, limit=4))
    good, files = ledger.read(root, 0), durable.files(root)
    images = {x: files.read(shards.shard_name(x, 0)) for x in good.shards}
    for name in ("manifest.json", ledger.file_name(0)):
        files.remove(name)
    poor = replace(good, cases=(ledger.Entry(case=0, status=ledger.OPEN), *good.cases[1:]))
    proxy.log.clear()
    proxy.faults.append(Fault(match="PUT .*/ledger/000000", kind="late", seconds=2, times=1))
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(runs.commit, root, poor, images)
        while not any(x.startswith("PUT") and "/ledger/" in x for x in proxy.log):
            time.sleep(0.01)
        files.write(ledger.file_name(0), ledger.encode(good))  # the other run's
        assert slow.result(WAIT) == good.head
    assert ledger.read(root, 0) == good


@pytest.mark.parametrize("late", ["ledger/000000", "manifest"])
def test_a_manifest_is_never_left_over_a_record_that_another_run_has_replaced(
    night: Path, target: Target, proxy: Proxy, late: str
) -> None:
    """Two machines: one replaces a record while the other writes the manifest; either is late."""
    root = target.root
    inline(job(night, root))
    files, old = durable.files(root), ledger.read(root, 0)
    images = {x: files.read(shards.shard_name(x, 0)) for x in old.shards}
    new = replace(old, cases=(replace(old.cases[0], flags=("look",)), *old.cases[1:]))
    files.remove("manifest.json")
    proxy.log.clear()
    proxy.faults.append(Fault(match=f"PUT .*/{late}", kind="late", seconds=1, times=1))
    commit = lambda: runs.commit(root, new, images)
    finish = lambda: inline(job(night, root))
    first, second = (commit, finish) if late.startswith("ledger") else (finish, commit)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(first)
        while not any(x.startswith("PUT") and f"/{late}" in x for x in proxy.log):
            time.sleep(0.01)
        second()
        slow.result(WAIT)
    assert ledger.read(root, 0) == new
    assert list(find_damage(root)) == []
    inline(job(night, root))
    assert list(find_damage(root)) == []
    assert files.exists("manifest.json")


@BOTH
def test_an_open_case_is_closed_by_the_next_run(
    night: Path, target: Target, expected: dict[str, str]
) -> None:
    first = inline(job(night, target.root), faults=(fault("nan", night, 2),))
    assert first.counts["open"] == 1
    summary = inline(job(night, target.root))
    assert summary.counts["done"] == CASES
    assert target.promised() == expected


def test_a_failed_case_is_tried_again_after_a_repair_of_the_archive(
    target: Target, tmp_path: Path
) -> None:
    path = archive(tmp_path / "a.zarr", 5)
    broken = archive(tmp_path / "b" / "a.zarr", 5)
    break_case(broken, 1)
    assert inline(job(broken, target.root)).counts["failed"] == 1
    inline(job(path, target.root, retry_failed=True))
    assert target.promised() == clean(path, tmp_path / "near")


def test_a_store_of_the_last_writer_is_refused_before_anything_is_written(
    night: Path, target: Target, proxy: Proxy
) -> None:
    proxy.unconditional = True
    with pytest.raises(UsageError, match="overwrites objects that it was asked to keep"):
        inline(job(night, target.root))
    assert target.files() == {}


def test_an_output_that_was_begun_with_other_settings_is_refused(
    night: Path, target: Target
) -> None:
    inline(job(night, target.root, limit=1))
    with pytest.raises(FingerprintError, match="seed was 0"):
        inline(job(night, target.root, seed=1))


def test_a_prefix_with_other_objects_is_refused(night: Path, target: Target) -> None:
    import obstore

    obstore.put(target.store, f"{target.url.prefix}/holiday.jpg", b"x")
    with pytest.raises(UsageError, match="contains files that no run has written"):
        inline(job(night, target.root))


def test_an_output_in_its_archive_is_refused(night: Path, target: Target) -> None:
    stores.upload(target.store, night, "study/night.zarr")
    source = Url("s3", target.url.bucket, "study/night.zarr")
    for place in (source, source / "out", parse_place(f"s3://{source.bucket}/study")):
        with pytest.raises(UsageError, match="choose another --output"):
            inline(job(source, open_workspace(place)))


def test_an_output_in_another_archive_or_output_is_refused(
    night: Path, target: Target, proxy: Proxy
) -> None:
    stores.upload(target.store, night, "study/other.zarr")
    inline(job(night, target.root, limit=1))
    for around in (Url("s3", target.url.bucket, "study/other.zarr"), target.url):
        for place in (around / "out", around / "images.zarr" / "deep"):
            with pytest.raises(UsageError, match=r"is in s3://.*choose another --output"):
                inline(job(night, open_workspace(place)))
    beside = Url("s3", target.url.bucket, "study/other.zarr2")
    assert inline(job(night, open_workspace(beside), limit=1)).counts["done"] == 1


def test_a_bucket_that_does_not_exist_is_called_so(night: Path, proxy: Proxy) -> None:
    with pytest.raises((OSError, McdiffError), match="no such bucket or container"):
        inline(job(night, open_workspace(Url("s3", "absent", "out"))))


def test_a_cache_that_cannot_be_written_to_is_called_so(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UsageError, match="set XDG_CACHE_HOME to a folder"):
        open_workspace(target.url)


def test_who_begins_on_an_output_does_not_disturb_those_that_run_there(target: Target) -> None:
    """The address of a folder in the cache is there at any moment."""
    address = target.root / ".store"
    with ThreadPoolExecutor(1) as pool:
        begun = pool.submit(lambda: [target.root for _ in range(20)])
        while not begun.done():
            assert address.read_text() == str(target.url)


def test_a_web_server_cannot_be_an_output(proxy: Proxy) -> None:
    with pytest.raises(UsageError, match="can only be read"):
        open_workspace(parse_place("https://host/out"))


def test_a_command_that_wants_a_folder_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(monkeypatch, "review", "s3://bucket/out") == Exit.USAGE
    assert "s3://bucket/out: this command wants a folder" in capsys.readouterr().err


def test_a_lost_shard_is_found_and_done_again(
    night: Path, target: Target, expected: dict[str, str]
) -> None:
    import obstore

    inline(job(night, target.root))
    obstore.delete(target.store, f"{target.url.prefix}/images.zarr/label/c/1/0/0")
    (damage,) = find_damage(target.root)
    assert (damage.unit, str(damage)) == (
        1,
        "images.zarr/label/c/1/0/0 is missing: cases 4-7",
    )
    assert repair(job(night, target.root)) == ([damage], [])
    enhance(job(night, target.root), FakeMaker(), workers=InlineWorkers)
    assert target.promised() == expected
