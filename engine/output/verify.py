"""Reads the files of an output again and compares them with its ledger and manifest."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import zarr

from mcdiff_batch.engine.files import file_sha256

from . import ledger, shards
from .ledger import DONE, DamagedRecord, Record
from .manifest import read_manifest
from .runs import MANIFEST


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One file that is not as it was committed."""

    name: str  # in the output
    what: str  # is wrong with it
    cases: tuple[int, ...] = ()  # whose pixels are lost; none where all of them can be read

    def __str__(self) -> str:
        cases = f": case {', '.join(map(str, self.cases))}" if self.cases else ""
        return f"{self.name} {self.what}{cases}"


def find_damage(root: Path, part: int = 1, parts: int = 1) -> Iterator[Damage]:
    """The damage in part `part` of `parts` of the units, and in all other files.

    A part is every `parts`-th unit; the first part is 1.
    """
    for unit in ledger.list_units(root):
        if unit % parts == part - 1:
            yield from _find_unit_damage(root, unit)
    yield from _find_manifest_damage(root)


def _find_unit_damage(root: Path, unit: int) -> Iterator[Damage]:
    try:
        record = ledger.read(root, unit)
    except DamagedRecord:
        yield Damage(name=ledger.file_name(unit), what="is not a record")
        return
    for array, shard in record.shards.items():
        name = shards.shard_name(array, unit)
        if not (root / name).is_file():
            yield Damage(name=name, what="is missing", cases=_done_cases(record))
        elif file_sha256(root / name) != shard.sha256:
            yield Damage(name=name, what="was changed", cases=_damaged_cases(root, record))


def _done_cases(record: Record) -> tuple[int, ...]:
    return tuple(entry.case for entry in record.cases if entry.status == DONE)


def _damaged_cases(root: Path, record: Record) -> tuple[int, ...]:
    group = zarr.open_group(root / shards.FOLDER, mode="r")
    pixels = {entry.case: entry.pixels for entry in record.cases}
    names = [name for name in shards.IMAGES if name in record.shards]
    return tuple(
        case for case in _done_cases(record) if _hash_case(group, names, case) != pixels[case]
    )


def _hash_case(group: zarr.Group, names: Sequence[str], case: int) -> str:
    """SHA-256 of a case's images; "" where one cannot be decoded."""
    try:
        images = [_array(group, name)[case] for name in names]
    except Exception:  # zarr and its codecs raise any of many errors
        return ""
    return shards.hash_pixels(images)  # type: ignore[arg-type]


def _array(group: zarr.Group, name: str) -> zarr.Array:  # type: ignore[type-arg]
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array


def _find_manifest_damage(root: Path) -> Iterator[Damage]:
    """Damage to other files than shards: the hash of a shard is in its record."""
    if not (root / MANIFEST).is_file():
        return
    try:
        files = read_manifest(root).files
    except ValueError:
        yield Damage(name=MANIFEST, what="is not a manifest")
        return
    for name, sha256 in files.items():
        if "/c/" in name and name.split("/")[1] in shards.IMAGES:
            if not (root / ledger.file_name(int(name.split("/")[3]))).is_file():
                yield Damage(name=name, what="has no record")
        elif not (root / name).is_file():
            yield Damage(name=name, what="is missing")
        elif file_sha256(root / name) != sha256:
            yield Damage(name=name, what="was changed")
