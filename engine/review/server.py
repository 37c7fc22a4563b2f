"""Serves the page of a review to this machine alone, and to nobody without the token.

It listens on 127.0.0.1.  The token is in the path, new for each start, so there are no cookies.
Every request without it gets the same answer.  A connection is a stranger's until it has shown the
token: it is closed soon, or at once where a new one needs its place, so that nobody can keep the
owner out.  The name in `Host` must be this machine's, so that
a page of a foreign name that was made to point here (DNS rebinding) gets nothing; a POST must come
from the page itself.
"""

import hmac
import json
import re
import secrets
import sys
import threading
from collections.abc import Iterable
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import SHUT_RDWR
from socketserver import TCPServer
from time import monotonic
from typing import Any
from urllib.parse import parse_qs

from mcdiff_batch.engine.errors import McdiffError, SpaceError, UsageError
from mcdiff_batch.engine.image.frame import Pixels
from mcdiff_batch.engine.text import make_printable

from .session import Refused, Session

HOST = "127.0.0.1"
# how a browser may call us, with any port (ssh -L)
NAMES = re.compile(r"(?:127\.0\.0\.1|localhost)(?::[0-9]{1,5})?")
FILES = {  # of the page: file, type
    "": ("review.html", "text/html; charset=utf-8"),
    "review.css": ("review.css", "text/css; charset=utf-8"),
    **{
        f"{x}.js": (f"{x}.js", "text/javascript; charset=utf-8")
        for x in (
            *("review", "keys", "mouse", "dialogs", "votes", "screen"),
            *("cases", "state", "images", "case", "list", "server", "element"),
        )
    },
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
LARGEST = 16 << 10  # bytes of a request's body
CONNECTIONS = 64  # at once
PATIENCE = 30  # s for a request, and between two
STRANGER_TIME = 5.0  # s in which a connection has to show the token
EVICTION_TIME = 1.0  # s that the end of a stranger's connection may take
JSON, BYTES = "application/json", "application/octet-stream"


class Server(ThreadingHTTPServer):
    """The server of one session; `serve_forever` as usual."""

    daemon_threads = True  # the end does not wait for a browser
    block_on_close = False
    request_queue_size = CONNECTIONS

    def __init__(self, session: Session, port: int = 0) -> None:
        """port: 0 chooses a free one.  Raises UsageError where the port is taken."""
        self.session, self.token = session, secrets.token_urlsafe(24)
        self._room = threading.BoundedSemaphore(CONNECTIONS)
        self._lock = threading.Lock()
        self._strangers: dict[Any, float] = {}  # connections, oldest first -> s of their beginning
        try:
            super().__init__((HOST, port), Handler)
        except (OSError, OverflowError) as error:
            raise UsageError(
                f"--port {port}: cannot be used ({error}); choose another port, or leave --port out"
            ) from error

    def server_bind(self) -> None:
        """Unlike that of HTTPServer, it asks no name server what this machine is called."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.server_address[1]

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_port}/{self.token}/"

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False) and not self._evict():
            self.shutdown_request(request)
            return
        with self._lock:
            self._strangers[request] = monotonic()
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be started
            self._leave(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._leave(request)

    def _leave(self, connection: Any) -> None:
        self.welcome(connection)
        self._room.release()

    def welcome(self, connection: Any) -> None:
        """The connection is no stranger's any more."""
        with self._lock:
            self._strangers.pop(connection, None)

    def service_actions(self) -> None:
        """Closes the connections of strangers whose time is up; called twice a second."""
        self._close_strangers(monotonic() - STRANGER_TIME)

    def _evict(self) -> bool:
        """Makes room for a new connection, if a stranger has a place.  Whether there is room."""
        with self._lock:
            oldest = next(iter(self._strangers.values()), None)
        if oldest is None:
            return False
        self._close_strangers(oldest)
        return self._room.acquire(timeout=EVICTION_TIME)

    def _close_strangers(self, begun: float) -> None:
        """Those whose connection began then or before; their threads end by it."""
        with self._lock:
            for connection in [x for x, since in self._strangers.items() if since <= begun]:
                del self._strangers[connection]
                with suppress(OSError):
                    connection.shutdown(SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no error; another one is told without data (P10)."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            print(f"a request failed: {type(error).__name__}", file=sys.stderr)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "mcdiff-batch", ""
    timeout = PATIENCE

    def do_GET(self) -> None:
        name = self._admit()
        if name is None:
            return
        with self._telling_errors():
            self._get(*name)

    def do_POST(self) -> None:
        name = self._admit()
        if name is None:
            return
        with self._telling_errors():
            data = self._body()
            if name[0] != "verdict":
                raise Refused(404, "there is no such thing here")
            self._answer_json(self.server.session.vote(data))

    def _admit(self) -> tuple[str, dict[str, str]] | None:
        """What is asked for, below the token, and its parameters; None: it was refused."""
        path, _, query = self.path.partition("?")
        token, slash, name = path.removeprefix("/").partition("/")
        known = hmac.compare_digest(token.encode(), self.server.token.encode())
        host = NAMES.fullmatch(self.headers.get("Host", ""))
        if not (known and slash and host and self._from_page()):
            self.send_error(403)
            return None
        self.server.welcome(self.connection)
        return name, {k: v[-1] for k, v in parse_qs(query).items()}

    def _from_page(self) -> bool:
        """Whether the page itself sent a POST; what only reads needs nothing but the token."""
        if self.command != "POST":
            return True
        return self.headers.get("Origin") == f"http://{self.headers.get('Host', '')}"

    def _body(self) -> bytes:
        size = self.headers.get("Content-Length", "")
        if not size.isdecimal() or len(size) > 9 or int(size) > LARGEST:
            self.close_connection = True
            raise Refused(413, "the text is too long")
        data = self.rfile.read(int(size))
        if self.headers.get_content_type() != JSON:
            raise Refused(415, "expected JSON")
        return data

    def _get(self, name: str, options: dict[str, str]) -> None:
        session, blind = self.server.session, options.get("blind") == "1"
        what, _, number = name.partition("/")
        case = int(number) if number.isdecimal() and len(number) < 12 else -1
        if name in FILES:
            file, kind = FILES[name]
            self._answer(kind, [(Path(__file__).parent / file).read_bytes()])
        elif name == "session":
            self._answer_json(session.describe())
        elif name == "cases":
            found = session.list_cases(blind, options.get("known", ""))
            self._answer_json({"version": None} if found is None else found)
        elif what == "case" and case >= 0:
            self._answer(BYTES, list(_pack(*session.show(case, blind))))
        elif what == "marks" and case >= 0:
            self._answer_json(session.mark(case))
        else:
            raise Refused(404, "there is no such thing here")

    @contextmanager
    def _telling_errors(self) -> Any:
        try:
            yield
        except Refused as error:
            self._answer_json({"error": str(error)}, error.code)
        except (BrokenPipeError, ConnectionError, TimeoutError):
            raise
        except McdiffError as error:
            code = 507 if isinstance(error, SpaceError) else 500
            self._answer_json({"error": make_printable(str(error))}, code)
        except Exception as error:
            self._answer_json({"error": f"unexpected {type(error).__name__}"}, 500)

    def _answer_json(self, value: object, code: int = 200) -> None:
        text = json.dumps(value, separators=(",", ":"), allow_nan=False)
        self._answer(JSON, [text.encode()], code)

    def _answer(self, kind: str, parts: Iterable[bytes], code: int = 200) -> None:
        data = b"".join(parts)
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for header, value in HEADERS.items():
            self.send_header(header, value)
        self.end_headers()
        self.wfile.write(data)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Whatever is wrong with a request: whoever has no token learns nothing."""
        self.close_connection = True
        with suppress(OSError):
            self._answer("text/plain", [b"403: open the address that mcdiff-batch printed\n"], 403)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: requests hold the token."""


def _pack(about: dict[str, Any], planes: list[Pixels]) -> Iterable[bytes]:
    """The length of the JSON ("<u4"), the JSON, and the px of the planes one after the other."""
    text = json.dumps(about, separators=(",", ":"), allow_nan=False).encode()
    yield len(text).to_bytes(4, "little")
    yield text
    yield from (plane.tobytes() for plane in planes)
