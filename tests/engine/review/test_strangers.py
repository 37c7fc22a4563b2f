"""Whoever does not know the secret cannot keep the owner out, however many connections he holds."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPResponse
from pathlib import Path

import pytest

from mcdiff_batch.engine.review import server
from tests.support.network import time_limit
from tests.support.processes import PATIENCE, wait_for
from tests.support.review import Page

WORDS = {  # what a stranger says before he waits
    "nothing": b"",
    "a body that never comes": b"POST /guess/verdict HTTP/1.1\r\nContent-Length: 9000\r\n",
}


@pytest.fixture(autouse=True)
def _limited() -> Iterator[None]:
    with time_limit(2 * PATIENCE):
        yield


@contextmanager
def strangers(port: int, count: int, words: bytes) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        held = []
        for _ in range(count):
            line = stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE))
            with suppress(ConnectionError):  # it may have been sent away already
                line.sendall(words)
            held.append(line)
        yield held


def is_open(line: socket.socket) -> bool:
    line.setblocking(False)
    try:
        return line.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


def read_status(line: socket.socket) -> int:
    """Of an answer, which is read to its end."""
    with HTTPResponse(line) as answer:
        answer.begin()
        answer.read()
        return answer.status


@pytest.mark.parametrize("words", WORDS.values(), ids=list(WORDS))
def test_the_owner_gets_in_while_strangers_hold_every_place(
    made: Path, monkeypatch: pytest.MonkeyPatch, words: bytes
) -> None:
    monkeypatch.setattr(server, "EVICTION_TIME", PATIENCE)
    with Page(made) as page, strangers(page.port, 2 * server.CONNECTIONS, words):
        for _ in range(5):
            assert page.ask("session").status == 200


def test_a_stranger_who_says_a_byte_now_and_then_is_sent_away_soon(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "STRANGER_TIME", 0.3)
    with Page(made) as page, strangers(page.port, 1, b"GET /") as (line,):
        end = time.monotonic() + PATIENCE
        while is_open(line) and time.monotonic() < end:
            try:
                line.send(b"x")
            except OSError:
                break
            time.sleep(0.05)
        assert not is_open(line)


def test_the_owners_connection_stays_while_strangers_come(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "STRANGER_TIME", PATIENCE)
    request = "GET /{}/session HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n\r\n"
    with Page(made) as page, strangers(page.port, 1, b"") as (line,):
        line.settimeout(PATIENCE)
        sent = request.format(page.token, page.port).encode()
        line.sendall(sent)
        assert read_status(line) == 200
        monkeypatch.setattr(server, "STRANGER_TIME", 0.1)
        with strangers(page.port, 2 * server.CONNECTIONS, b"GET"):
            time.sleep(0.3)  # longer than a stranger may stay
            line.sendall(sent)
            assert read_status(line) == 200


def test_a_connection_for_which_no_thread_can_start_leaves_its_place(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    with Page(made) as page:
        with monkeypatch.context() as busy:
            busy.setattr(threading.Thread, "start", refuse)
            with strangers(page.port, server.CONNECTIONS, b"") as held:
                wait_for(lambda: not any(map(is_open, held)))
        assert page.ask("session").status == 200
