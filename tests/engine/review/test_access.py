"""A review answers only its own page, and only on this machine."""

import re
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import PATIENCE
from tests.support.review import Page, ask, lines


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "NONSENSE"])
def test_without_the_token_every_request_gets_the_same_refusal(page: Page, method: str) -> None:
    token = page.token
    paths = ["/", "/cases", "/review.js", f"/{token}", f"/{token[:-1]}/cases", f"/x/{token}/cases"]
    paths += [f"/{token}x/session", "//", "/../", f"/{token.upper()}/", "http://127.0.0.1/", "/%00"]
    found = [ask(page.port, x, method, b"{}" if method == "POST" else None) for x in paths]
    assert {x.status for x in found} == {403}
    assert len({x.body for x in found}) == 1
    assert token.encode() not in found[0].body
    assert not {"access-control-allow-origin", "set-cookie"} & found[0].headers.keys()


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", None, "[::1", "0"]
)
def test_a_foreign_name_that_points_here_gets_nothing(page: Page, host: str | None) -> None:
    assert page.ask("cases", Host=host).status == 403
    assert page.ask("verdict", "POST", {}, Host=host, Origin=f"http://{host}").status == 403


@pytest.mark.parametrize("host", ["localhost:9000", "127.0.0.1:9000", "localhost"])
def test_a_tunnel_with_another_port_is_served(page: Page, host: str) -> None:
    assert page.ask("cases", Host=host).status == 200
    body = {"case": 0, "pixels": page.show(0)[0]["pixels"], "verdict": "accept"}
    assert page.ask("verdict", "POST", body, Host=host, Origin=f"http://{host}").status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": None},
        {"Origin": "null"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "https://127.0.0.1"},
        {"Content_Type": "text/plain"},
        {"Content_Type": None},
    ],
)
def test_a_verdict_that_does_not_come_from_the_page_is_not_stored(
    page: Page, output: Path, headers: dict[str, Any]
) -> None:
    body = {"case": 0, "pixels": page.show(0)[0]["pixels"], "verdict": "accept"}
    assert page.ask("verdict", "POST", body, **headers).status in (403, 415)
    assert lines(output) == []


def test_every_answer_forbids_foreign_content_frames_and_caches(page: Page) -> None:
    for name in (
        "",
        "review.js",
        "review.css",
        "icon.svg",
        "cases",
        "case/0",
        "case/99",
        "nothing",
    ):
        headers = page.ask(name).headers
        rules = headers["content-security-policy"]
        assert set(re.findall(r"'[^']+'|https?:\S*|\*", rules)) == {"'none'", "'self'", "'script'"}
        assert headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers
        assert "Python" not in headers["server"]


@pytest.mark.parametrize(
    "name",
    ["../session", "review.py", "%2e%2e/server.py", "case/-1", "case/1e3", "case/", "case/9" * 9],
)
def test_what_is_not_there_is_not_found(page: Page, name: str) -> None:
    assert page.ask(name).status == 404


def test_only_this_machine_can_connect(page: Page) -> None:
    listening = [x.split() for x in Path("/proc/net/tcp").read_text().splitlines()]
    mine = [x[1] for x in listening if x[1].endswith(f":{page.port:04X}") and x[3] == "0A"]
    assert mine == [f"0100007F:{page.port:04X}"]


def test_silent_connections_do_not_use_up_threads(page: Page) -> None:
    before = threading.active_count()
    many = [socket.create_connection(("127.0.0.1", page.port)) for _ in range(120)]
    try:
        end = time.monotonic() + PATIENCE
        while threading.active_count() < before + 32 and time.monotonic() < end:
            time.sleep(0.01)
        assert threading.active_count() <= before + 64
    finally:
        for one in many:
            one.close()
    end = time.monotonic() + PATIENCE
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert page.ask("session").status == 200
