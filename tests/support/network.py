"""Servers on loopback that misbehave: a proxy that cuts connections, and made-up answers."""

import faulthandler
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType
from typing import Any

from pynetdicom import AE, evt

LEFT_SOCKETS = "ignore::pytest.PytestUnraisableExceptionWarning"  # pynetdicom leaves them to gc


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Fails what takes longer, and shows where all threads are.  For the main thread."""

    def fail(_: int, __: FrameType | None) -> None:
        faulthandler.dump_traceback()
        raise TimeoutError(f"took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def deaf_port() -> Iterator[int]:
    """A port where nobody listens, and nobody else can until the end of the block."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])


class Proxy:
    """Passes connections on to a port of this machine.

    limit: bytes that a connection may carry, both ways together, before it is cut; None: any.
    budget: the same for all connections together.
    cuts: how many connections are cut; None: all.
    silent: leaves a connection open that it would cut, and passes nothing on.
    """

    def __init__(self, target: int) -> None:
        self.limit: int | None = None
        self.budget: list[int] | None = None
        self.cuts: int | None = None
        self.silent = False
        self._closed = threading.Event()
        self._target = target
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._target), timeout=10)
                except OSError:
                    client.close()
                    continue
                server.settimeout(None)
                left = [1 << 60 if self.limit is None else self.limit]
                if self.cuts is not None:
                    left = left if self.cuts > 0 else [1 << 60]
                    self.cuts -= 1
                left = left if self.budget is None else self.budget
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=(*ends, left), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, left: list[int]) -> None:
        with suppress(OSError):
            while left[0] > 0 and (data := source.recv(1 << 14)):
                target.sendall(data[: left[0]])
                left[0] -= len(data)
        if left[0] <= 0 and self.silent:
            self._closed.wait()
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        self._closed.set()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # ends `accept`
        self._socket.close()


@contextmanager
def proxy(target: int) -> Iterator[Proxy]:
    made = Proxy(target)
    try:
        yield made
    finally:
        made.close()


Reply = tuple[int, str, bytes, *tuple[tuple[str, str], ...]]  # status, content type, body, headers
Replies = Callable[[str, str, Any], Reply]  # of method, path and headers


@contextmanager
def web_server(replies: Replies) -> Iterator[str]:
    """The address of a server that answers as `replies` says."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, kind, body, *more = replies(self.command, self.path, self.headers)
            self.send_response(status)
            for name, text in more:
                self.send_header(name, text)
            self.send_header("Content-Type", kind)
            if status == 302:
                self.send_header("Location", body.decode())
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = _answer

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/dicom-web"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def store_server(
    classes: tuple[str, ...], status: int = 0, *, reject: bool = False
) -> Iterator[tuple[str, list[str]]]:
    """The address of a PACS that answers every C-STORE with `status`, and the UIDs it got."""
    received: list[str] = []

    def store(event: Any) -> int:
        received.append(str(event.request.AffectedSOPInstanceUID))
        return status

    entity = AE(ae_title="PACS")
    entity.require_called_aet = reject
    for name in classes:
        entity.add_supported_context(name)
    handlers = [(evt.EVT_C_STORE, store)]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    assert server is not None
    try:
        yield f"127.0.0.1:{server.server_address[1]}", received
    finally:
        server.shutdown()


@contextmanager
def mute_server(words: bytes, drip: float | None = None) -> Iterator[int]:
    """The port of a server that says `words` after the first bytes it gets, and nothing more.

    It leaves all connections open, and reads on.
    drip: s; after each, it sends one more byte.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    lines: list[socket.socket] = []

    def answer(line: socket.socket) -> None:
        with suppress(OSError):
            line.recv(1 << 16)
            line.sendall(words)
            line.settimeout(drip)
            while True:
                try:
                    if not line.recv(1 << 16):
                        return
                except TimeoutError:
                    line.sendall(b" ")

    def accept() -> None:
        with suppress(OSError):
            while True:
                lines.append(listener.accept()[0])
                threading.Thread(target=answer, args=(lines[-1],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        for line in (listener, *lines):
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
            line.close()
