"""A DICOMweb client: QIDO-RS, WADO-RS and STOW-RS over one connection, with bounded answers.

It follows no redirect and uses no proxy, so patients' data go to the named server and to no other.
"""

import json
import netrc
import os
import re
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead
from secrets import token_hex
from threading import Timer
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit, urlunsplit

from mcdiff_batch.engine.dicom.reading import FILE_LIMIT, is_uid
from mcdiff_batch.engine.errors import McdiffError, SpaceError, UsageError

JSON_LIMIT = 64 << 20  # bytes of an answer in JSON
PIECE = 1 << 20  # bytes, read at once
WILD = "*?"  # wild cards of a query; Orthanc does not know them in percent encoding
PAGE = 500  # results per query
MOST = 1_000_000  # results of a query, with all its pages
TRIES = 3
WAIT = 1.0  # s before the second try; twice that before the third
TIMEOUT = 60.0  # s without a byte
LONGEST = 900.0  # s for one request with its whole answer
TOKEN = "MCDIFF_DICOMWEB_TOKEN"  # environment variable with a bearer token
AGAIN = "look at the address, or run the same command again"
PLAIN_JSON = "application/dicom+json"
BINARY = 'multipart/related; type="application/dicom"'

KEPT = (  # SOPClassUID, StudyDate, and numbers of parts
    *("00080016", "00080020", "00201206", "00201208", "00201209"),
)
MORE = re.compile("additional|remaining|exceed|maximum|truncat|more ", re.IGNORECASE)

Answer = dict[str, Any]  # one result: tag in hexadecimal -> {"vr", "Value"}


@dataclass(slots=True)
class Listing:
    """The results of a query.  What the server names twice is here once."""

    found: dict[str, Answer] = field(default_factory=dict)  # by UID; the elements of KEPT
    whole: bool = False  # False: there are more, or there may be, and the server does not give them
    paged: bool = True  # False: it repeats results when it is asked for further ones


