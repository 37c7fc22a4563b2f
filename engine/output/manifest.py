"""The manifest: the hash of every file that was committed, written when all units are finished."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from mcdiff_batch.engine.files import from_json

from . import arrays, durable, ledger, shards
from .arrays import Files
from .ledger import Entry
from .runs import MANIFEST
from .shards import Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The document `manifest.json`."""

    cases: dict[str, int]  # by status
    files: dict[str, str]  # SHA-256 by name in the output
    schema: Literal[1] = 1


def read_entries(root: Path) -> Iterator[Entry]:
    """The entries of all cases, in order.  Raises DamagedRecord."""
    for unit in ledger.list_units(root):
        yield from ledger.read(root, unit).cases


def complete(root: Path, layout: Layout) -> None:
    """Writes the columns, then the manifest.

    The hashes of shards come from their records; shards are not read again.
    """
    columns = arrays.column_files(layout, read_entries(root))
    for name, data in columns.items():
        durable.write(root, name, data)
    metadata = ("zarr.json", *(f"{name}/zarr.json" for name in layout.images))
    files = columns | {
        name: (root / name).read_bytes() for name in (f"{shards.FOLDER}/{x}" for x in metadata)
    }
    text = json.dumps(asdict(_manifest(root, files)), indent=0, sort_keys=True) + "\n"
    durable.write(root, MANIFEST, text.encode())


def read_manifest(root: Path) -> Manifest:
    """Raises ValueError where the file is damaged, FileNotFoundError where there is none."""
    return from_json(json.loads((root / MANIFEST).read_bytes()), Manifest)


def _manifest(root: Path, metadata: Files) -> Manifest:
    """metadata: every file of images.zarr but the shards."""
    counts: Counter[str] = Counter()
    files = dict(_hashes(metadata.items()))
    for unit in ledger.list_units(root):
        data = (root / ledger.file_name(unit)).read_bytes()
        head = ledger.decode(data).head
        files.update(_hashes([(ledger.file_name(unit), data)]))
        files.update({shards.shard_name(x, unit): y.sha256 for x, y in head.shards.items()})
        counts.update(head.counts)
    return Manifest(cases=dict(counts), files=files)


def _hashes(files: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, str]]:
    return ((name, hashlib.sha256(data).hexdigest()) for name, data in files)
