"""What `--version --json` prints: all that decides the bytes of a run, and no path."""

import json
import os
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mcdiff_batch.engine.files import file_sha256
from mcdiff_batch.engine.model.contract import SHIPPED
from mcdiff_batch.engine.output.runs import software_versions

from .config import COMMIT

GPU = ("tensorrt", "tensorrt-rtx", "cuda-bindings")  # decide the bytes where they are installed


def versions() -> dict[str, Any]:
    """bundle: SHA-256 of the shipped contract; commit: of the source, null where it is unknown."""
    software = dict(software_versions())
    return {
        "mcdiff-batch": software.pop("mcdiff-batch"),
        "python": platform.python_version(),
        "libraries": software | dict(_installed()),
        "bundle": file_sha256(SHIPPED / "contract.json"),
        "commit": os.environ.get(COMMIT) or _commit(),
    }


def _installed() -> list[tuple[str, str]]:
    found = []
    for name in GPU:
        with suppress(PackageNotFoundError):
            found.append((name, version(name)))
    return found


def _commit() -> str | None:
    """As pip noted it, or of the repository that an editable installation runs from.

    It ends with -dirty where files there were changed.
    """
    with suppress(OSError, ValueError, KeyError, TypeError, subprocess.SubprocessError):
        noted = json.loads(distribution("mcdiff-batch").read_text("direct_url.json") or "{}")
        if "vcs_info" in noted:
            return str(noted["vcs_info"]["commit_id"])
        if noted["dir_info"]["editable"]:
            return _describe(Path(unquote(urlsplit(noted["url"]).path)))
    return None


def _describe(root: Path) -> str | None:
    if not (root / ".git").exists():  # or git would look in the folders above
        return None
    call = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    found = subprocess.run(call, capture_output=True, text=True, timeout=10, check=True)
    return found.stdout.strip() or None
