"""Reads the files of an output again and compares them with its ledger and manifest."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import zarr

from mcdiff_batch.engine.errors import UsageError

from . import durable, ledger, runs, shards
from .ledger import DONE, DamagedRecord, Record
from .manifest import Manifest, describe_units, read_manifest
from .runs import CONFIG, MANIFEST, PLAN
from .units import join

RECORD = re.compile(rf"{ledger.FOLDER}/(\d+)\.json")
SHARD = re.compile(rf"{shards.FOLDER}/(?:{'|'.join(shards.IMAGES)})/c/\d+/0/0")
OTHER = re.compile(rf"{shards.FOLDER}/(?:\w+/)*(?:zarr\.json|\d+)")  # columns and metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One file that is not as it was committed."""

    name: str  # in the output
    what: str  # is wrong with it
    cases: tuple[int, ...] = ()  # whose pixels are lost; none where all of them can be read
    unit: int | None = None  # that has to be done again; None: the file belongs to no unit

    def __str__(self) -> str:
        named = "case" if len(self.cases) == 1 else "cases"
        cases = f": {named} {join(range(x, x + 1) for x in self.cases)}" if self.cases else ""
        return f"{self.name} {self.what}{cases}"


def find_damage(root: Path, part: int = 1, parts: int = 1) -> Iterator[Damage]:
    """The damage in part `part` of `parts` of the units, and in all other files.

    A part is every `parts`-th unit; the first part is 1.  A file is named once.
    """
    seen: set[str] = set()
    for damage in _find_all(root, part, parts):
        if damage.name not in seen:
            seen.add(damage.name)
            yield damage


def _find_all(root: Path, part: int, parts: int) -> Iterator[Damage]:
    yield from _find_settings_damage(root)
    yield from _find_metadata_damage(root)
    for unit in ledger.list_units(root):
        if unit % parts == part - 1:
            yield from _find_unit_damage(root, unit)
    yield from _find_manifest_damage(root)


def _find_settings_damage(root: Path) -> Iterator[Damage]:
    """Damage to the settings, and to the compiled plans, whose hashes are among them."""
    try:
        run = runs.load_existing(root)
    except UsageError:
        what = "cannot be read" if durable.files(root).exists(CONFIG) else "is missing"
        yield Damage(name=CONFIG, what=what)
        return
    for name, sha256 in run.settings.plan_files.items():
        yield from _compare(root, f"{PLAN}/{Path(name).name}", sha256)


def _find_metadata_damage(root: Path) -> Iterator[Damage]:
    """Metadata of images.zarr that nobody can read.  The manifest shows other changes."""
    files = durable.files(root)
    there = set(files.list(shards.FOLDER))
    for name in ("", *(x for x in shards.IMAGES if x in there)):
        try:
            files.open_zarr(f"{shards.FOLDER}/{name}".rstrip("/"))
        except Exception:  # zarr raises any of many errors
            yield Damage(
                name=f"{shards.FOLDER}/{name}/zarr.json".replace("//", "/"), what="cannot be read"
            )


def _compare(root: Path, name: str, sha256: str, unit: int | None = None) -> Iterator[Damage]:
    try:
        if hashlib.sha256(durable.files(root).read(name)).hexdigest() != sha256:
            yield Damage(name=name, what="was changed", unit=unit)
    except FileNotFoundError:
        yield Damage(name=name, what="is missing", unit=unit)
    except OSError as error:
        yield Damage(name=name, what=f"cannot be read ({error.strerror})", unit=unit)


def _find_unit_damage(root: Path, unit: int) -> Iterator[Damage]:
    name = ledger.file_name(unit)
    try:
        data = durable.files(root).read(name)
        record = ledger.decode(data)
    except OSError as error:
        yield Damage(name=name, what=f"cannot be read ({error.strerror})", unit=unit)
        return
    except DamagedRecord:
        yield Damage(name=name, what="is not a record", unit=unit)
        return
    if record.unit != unit or ledger.encode(record) != data:
        yield Damage(name=name, what="was changed", unit=unit)
    for array, shard in record.shards.items():
        for damage in _compare(root, shards.shard_name(array, unit), shard.sha256, unit):
            yield replace(damage, cases=_lost_cases(root, record))


def _lost_cases(root: Path, record: Record) -> tuple[int, ...]:
    """The done cases whose images cannot be read, or are not those of the record."""
    names = [name for name in shards.IMAGES if name in record.shards]
    done = (entry for entry in record.cases if entry.status == DONE)
    return tuple(x.case for x in done if _hash_case(root, names, x.case) != x.pixels)


def _hash_case(root: Path, names: Sequence[str], case: int) -> str:
    """SHA-256 of a case's images; "" where one cannot be decoded."""
    try:
        group = durable.files(root).open_zarr(shards.FOLDER)
        images = [_array(group, name)[case] for name in names]
    except Exception:  # zarr and its codecs raise any of many errors
        return ""
    return shards.hash_pixels(images)  # type: ignore[arg-type]


def _array(group: zarr.Group, name: str) -> zarr.Array:  # type: ignore[type-arg]
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array


def _find_manifest_damage(root: Path) -> Iterator[Damage]:
    """Damage that the manifest shows: to records, columns, metadata, and to itself.

    The hash of a shard is in its record.
    """
    if not durable.files(root).exists(MANIFEST):
        return
    try:
        manifest = read_manifest(root)
    except (OSError, ValueError):
        yield Damage(name=MANIFEST, what="is not a manifest")
        return
    damaged = False
    for name, sha256 in manifest.files.items():
        if record := RECORD.fullmatch(name):
            for damage in _compare(root, name, sha256, int(record[1])):
                damaged = True
                yield damage
        elif OTHER.fullmatch(name) and not SHARD.fullmatch(name):
            yield from _compare(root, name, sha256)
    if not damaged and not _agrees(root, manifest):
        yield Damage(name=MANIFEST, what="does not agree with the ledger")


def _agrees(root: Path, manifest: Manifest) -> bool:
    """Whether the manifest holds all records and shards, and nothing that no run writes."""
    files = manifest.files.items()
    units = {x: y for x, y in files if SHARD.fullmatch(x) or not OTHER.fullmatch(x)}
    try:
        return (units, manifest.cases) == describe_units(root)
    except (OSError, DamagedRecord):  # found with its unit
        return True
