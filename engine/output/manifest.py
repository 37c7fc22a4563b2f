"""The manifest: the hash of every file that was committed, written when all units are finished."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from mcdiff_batch.engine.errors import McdiffError
from mcdiff_batch.engine.files import from_json

from . import arrays, durable, ledger, shards
from .arrays import Files
from .ledger import Entry
from .runs import MANIFEST, TRIES
from .shards import Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The document `manifest.json`."""

    cases: dict[str, int]  # by status
    files: dict[str, str]  # SHA-256 by name in the output
    schema: Literal[1] = 1


def read_entries(root: Path) -> Iterator[Entry]:
    """The entries of all cases, in order.  Raises DamagedRecord."""
    for _, data in ledger.read_all(root):
        yield from ledger.decode(data).cases


def complete(root: Path, layout: Layout, metadata: Files) -> None:
    """Writes the columns, then the manifest.

    In a store another run, which no lock shows, may replace a record meanwhile: then both are
    written again.

    metadata: of images.zarr; a file that differs from it was damaged, and is written again.
    The hashes of shards come from their records; shards are not read again.  Raises McdiffError.
    """
    files = durable.files(root)
    for name, data in metadata.items():
        if not files.exists(name) or files.read(name) != data:
            files.write(name, data)
    for _ in range(TRIES):
        units, counts = describe_units(root)
        columns = arrays.column_files(layout, read_entries(root))
        for name, data in columns.items():
            files.write(name, data)
        hashes = dict(_hashes((columns | metadata).items()))
        manifest = Manifest(cases=counts, files=hashes | units)
        text = json.dumps(asdict(manifest), indent=0, sort_keys=True) + "\n"
        files.write(MANIFEST, text.encode())
        if describe_units(root)[0] == units:
            return
        files.remove(MANIFEST)
    raise McdiffError(
        f"{root}: another run changes units all the time; end it, and run the same command again"
    )


def read_manifest(root: Path) -> Manifest:
    """Raises ValueError where the file is damaged, FileNotFoundError where there is none."""
    return from_json(json.loads(durable.files(root).read(MANIFEST)), Manifest)


def describe_units(root: Path) -> tuple[dict[str, str], dict[str, int]]:
    """SHA-256 by name of all records and their shards, and counts of cases by status.

    Raises DamagedRecord.
    """
    files: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for name, data in ledger.read_all(root):
        head, unit = ledger.decode(data).head, ledger.unit_of(name)
        files.update(_hashes([(name, data)]))
        files.update({shards.shard_name(x, unit): y.sha256 for x, y in head.shards.items()})
        counts.update(head.counts)
    return files, dict(counts)


def _hashes(files: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, str]]:
    return ((name, hashlib.sha256(data).hexdigest()) for name, data in files)
