"""Archives and outputs in object stores: moto, through a proxy that can be slow or faulty."""

import json
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.archive.store import JSON_LIMIT
from mcdiff_batch.engine.cloud.place import Url, parse_place
from mcdiff_batch.engine.errors import CaseError, Exit, McdiffError, UsageError
from tests.support import stores
from tests.support.crafting import command, ids, pictures, snapshot, write_archive
from tests.support.running import archive, bundle, clean, committed, inline, job
from tests.support.stores import Fault, Proxy

pytest.importorskip("obstore", reason="needs the extra `cloud`")
pytest.importorskip("moto", reason="needs moto, which plays S3")

SHARDED = {"chunks": (1, 5, 40, 16), "shards": (4, 5, 40, 16)}


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    with stores.moto() as address:
        yield address


@pytest.fixture(scope="module")
def shared_proxy(upstream: str) -> Iterator[Proxy]:
    with Proxy(upstream=upstream).running() as one:
        yield one


@pytest.fixture
def proxy(shared_proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Proxy:
    """Between this process and moto."""
    for name, value in stores.environment(shared_proxy.address).items():
        monkeypatch.setenv(name, value)
    shared_proxy.clear()
    return shared_proxy


Put = Callable[[Path], Url]


@pytest.fixture
def bucket(upstream: str, request: pytest.FixtureRequest) -> Any:
    return stores.bucket(upstream, f"b{abs(hash(request.node.nodeid))}")


@pytest.fixture
def put(bucket: Any, proxy: Proxy) -> Put:
    """Uploads an archive and returns its address."""

    def call(path: Path) -> Url:
        stores.upload(bucket, path, f"study/{path.name}")
        return Url("s3", bucket.config["bucket"], f"study/{path.name}")

    return call


# --- reading


@pytest.mark.parametrize(
    ("zarr_format", "storage"),
    [(2, {}), (3, {}), (3, SHARDED), (3, {"chunks": (2, 1, 40, 16)})],
)
def test_an_archive_in_a_store_is_the_archive_on_the_disk(
    zarr_format: int, storage: dict[str, Any], tmp_path: Path, put: Put
) -> None:
    columns = {"case_id": ids(*"abcdef"), "optimal_depth": np.arange(6) % 5}
    path = write_archive(
        tmp_path / "a.zarr", pictures(6), zarr_format=zarr_format, columns=columns, **storage
    )
    near, far = open_archive(path), open_archive(put(path))
    assert far.identity == near.identity
    assert far.columns.case_id == tuple("abcdef")
    for index in range(6):
        one, other = near.read(index), far.read(index)
        np.testing.assert_array_equal(one.depths, other.depths)
        assert (one.key, one.optimal) == (other.key, other.optimal)


def test_a_case_is_one_request_and_a_shard_one_more(tmp_path: Path, put: Put, proxy: Proxy) -> None:
    for name, storage, most in (("plain", {}, 8), ("sharded", SHARDED, 8 + 2)):
        far = open_archive(put(write_archive(tmp_path / name, pictures(8), **storage)))
        proxy.log.clear()
        for index in range(8):
            far.read(index)
        assert len(proxy.log) == most


def test_a_run_over_a_store_has_the_bytes_of_a_run_over_the_copy_on_disk(
    tmp_path: Path,
    put: Put,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path, model = archive(tmp_path / "night.zarr", 9), bundle(tmp_path / "bundle")
    words = ("--bundle", model, "--devices", "cpu", "--batch-size", "2", "--unit-size", "4")
    near, far = tmp_path / "near", tmp_path / "far" / "night.enhanced"
    far.parent.mkdir()
    monkeypatch.chdir(far.parent)
    assert command(monkeypatch, "run", path, "--output", near, *words) == Exit.DONE
    assert command(monkeypatch, "run", "--input", put(path), *words) == Exit.DONE
    assert committed(far) == committed(near)  # in the working directory
    assert (far / "run.json").read_bytes() == (near / "run.json").read_bytes()
    said = capfd.readouterr()
    texts = [said.out.encode(), said.err.encode(), *snapshot(far).values()]
    for secret in stores.S3["AWS_ACCESS_KEY_ID"], stores.S3["AWS_SECRET_ACCESS_KEY"]:
        assert not any(secret.encode() in x for x in texts)


def test_what_the_store_cannot_give_now_stays_open_and_what_is_absent_fails(
    tmp_path: Path, bucket: Any, put: Put, proxy: Proxy
) -> None:
    import obstore

    path = archive(tmp_path / "a.zarr", 8)
    url, output = put(path), tmp_path / "out"
    obstore.delete(bucket, f"{url.prefix}/depths/c/5/0/0/0")
    proxy.faults += [
        Fault(match="depths/c/1/", kind="403"),
        Fault(match="depths/c/2/", kind="418"),
        Fault(match="depths/c/3/", kind="503", times=2),  # tried again
        Fault(match="depths/c/4/", kind="cut", times=1),  # likewise
        Fault(match="depths/c/6/", kind="lost", times=1),  # likewise
    ]
    summary = inline(job(url, output))
    assert summary.counts == {"done": 5, "failed": 1, "skipped": 0, "open": 2}
    incidents = (output / "incidents.jsonl").read_text()
    assert "refuses access (403)" in incidents
    assert "the store answers (418)" in incidents
    assert "SlowDown" not in incidents  # nothing that a server sends is repeated
    assert '"reason":"missing"' in (output / "ledger/000001.json").read_text()
    proxy.faults.clear()
    stores.upload(bucket, path, url.prefix)
    inline(job(url, output, retry_failed=True))
    assert committed(output) == clean(path, tmp_path / "near")


@pytest.mark.parametrize("kind", ["403", "500"])
def test_an_archive_that_cannot_be_read_now_is_not_called_invalid(
    kind: str, tmp_path: Path, put: Put, proxy: Proxy
) -> None:
    url = put(archive(tmp_path / "a.zarr", 1))
    proxy.faults.append(Fault(match="depths/zarr.json", kind=kind))
    with pytest.raises(McdiffError, match=kind) as caught:
        open_archive(url)
    assert caught.value.exit_code == Exit.UNEXPECTED


def test_a_bucket_that_is_gone_fails_no_case(tmp_path: Path, put: Put, proxy: Proxy) -> None:
    far = open_archive(put(archive(tmp_path / "a.zarr", 2)))
    elsewhere = Url("s3", "no-such-bucket", "a.zarr")
    object.__setattr__(far.pixels.store, "place", elsewhere)
    with pytest.raises(OSError, match="no such bucket"):
        far.read(0)


def test_a_shard_that_is_replaced_is_read_anew_or_not_at_all(
    tmp_path: Path, bucket: Any, put: Put
) -> None:
    path, other = tmp_path / "a.zarr", tmp_path / "b.zarr"
    far = open_archive(put(write_archive(path, pictures(4), **SHARDED)))
    far.read(0)
    write_archive(other, pictures(4)[::-1], **SHARDED)
    stores.upload(bucket, other, "study/a.zarr")
    with pytest.raises(OSError, match="changed while it was read"):
        far.read(1)
    np.testing.assert_array_equal(far.read(1).depths, open_archive(other).read(1).depths)


def test_no_more_is_fetched_than_the_metadata_promise(
    tmp_path: Path, bucket: Any, put: Put, proxy: Proxy
) -> None:
    import obstore

    url = put(write_archive(tmp_path / "a.zarr", pictures(2)))
    far = open_archive(url)
    obstore.put(bucket, f"{url.prefix}/depths/c/1/0/0/0", bytes(4 << 20))
    proxy.sent = 0
    with pytest.raises(CaseError, match="4194304 bytes stored"):
        far.read(1)
    assert proxy.sent < 100 << 10  # twice the 3200 bytes of a case, and 64 KiB
    obstore.put(bucket, f"{url.prefix}/zarr.json", b" " * (JSON_LIMIT + 5))
    with pytest.raises(McdiffError, match="expected at most"):
        open_archive(url)


def test_an_answer_that_is_longer_than_what_was_asked_for_is_not_read_to_its_end(
    tmp_path: Path, put: Put, proxy: Proxy
) -> None:
    far = open_archive(put(write_archive(tmp_path / "a.zarr", pictures(2))))
    proxy.faults.append(Fault(match="depths/c/1/", kind="long"))
    with pytest.raises(OSError, match="longer than what was asked for"):
        far.read(1)
    assert far.read(0).index == 0


def test_an_empty_object_is_a_damaged_chunk(tmp_path: Path, bucket: Any, put: Put) -> None:
    import obstore

    url = put(write_archive(tmp_path / "a.zarr", pictures(2)))
    obstore.put(bucket, f"{url.prefix}/depths/c/1/0/0/0", b"")
    with pytest.raises(CaseError) as caught:
        open_archive(url).read(1)
    assert caught.value.reason == "corrupt"


# --- addresses


@pytest.mark.parametrize(
    "text",
    [
        "s3://KEY:TOPSECRET@bucket/a.zarr",
        "https://user:TOPSECRET@host/a.zarr",
        "https://account.blob.core.windows.net/c/a.zarr?sv=1&sig=TOPSECRET",
        "s3://bucket/a.zarr?X-Amz-Signature=TOPSECRET",
        "https://host/a.zarr#TOPSECRET",
    ],
)
def test_an_address_that_may_hold_a_secret_is_refused_and_not_repeated(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (("run", text), ("check", text), ("run", "a", "--output", text), ("verify", text)):
        assert command(monkeypatch, *words) == Exit.USAGE
        said = capsys.readouterr()
        assert "may be a secret" in said.err
        assert "TOPSECRET" not in said.out + said.err


@pytest.mark.parametrize(
    "text",
    [
        *("s3://bucket", "s3://bucket/", "s3:///a", "ftp://host/a", "file:///etc"),
        *("s3://bucket/../a", "s3://bucket/a/../b", "s3://bucket/a//b", "s3://bucket/./a"),
        *("https://host/%2e%2e/a", "https://host/a\\..\\b", "s3://bucket/a\x1b[2J", "s3://b c/a"),
    ],
)
def test_an_address_that_may_lead_elsewhere_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_place(text)


def test_a_path_stays_a_path() -> None:
    for text in ("a.zarr", "/data/a.zarr", "C:/a.zarr", "s3:/a", "a:b/c"):
        assert parse_place(text) == Path(text)


def test_without_obstore_a_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    assert command(monkeypatch, "check", "s3://another-bucket/a.zarr") == Exit.USAGE
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "pip install 'mcdiff-batch[cloud]'" in said


# --- web servers


class Web(BaseHTTPRequestHandler):
    """Gives parts of the files of a folder; knows nothing else."""

    root: Path
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = self.root / self.path.lstrip("/")
        data = path.read_bytes() if path.is_file() else b""
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        start = int(first) if first else max(0, len(data) - int(last))
        part = data[start : int(last) + 1] if first else data[start:]
        self.send_response_only(206 if path.is_file() else 404)
        self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        self.end_headers()
        self.wfile.write(part)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    with stores.LocalServer(("127.0.0.1", 0), type("Bound", (Web,), {"root": tmp_path})) as one:
        thread = Thread(target=one.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{one.server_port}"
        one.shutdown()
        thread.join()


def test_a_plain_web_server_will_do_for_reading(
    web: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write_archive(tmp_path / "a.zarr", pictures(5), **SHARDED)
    with pytest.raises(UsageError, match="use https://"):
        parse_place(f"{web}/a.zarr")
    monkeypatch.setenv("MCDIFF_ALLOW_HTTP", "true")
    far = open_archive(parse_place(f"{web}/a.zarr"))
    assert far.identity == open_archive(path).identity
    np.testing.assert_array_equal(far.read(4).depths, pictures(5)[4])
    assert command(monkeypatch, "check", f"{web}/a.zarr", "--json") == Exit.DONE
    said = capsys.readouterr()
    assert (json.loads(said.out)["cases"], said.err) == (5, "")
