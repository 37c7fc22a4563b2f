"""Object stores on loopback: moto as S3, and a proxy in front of it that is slow or faulty."""

import hashlib
import hmac
import os
import re
import socket
import subprocess
import sys
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any
from urllib.parse import urlsplit

from mcdiff_batch.bench.common.server import free_port, started

START = 120.0  # s that a server may take
S3 = {  # the environment of a user of moto
    "AWS_ACCESS_KEY_ID": "AKIASECRETKEY",
    "AWS_SECRET_ACCESS_KEY": "wJalrSECRET",
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
}
AZURE = {  # the environment of a user of azurite; the key is the one that its manual names
    "AZURE_STORAGE_ACCOUNT_NAME": "devstoreaccount1",
    "AZURE_STORAGE_ACCOUNT_KEY": "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/"
    "K1SZFPTOtr/KBHBeksoGMGw==",
    "AZURE_ALLOW_HTTP": "true",
}
AZURITE = "azurite-blob"  # a program of the npm package azurite
MORE = 32 << 20  # bytes
HOP = ("connection", "keep-alive", "transfer-encoding", "content-length", "expect")
CONDITIONS = ("if-match", "if-none-match")
CONFLICT = (
    b'<?xml version="1.0"?><Error><Code>ConditionalRequestConflict</Code>'
    b"<Message>The conditional request cannot succeed</Message></Error>"
)


@contextmanager
def server(words: list[str], port: int) -> Iterator[str]:
    """A server program, once it answers; it is ended by its own process."""
    with started(words) as process:
        end = time.monotonic() + START
        while not _answers(port):
            assert process.poll() is None, f"{words[0]} has ended"
            assert time.monotonic() < end, f"{words[0]} does not start"
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextmanager
def moto() -> Iterator[str]:
    port = free_port()
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with server(words, port) as address:
        yield address


