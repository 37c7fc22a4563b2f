"""Files: their hash, and JSON lines that a killed run may have left torn."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Objects of a JSON lines file, without what is torn; nothing where there is no file."""
    if not path.is_file():
        return
    with path.open(errors="replace") as file:
        for text in file:
            with suppress(ValueError):
                value = json.loads(text)
                if isinstance(value, dict):
                    yield value


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
