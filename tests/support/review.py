"""A small output to review, a server of its page in a process, and requests to it."""

import csv
import http.client
import io
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import zarr

from mcdiff_batch.engine.review.server import Server
from mcdiff_batch.engine.review.session import Session
from tests.support.crafting import CLI, command
from tests.support.processes import PATIENCE
from tests.support.running import archive, inline, job

IDS = (
    *("=HYPERLINK(1)", "<img src=x onerror=alert(1)>", "\x1b[31mred", "Ward‮7"),
    *("plain-4", "plain-5"),
)
FAINT = 2  # the case that is flagged: it uses a small part of the intensity range


def reviewable(folder: Path, *, draws: int = 2, grid: str | None = None, seed: int = 0) -> Path:
    """The output of a run of 6 cases, beside its archive; their ids are hostile."""
    path = archive(folder / "night.zarr", len(IDS), size=(64, 32))
    group = zarr.open_group(path, mode="r+")
    names = group.create_array("case_id", shape=len(IDS), chunks=len(IDS), dtype="string")
    names[:] = np.array(IDS, dtype=object)
    depths: Any = group["depths"]
    depths[FAINT] = depths[FAINT] // 16
    inline(job(path, folder / "night.enhanced", draws=draws, grid=grid, seed=seed))
    return folder / "night.enhanced"


@dataclass(frozen=True)
class Reviewing:
    """A review in a process of its own."""

    url: str
    process: "subprocess.Popen[str]"

    @property
    def address(self) -> tuple[str, int, str]:
        """Host, port and token."""
        parts = urlsplit(self.url)
        assert parts.hostname
        assert parts.port
        return parts.hostname, parts.port, parts.path.strip("/")


@contextmanager
def reviewing(output: Path, *words: object, **environment: str) -> Iterator[Reviewing]:
    """`mcdiff-batch review OUTPUT`, which is ended with the block."""
    command = [*CLI, "review", str(output), *map(str, words)]
    default = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # background jobs ignore it
    process = subprocess.Popen(
        command,
        preexec_fn=default,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | environment,
    )
    try:
        assert process.stdout
        yield Reviewing(process.stdout.readline().strip(), process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE)
        if process.stdout:
            process.stdout.close()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    port: int, path: str, method: str = "GET", body: object = None, **headers: str | None
) -> Answer:
    """A request as the page sends it.  headers: changes to it; None leaves one out."""
    sent: dict[str, str | None] = {"Host": f"127.0.0.1:{port}"}
    if method == "POST":
        sent |= {"Origin": f"http://127.0.0.1:{port}", "Content-Type": "application/json"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in sent.items():
            if value is not None:
                connection.putheader(name, value)
        if data is not None:
            connection.putheader("Content-Length", str(len(data)))
        connection.endheaders(data)
        answer = connection.getresponse()
        names = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, names, answer.read())
    finally:
        connection.close()


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is said of a case, and its planes by name."""
    size = int.from_bytes(data[:4], "little")
    about = json.loads(data[4 : 4 + size])
    shape = (len(about["planes"]), about["height"], about["width"])
    planes = np.frombuffer(data[4 + size :], np.uint8).reshape(shape)
    return about, dict(zip(about["planes"], planes, strict=True))


def lines(output: Path) -> list[dict[str, Any]]:
    """The verdicts as they are stored."""
    file = output / "review/verdicts.jsonl"
    return [json.loads(x) for x in file.read_text().splitlines()] if file.exists() else []


def become(user: int) -> None:
    """This process becomes another user of the machine."""
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)


class Page:
    """A server in this process, asked as the page asks."""

    def __init__(self, output: Path, **options: Any) -> None:
        self.server = Server(Session(out=output, **options))
        self.port, self.token = self.server.server_port, self.server.token
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(PATIENCE)

    def ask(self, path: str, method: str = "GET", body: object = None, **headers: Any) -> Answer:
        return ask(self.port, f"/{self.token}/{path}", method, body, **headers)

    def show(self, case: int, blind: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
        found = self.ask(f"case/{case}?blind={blind}")
        assert found.status == 200, found.body
        return unpack(found.body)

    def vote(self, case: int, blind: int = 0, **ballot: Any) -> Answer:
        pixels = self.show(case, blind)[0]["pixels"]
        return self.ask("verdict", "POST", {"case": case, "pixels": pixels} | ballot)

    def states(self, blind: int = 0) -> dict[int, int]:
        found = self.ask(f"cases?blind={blind}").json
        return dict(zip(found["cases"], map(int, found["states"]), strict=True))


def table(output: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, *words: str) -> list[Any]:
    capsys.readouterr()
    assert command(monkeypatch, "review", output, "--export", "csv", *words) == 0
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