@contextmanager
def azurite(folder: Path) -> Iterator[str]:
    port = free_port()
    words = [AZURITE, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--silent"]
    words += ["--location", str(folder), "--skipApiVersionCheck", "--disableTelemetry"]
    with server(words, port) as address:
        yield address


@dataclass(slots=True, kw_only=True)
class Fault:
    """What the proxy does to requests whose "METHOD /path" matches.

    kind: "503" or another status; "409": with the code of S3; "lost": the store does it, the
    client is cut off; "cut": half of the body, then cut off; "long": the body and 32 MiB more;
    "late": once `gate` is set, at the latest after START seconds.
    """

    match: str  # a regular expression, searched for
    kind: str
    times: int = 1 << 62
    skip: int = 0  # requests that match and are left alone first
    gate: Event = field(default_factory=Event)

    def strikes(self, request: str) -> bool:
        if not re.search(self.match, request) or self.times <= 0:
            return False
        self.skip, skips = max(0, self.skip - 1), self.skip > 0
        self.times -= not skips
        return not skips


@dataclass(slots=True, kw_only=True)
class Proxy:
    """Stands in front of a store."""

    upstream: str
    delay: float = 0.0  # s a request
    faults: list[Fault] = field(default_factory=list)
    unconditional: bool = False  # the last writer wins: conditions of requests are ignored
    remember: dict[Any, Any] | None = None  # answers to GET, which are then given without the store
    log: list[str] = field(default_factory=list)  # "METHOD /path" of every request
    sent: int = 0  # bytes of answers
    lock: Any = field(default_factory=Lock)
    address: str = ""

    def clear(self) -> None:
        self.faults.clear()
        self.log.clear()
        self.delay, self.unconditional = 0.0, False

    def note(self, request: str) -> Fault | None:
        with self.lock:
            self.log.append(request)
            return next((x for x in self.faults if x.strikes(request)), None)

    def wait_for(self, request: str) -> None:
        """Waits until a request that matches has come."""
        end = time.monotonic() + START
        while not any(re.search(request, x) for x in [*self.log]):
            assert time.monotonic() < end, f"{request}: no such request"
            time.sleep(0.01)

    @contextmanager
    def running(self) -> Iterator["Proxy"]:
        handler = type("Bound", (_Handler,), {"proxy": self})
        with LocalServer(("127.0.0.1", 0), handler) as one:
            thread = Thread(target=one.serve_forever, args=(0.05,), daemon=True)
            thread.start()
            self.address = f"http://127.0.0.1:{one.server_port}"
            try:
                yield self
            finally:
                one.shutdown()
                thread.join()


class LocalServer(ThreadingHTTPServer):
    """A server of this process for tests."""

    daemon_threads = True  # a client's idle connection keeps none of them
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that were killed leave broken connections."""


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        pass

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.proxy.note(f"{self.command} {self.path}")
        if fault and fault.kind == "late":
            fault.gate.wait(START)
        time.sleep(self.proxy.delay)
        if fault and fault.kind.isdecimal():
            text = CONFLICT if fault.kind == "409" else b"<Error><Code>SlowDown</Code></Error>"
            self._answer(int(fault.kind), [("Content-Type", "application/xml")], text)
            return
        status, headers, data = self._ask_once(body)
        if fault and fault.kind == "lost":
            self.close_connection = True
            return
        if fault and fault.kind == "long":
            headers, data = [x for x in headers if x[0].lower() != HOP[3]], data + bytes(MORE)
        if fault and fault.kind == "cut":
            self._answer(status, headers, data, len(data) // 2)
            self.close_connection = True
            return
        self._answer(status, headers, data)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on

    def _ask_once(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        memory, key = self.proxy.remember, (self.path, self.headers.get("Range"))
        if memory is None or self.command != "GET":
            return self._ask(body)
        if key not in memory:
            memory[key] = self._ask(body)
        status, headers, data = memory[key]
        return status, list(headers), data

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        left_out = HOP + (CONDITIONS if self.proxy.unconditional else ())
        headers = {k: v for k, v in self.headers.items() if k.lower() not in left_out}
        host = urlsplit(self.proxy.upstream)
        with closing(HTTPConnection(host.hostname or "", host.port, timeout=60)) as upstream:
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            kept = [(k, v) for k, v in answer.getheaders() if k.lower() not in HOP[:3]]
            return answer.status, kept, answer.read()

    def _answer(
        self, status: int, headers: list[tuple[str, str]], data: bytes, only: int | None = None
    ) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if not any(name.lower() == "content-length" for name, _ in headers):
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.proxy.sent += len(data)
        with suppress(OSError, HTTPException):
            self.wfile.write(data if only is None else data[:only])


# --- what a test does beside the program


def bucket(address: str, name: str) -> Any:
    """A new bucket of moto, as obstore's store, past the proxy."""
    from obstore.store import S3Store

    host = urlsplit(address)
    with closing(HTTPConnection(host.hostname or "", host.port)) as connection:
        connection.request("PUT", f"/{name}")
        assert connection.getresponse().status == 200
    return S3Store(
        name,
        endpoint=address,
        access_key_id="x",
        secret_access_key="y",
        region="us-east-1",
        client_options={"allow_http": True},
    )


def container(address: str, name: str) -> Any:
    """A new container of azurite, as obstore's store, past the proxy."""
    from obstore.store import AzureStore

    account, key = AZURE["AZURE_STORAGE_ACCOUNT_NAME"], AZURE["AZURE_STORAGE_ACCOUNT_KEY"]
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    signed = "".join(f"{k}:{v}\n" for k, v in headers.items())
    text = f"PUT{12 * chr(10)}{signed}/{account}/{account}/{name}\nrestype:container"
    digest = hmac.digest(b64decode(key), text.encode(), "sha256")
    headers["Authorization"] = f"SharedKey {account}:{b64encode(digest).decode()}"
    host = urlsplit(address)
    with closing(HTTPConnection(host.hostname or "", host.port)) as connection:
        connection.request("PUT", f"/{account}/{name}?restype=container", headers=headers)
        assert connection.getresponse().status == 201
    return AzureStore(
        name,
        account_name=account,
        account_key=key,
        endpoint=f"{address}/{account}",
        client_options={"allow_http": True},
    )


def upload(store: Any, folder: Path, prefix: str) -> None:
    """Copies a folder below a prefix."""
    import obstore

    for path in sorted(x for x in folder.rglob("*") if x.is_file()):
        obstore.put(store, f"{prefix}/{path.relative_to(folder)}", path.read_bytes())


def contents(store: Any, prefix: str) -> dict[str, bytes]:
    """All objects below a prefix, by name."""
    import obstore

    found = [x["path"] for part in obstore.list(store, prefix=prefix) for x in part]
    return {
        path.removeprefix(f"{prefix}/"): bytes(obstore.get(store, path).bytes()) for path in found
    }


def promised(files: dict[str, bytes]) -> dict[str, str]:
    """SHA-256 of those whose bytes P1 promises; as `running.committed` of a folder."""
    names = [x for x in files if x.startswith(("images.zarr/", "ledger/")) or x == "manifest.json"]
    return {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(names)}


def environment(address: str) -> dict[str, str]:
    """The environment of a command that uses moto at `address`."""
    return {**os.environ, **S3, "AWS_ENDPOINT_URL": address}


def azure_environment(address: str) -> dict[str, str]:
    """The environment of a command that uses azurite at `address`."""
    endpoint = f"{address}/{AZURE['AZURE_STORAGE_ACCOUNT_NAME']}"
    return {**os.environ, **AZURE, "AZURE_STORAGE_ENDPOINT": endpoint}


def serve(words: list[str]) -> int:
    """`FOLDER --delay SECONDS [--remember] -- COMMAND...`: runs a command beside s3://bench/FOLDER.

    --remember: moto, which takes 10 ms of a core for an answer, gives each of them once.
    """
    remember = "--remember" in words[:4]
    folder, option, delay, dashes, *command = [
        x for k, x in enumerate(words) if k > 3 or x != "--remember"
    ]
    assert (option, dashes) == ("--delay", "--"), "see bench/measures/stores.py"
    with moto() as upstream, Proxy(upstream=upstream).running() as proxy:
        upload(bucket(upstream, "bench"), Path(folder), Path(folder).name)
        proxy.delay, proxy.remember = float(delay), {} if remember else None
        return subprocess.run(command, env=environment(proxy.address)).returncode


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1:]))
