"""Orthanc, a real PACS, on loopback: Debian's packages orthanc and orthanc-dicomweb.

`python -m mcdiff_batch.bench.common.orthanc FOLDER` starts one with the usual ports, to try on.
"""

import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .server import free_port, started

PROGRAM = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/bin")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
ABSENT = (
    ""
    if PROGRAM and PLUGIN.exists()
    else "Debian's packages orthanc and orthanc-dicomweb are not installed"
)


class Orthanc:
    """A running server; `dicom` and `http` are its ports."""

    def __init__(self, dicom: int, http: int) -> None:
        self.dicom, self.http = dicom, http
        self.address = f"127.0.0.1:{dicom}"
        self.url = f"http://127.0.0.1:{http}/dicom-web"

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=30) as answer:
            data = answer.read()
        return data if path.endswith("/file") else json.loads(data)

    def clear(self) -> None:
        for name in self.get("/patients"):
            request = urllib.request.Request(
                f"http://127.0.0.1:{self.http}/patients/{name}", method="DELETE"
            )
            urllib.request.urlopen(request, timeout=30).close()

    def put(self, data: bytes) -> None:
        request = urllib.request.Request(f"http://127.0.0.1:{self.http}/instances", data)
        urllib.request.urlopen(request, timeout=30).close()

    def files(self) -> list[bytes]:
        """Everything that it holds, as files."""
        return [self.get(f"/instances/{x}/file") for x in self.get("/instances")]


@contextmanager
def running(
    folder: Path, storage: Path | None = None, ports: tuple[int, int] | None = None
) -> Iterator[Orthanc]:
    """A server that keeps its index in `folder`, and its files there or in `storage`.

    ports: of DICOM and of HTTP; None: free ones.
    """
    assert PROGRAM is not None
    server = Orthanc(*(ports or (free_port(), free_port())))
    settings = {
        "Name": "tests",
        "StorageDirectory": str(storage or folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": server.http,
        "DicomPort": server.dicom,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAet": "ORTHANC",
        "DicomCheckCalledAet": False,
        "DicomAlwaysAllowStore": True,
        "OverwriteInstances": False,
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "storage").mkdir(parents=True, exist_ok=True)
    (folder / "orthanc.json").write_text(json.dumps(settings))
    words = [PROGRAM, str(folder / "orthanc.json")]
    with (folder / "log").open("wb") as log, started(words, log) as process:
        _wait(server, process, folder)
        yield server


def _wait(server: Orthanc, process: "subprocess.Popen[bytes]", folder: Path) -> None:
    for _ in range(300):
        if process.poll() is not None:
            raise RuntimeError((folder / "log").read_text()[-2000:])
        try:
            server.get("/system")
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("Orthanc did not answer within 30 s")


def main(folder: Path) -> None:
    """Serves until it is interrupted."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with running(folder, ports=(4242, 8042)) as server, suppress(KeyboardInterrupt):
        print(f"--store {server.address}  --dicomweb {server.url}  (Ctrl-C ends it)", flush=True)
        signal.pause()


if __name__ == "__main__":
    if ABSENT or len(sys.argv) != 2:
        sys.exit(ABSENT or "expected the name of a folder")
    main(Path(sys.argv[1]))
