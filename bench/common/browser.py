"""A real Chromium without a window, steered through its debugging pipe."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run")


class Browser:
    """One page of a browser; `call` is a command of the DevTools protocol."""

    def __init__(self, commands: Any, answers: Any) -> None:
        self.commands, self.answers, self.numbers = commands, answers, count(1)
        self.session: dict[str, str] = {}
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Log", "Network", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        number = next(self.numbers)
        command = {"id": number, "method": method, "params": params} | self.session
        self.commands.write(json.dumps(command).encode() + b"\0")
        while (answer := self._next()).get("id") != number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        raw = bytearray()
        while (byte := self.answers.read(1)) != b"\0":
            assert byte, "the browser has ended"
            raw += byte
        message: dict[str, Any] = json.loads(raw)
        return message

    def open(
        self,
        page: Path | str,
        *,
        width: int = 1400,
        height: int = 900,
        zoom: float = 1,
        scripts: bool = True,
        **media: str,
    ) -> None:
        """page: a file or an address.  width, height: of the window, px; zoom: of its text and
        images.  media: features such as prefers_color_scheme="dark"."""
        features = [{"name": k.replace("_", "-"), "value": v} for k, v in media.items()]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        size: dict[str, float] = {"width": round(width / zoom), "height": round(height / zoom)}
        size |= {"deviceScaleFactor": zoom, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.events.clear()
        url = page if isinstance(page, str) else page.resolve().as_uri()
        loader = self.call("Page.navigate", url=url)["loaderId"]
        while not self._has_loaded(loader):
            self.events.append(self._next())

    def _has_loaded(self, loader: str) -> bool:
        """Whether the page that `loader` brought is there, and not only the one before it."""
        arrived = False
        for event in self.events:
            if event["method"] == "Page.frameNavigated":
                arrived = event["params"]["frame"]["loaderId"] == loader
            if arrived and event["method"] == "Page.loadEventFired":
                return True
        return False

    def evaluate(self, script: str) -> Any:
        found = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str, code: int = 0, modifiers: int = 0) -> None:
        """modifiers: 1 Alt, 2 Ctrl, 4 Meta, 8 Shift."""
        for kind in ("keyDown", "keyUp"):
            names = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
            if key == "Enter":  # only a key with a text submits a form
                names["text"] = "\r"
            self.call("Input.dispatchKeyEvent", type=kind, **names)

    def wait_for(self, script: str, seconds: float = 60) -> Any:
        """The value of a script as soon as it is true."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(script)):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.02)
        return value

    def shoot(self) -> bytes:
        """A PNG of the window."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])


@contextmanager
def chromium(seconds: float = 180) -> Iterator[Browser]:
    """A browser, which ends with the block, and after `seconds` in any case."""
    assert CHROMIUM
    to_read, commands = os.pipe()
    answers, to_write = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        options = [*QUIET, f"--user-data-dir={home}", "--remote-debugging-pipe", "about:blank"]
        process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{to_read} 4>&{to_write}', "chromium", CHROMIUM, *options],
            pass_fds=(to_read, to_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        limit = threading.Timer(seconds, process.kill)
        limit.start()
        try:
            with os.fdopen(commands, "wb", 0) as out, os.fdopen(answers, "rb") as into:
                yield Browser(out, into)
        finally:
            limit.cancel()
            process.terminate()
            process.wait(30)
