"""The folder on this machine through which a run works on an output in an object store.

It is in the user's cache, one for each address.  It holds what is no part of the results while a
run lasts: locks, incidents and what the report is made of.  These are sent to the store when the
run has ended; a run that was killed leaves them here for the next one.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from mcdiff_batch.engine.errors import UsageError
from mcdiff_batch.engine.files import cache_folder, replacing
from mcdiff_batch.engine.text import show_as

from .files import StoreFiles
from .place import Place, Url, parse_place

FOLDER = "outputs"  # of the cache
SERVER = re.compile("(AWS|AZURE|GOOGLE)_.*(ENDPOINT|ACCOUNT_NAME|BASE_URL).*")  # variables
ADDRESS = ".store"  # a file with the address
UNSENT = ".unsent"  # a file that says that a journal holds what the store lacks
JOURNAL = ("report", "incidents.jsonl")  # of a run, or of a part of one
PARTS = "parts"
DERIVED = (".html", "report.json", "comparison.json", "trace.json")  # written again from the rest


def open_workspace(place: Place) -> Path:
    """The folder of an output: itself, or the one that stands for an address.

    What other machines have sent of their journals is fetched.  Raises UsageError where `place`
    can only be read, OSError.
    """
    if isinstance(place, Path):
        return place
    if not place.can_list:
        raise UsageError(
            f"{place}: a web server can only be read, expected a folder, s3://, gs:// or az://"
        )
    root = cache_folder(FOLDER) / _name(place)
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        _replace(root / ADDRESS, str(place).encode())
    except OSError as error:
        raise UsageError(
            f"{root}: cannot be written to ({error.strerror}), and a run into {place} keeps its "
            "locks and measurements there; set XDG_CACHE_HOME to a folder on a local disk"
        ) from error
    show_as(str(root), str(place))
    _fetch(root, StoreFiles(place))
    return root


def _replace(path: Path, data: bytes) -> None:
    """Writes a file that is complete or as before: others may be reading it."""
    with replacing(path, path.with_name(f".{path.name}-{os.getpid()}")) as spare:
        spare.write_bytes(data)


def _name(url: Url) -> str:
    """A hash of the address and of the variables that say which store it means."""
    where = sorted((k, v) for k, v in os.environ.items() if SERVER.fullmatch(k))
    return hashlib.sha256(repr((str(url), where)).encode()).hexdigest()[:16]


def find_address(root: Path) -> Url | None:
    """The address for which a folder stands; None for any other folder.

    Only folders in the cache stand for one: what lies in a folder of results is not believed.
    """
    if root.parent.name != FOLDER or root.parent != cache_folder(FOLDER):
        return None
    return _read_address(root)


@lru_cache
def _read_address(root: Path) -> Url:
    place = parse_place((root / ADDRESS).read_text())
    assert isinstance(place, Url)
    return place


def mark(journal: Path) -> None:
    """Notes that a journal is about to grow.  Raises OSError."""
    if _find_root(journal) is not None:
        journal.mkdir(parents=True, exist_ok=True)
        (journal / UNSENT).touch()


def send(journal: Path) -> None:
    """Sends a journal to the store, if it has grown.  Raises OSError."""
    root = _find_root(journal)
    if root is None or not (journal / UNSENT).exists():
        return
    files = StoreFiles(_read_address(root))
    for path in _list_files(journal):
        files.write(path.relative_to(root).as_posix(), path.read_bytes())
    (journal / UNSENT).unlink(missing_ok=True)


def _find_root(journal: Path) -> Path | None:
    return next((x for x in (journal, *journal.parents[:2]) if find_address(x)), None)


def _list_files(journal: Path) -> Iterator[Path]:
    for name in JOURNAL:
        path = journal / name
        found = path.rglob("*") if path.is_dir() else [path]
        yield from (x for x in sorted(found) if x.is_file() and not x.name.startswith("."))


def _fetch(root: Path, files: StoreFiles) -> None:
    """Fetches the journals that have not grown here.

    Compiled plans are not fetched: they are code, and others may write to the store (P11).
    """
    journals = ["", *(f"{PARTS}/{x}/" for x in _names(files, PARTS))]
    for journal in journals:
        if not (root / journal / UNSENT).exists():
            for name in JOURNAL:
                _fetch_tree(root, files, f"{journal}{name}")


def _fetch_tree(root: Path, files: StoreFiles, name: str) -> None:
    inside = _names(files, name)
    for child in inside:
        _fetch_tree(root, files, f"{name}/{child}")
    if not inside and not name.endswith(DERIVED):
        with suppress(FileNotFoundError):
            data, path = files.read(name), root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            _replace(path, data)


def _names(files: StoreFiles, folder: str) -> list[str]:
    """What is in a folder of the store, without names that no run has written."""
    plain = lambda name: not name.startswith(".") and "/" not in name and name.isprintable()
    return [x for x in files.list(folder) if plain(x)]
