"""The last act of a run: the hash of every file that it committed."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from . import arrays, durable, ledger, shards
from .arrays import Files
from .ledger import Entry, Record
from .runs import MANIFEST
from .shards import Layout


def records(root: Path) -> Iterator[Record]:
    return (ledger.read(root, unit) for unit in ledger.recorded(root))


def entries(root: Path) -> Iterator[Entry]:
    return (entry for record in records(root) for entry in record.cases)


def complete(root: Path, layout: Layout) -> None:
    """Writes the columns, then the manifest; shards are not read again, their records know."""
    columns = arrays.columns(layout, entries(root))
    for name, data in columns.items():
        durable.write(root, name, data)
    metadata = ("zarr.json", *(f"{name}/zarr.json" for name in layout.images))
    files = columns | {
        name: (root / name).read_bytes() for name in (f"{shards.FOLDER}/{x}" for x in metadata)
    }
    text = json.dumps(_manifest(root, files), indent=0, sort_keys=True) + "\n"
    durable.write(root, MANIFEST, text.encode())


def _manifest(root: Path, metadata: Files) -> dict[str, object]:
    """`metadata`: every file of images.zarr that is no shard."""
    counts: Counter[str] = Counter()
    files = dict(_hashes(metadata.items()))
    for unit in ledger.recorded(root):
        data = (root / ledger.name(unit)).read_bytes()
        head = ledger.decode(data).head
        files.update(_hashes([(ledger.name(unit), data)]))
        files.update({shards.shard_name(x, unit): y.sha256 for x, y in head.shards.items()})
        counts.update(head.counts)
    return {"schema": 1, "cases": dict(counts), "files": files}


def _hashes(files: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, str]]:
    return ((name, hashlib.sha256(data).hexdigest()) for name, data in files)