class Server:
    """A DICOMweb service, such as https://pacs.example/dicom-web.

    A password comes from the URL or from ~/.netrc, a token from MCDIFF_DICOMWEB_TOKEN.
    Methods raise McdiffError for a connection that is lost and stays so, UsageError for a wrong
    address or missing rights.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        try:
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        plain = url.isascii() and url.isprintable() and " " not in url
        if (
            not plain
            or parts.scheme not in ("http", "https")
            or not host
            or parts.query
            or parts.fragment
        ):
            raise UsageError(
                "--dicomweb: is not the address of a DICOMweb service; write for example "
                "https://pacs.example/dicom-web"
            )
        netloc = f"[{host}]" if ":" in host else host
        netloc += f":{port}" if port else ""
        self._root = parts.path.rstrip("/")
        self.url = urlunsplit((parts.scheme, netloc, self._root, "", ""))  # without a password
        self._headers = _authorization(host, parts.username, parts.password)
        if parts.scheme == "https":
            context = ssl.create_default_context()
            self._connection: HTTPConnection = HTTPSConnection(
                host, port, timeout=TIMEOUT, context=context
            )
        else:
            self._connection = HTTPConnection(host, port, timeout=TIMEOUT)

    def close(self) -> None:
        self._connection.close()

    def query(self, path: str, matches: Mapping[str, str], tag: str) -> Listing:
        """All results of a query; `tag` is that of their UID.

        They come page by page.  Where pages overlap or a warning says that there are more, the
        server is asked for all in one answer, until an answer is shorter than what it may hold.
        """
        out, offset, limit = Listing(), 0, PAGE
        while True:
            page, warned = self._page(path, matches, tag, limit, offset)
            known = len(out.found)
            out.found.update(page)
            out.paged &= len(out.found) - known == len(page)
            if len(out.found) == known:
                break
            if len(out.found) > MOST:
                raise McdiffError(f"{self.url}: names more than {MOST} results; narrow --match")
            offset += len(page)
        out.whole = out.paged and not warned
        while not out.whole:
            limit = 2 * max(limit, len(out.found))
            page, warned = self._page(path, matches, tag, limit, 0)
            known = len(out.found)
            covered = out.found.keys() <= dict(page).keys()
            out.found.update(page)
            if warned or not covered or (known == len(page) == PAGE):  # a limit of its own
                break
            out.whole = len(page) < limit
        return out

    def _page(
        self, path: str, matches: Mapping[str, str], tag: str, limit: int, offset: int
    ) -> tuple[list[tuple[str, Answer]], bool]:
        """Results of a query with their UIDs, and whether a warning says that there are more."""
        words = urlencode({**matches, "limit": limit, "offset": offset}, safe=WILD)
        status, headers, body = self._ask("GET", f"{path}?{words}", PLAIN_JSON, JSON_LIMIT)
        warned = any(MORE.search(x) for x in headers.get_all("Warning", ()))
        page = _results(body) if status == 200 else []
        return [(self._uid(x, tag), {k: x[k] for k in KEPT if k in x}) for x in page], warned

    def _uid(self, answer: Answer, tag: str) -> str:
        """A UID from the server, which becomes part of an address and of a file name."""
        uid = str(value(answer, tag) or "")
        if not is_uid(uid):
            raise McdiffError(f"{self.url}: sent a UID ({tag[:4]},{tag[4:]}) that is none")
        return uid

    def fetch(self, study: str, series: str, uid: str) -> bytes:
        """One file, in the transfer syntax that it is stored in."""
        path = f"{series_path(study, series)}/instances/{uid}"
        accept = f"{BINARY}; transfer-syntax=*"
        _, headers, body = self._ask("GET", path, accept, FILE_LIMIT)
        return _first_part(headers.get("Content-Type", ""), body)

    def holds(self, study: str, series: str, uid: str) -> bool:
        path = f"{series_path(study, series)}/instances"
        return uid in self.query(path, {"SOPInstanceUID": uid}, "00080018").found

    def store(self, files: Sequence[bytes]) -> tuple[set[str], dict[str, int]]:
        """Sends files.  Returns the SOPInstanceUIDs that the server says it stored, and those that
        it did not: SOPInstanceUID -> FailureReason.

        Raises SpaceError where the server is full.
        """
        boundary = f"mcdiff-{token_hex(16)}"
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        body = b"".join([*(head + x + b"\r\n" for x in files), f"--{boundary}--\r\n".encode()])
        kind = f"{BINARY}; boundary={boundary}"
        status, _, answer = self._ask("POST", "/studies", PLAIN_JSON, JSON_LIMIT, body, kind)
        document = _document(answer)
        taken = {str(value(x, "00081155")) for x in _items(document, "00081199")}
        failed = _items(document, "00081198")
        reasons = {str(value(x, "00081155")): _integer(value(x, "00081197")) for x in failed}
        if any(x & 0xFF00 == 0xA700 for x in reasons.values()):
            raise SpaceError(f"{self.url}: the server is out of space; free some, run again")
        if status == 409 and not reasons:
            raise McdiffError(f"{self.url}: refused the images and did not say which (HTTP 409)")
        return taken, reasons

    def _ask(
        self, method: str, path: str, accept: str, limit: int, body: bytes = b"", kind: str = ""
    ) -> tuple[int, Message, bytes]:
        """Status, headers and body of an answer.  Tries again when the connection breaks."""
        headers = {**self._headers, "Accept": accept}
        if body:
            headers |= {"Content-Type": kind, "Content-Length": str(len(body))}
        for attempt in range(TRIES):
            if attempt:
                time.sleep(WAIT * attempt)
            try:
                if self._connection.sock is None:
                    self._connection.connect()
                with _cut_after(LONGEST, self._connection.sock):
                    pieces = (body[k : k + PIECE] for k in range(0, len(body), PIECE))
                    self._connection.request(method, self._root + path, pieces or None, headers)
                    with closing(self._connection.getresponse()) as response:
                        data = _read(response, limit)
                if response.status not in (500, 502, 503, 504) or attempt + 1 == TRIES:
                    break
            except (OSError, HTTPException) as error:
                lost = error
            self._connection.close()
        else:
            raise McdiffError(
                f"{self.url}: the connection failed ({_name(lost)}), {TRIES} times; run the same "
                "command again"
            ) from lost
        _check_status(self.url, response)
        return response.status, response.headers, data


def series_path(study: str, series: str) -> str:
    assert is_uid(study)
    assert is_uid(series)
    return f"/studies/{study}/series/{series}"


def value(answer: Answer, tag: str) -> Any:
    """The first value of an element in a result; None where there is none."""
    values = _items(answer, tag)
    return values[0] if values else None


def _items(document: Any, tag: str) -> list[Any]:
    """The items of a sequence in an answer."""
    element = document.get(tag) if isinstance(document, dict) else None
    found = element.get("Value") if isinstance(element, dict) else None
    return found if isinstance(found, list) else []


def _integer(number: object) -> int:
    return number if isinstance(number, int) else 0


@contextmanager
def _cut_after(seconds: float, line: socket.socket) -> Iterator[None]:
    """Ends a connection that takes longer, however many bytes still come."""

    def cut() -> None:
        with suppress(OSError):
            socket.socket.shutdown(line, socket.SHUT_RDWR)  # without TLS's farewell

    timer = Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _authorization(host: str, user: str | None, password: str | None) -> dict[str, str]:
    if token := os.environ.get(TOKEN):
        return {"Authorization": f"Bearer {token}"}
    pair = (unquote(user), unquote(password or "")) if user else None
    if pair is None:
        with suppress(OSError, netrc.NetrcParseError):
            found = netrc.netrc().authenticators(host)
            pair = (found[0], found[2] or "") if found else None
    if pair is None:
        return {}
    return {"Authorization": f"Basic {b64encode(':'.join(pair).encode()).decode()}"}


def _read(response: HTTPResponse, limit: int) -> bytes:
    """The whole body.  Raises IncompleteRead where it is cut short, McdiffError past the limit."""
    pieces, size = [], 0
    while piece := response.read(PIECE):
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            raise McdiffError(f"the server sent more than {limit} bytes in one answer")
    if response.length:
        raise IncompleteRead(b"", response.length)
    return b"".join(pieces)


def _name(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__


def _check_status(url: str, response: HTTPResponse) -> None:
    status = response.status
    if status in (401, 403):
        raise UsageError(
            f"{url}: refuses access (HTTP {status}); put the password into ~/.netrc, or a token "
            f"into the environment variable {TOKEN}"
        )
    if status == 507:
        raise SpaceError(f"{url}: the server is out of space (HTTP 507); free some, run again")
    if status >= 500:
        raise McdiffError(f"{url}: answers HTTP {status}; run the same command again")
    if status not in (200, 202, 204, 409):
        raise UsageError(f"{url}: answers HTTP {status}, expected DICOMweb; see the address again")


def _document(body: bytes) -> Any:
    try:
        return json.loads(body) if body.strip() else {}
    except (ValueError, RecursionError) as error:
        raise McdiffError(f"the server's answer is not JSON, expected DICOMweb; {AGAIN}") from error


def _results(body: bytes) -> list[Answer]:
    document = _document(body)
    if not isinstance(document, list) or not all(isinstance(x, dict) for x in document):
        raise McdiffError(f"the server's answer is no list of results, expected DICOMweb; {AGAIN}")
    return document


def _first_part(kind: str, body: bytes) -> bytes:
    """The file in a multipart answer.  Raises McdiffError where the answer is not whole."""
    message = Message()
    message["Content-Type"] = kind
    if message.get_content_type() == "application/dicom":
        return body
    boundary = message.get_boundary()
    if boundary:
        pieces = (b"\r\n" + body).split(f"\r\n--{boundary}".encode())
        if len(pieces) >= 3 and pieces[-1].startswith(b"--"):
            _, _, data = pieces[1].partition(b"\r\n\r\n")
            return data
    raise McdiffError("the server's answer is not a whole DICOM file; run the same command again")
