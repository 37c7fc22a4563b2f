"""The output directory of a run: the settings that `run.json` keeps, and the units it holds."""

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import msgspec

from mcdiff_batch.engine.errors import FingerprintError, McdiffError, UsageError, explain
from mcdiff_batch.engine.telemetry.machine import package_version
from mcdiff_batch.engine.telemetry.numbers import parse_count
from mcdiff_batch.engine.text import clean, pluralise

from . import durable, ledger, locks, shards, verdicts
from .ledger import DamagedRecord, Head, Record
from .units import parse_selection

CONFIG = "run.json"
MANIFEST = "manifest.json"
REPORT = "report"
PLAN = "plan"  # a copy of the plan that was compiled for a GPU
OWN_NAMES = {  # what a run may find in its directory
    *(CONFIG, MANIFEST, REPORT, PLAN, durable.SCRATCH),
    *(locks.LOCK, locks.UNITS, locks.PARTS),
    *(ledger.FOLDER, ledger.INCIDENTS, shards.FOLDER, verdicts.FOLDER),
}
HINTS = {  # what makes a setting differ
    "archive": "this is another archive, or its metadata were changed",
    "bundle": "this is another model",
    "ladder": "see --steps and --sampler",
    "solver": "see --sampler",
    "software": "a package was updated or replaced",
    "canary": "this machine computes other bits than the one that began the run, so results would "
    "differ",
}
REMEDIES = {"canary": "continue on a machine like the first"}
REMEDY = "go back to the first value"
TRIES = 8  # to write a record
MOST_UNITS = 1 << 20  # of a run: each is a file of the ledger
LARGEST = 64 << 20  # bytes of run.json

WRITERS = ("mcdiff-batch", "numcodecs", "numpy", "scipy", "zarr")  # make columns and metadata
SOFTWARE = (*WRITERS, "onnxruntime")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that the bytes of a run depend on: its fingerprint."""

    plan: str
    device_kind: str
    batch_size: int
    unit_size: int
    solver: str
    ladder: tuple[float, ...]
    seed: int
    temperature: float  # scale of the starting noise
    bundle: str  # SHA-256 of contract.json
    archive: str  # SHA-256 of everything but the pixels
    cases: str  # as Selection writes it
    grid: str  # "frame" or "input"
    software: dict[str, str]  # versions
    draws: int = 1  # starting noises per case
    plan_files: dict[str, str] = field(default_factory=dict)  # SHA-256 of the compiled plans
    canary: str = ""  # see model/canary.py; empty in outputs that have none


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The document `run.json`."""

    settings: Settings
    contract: dict[str, Any]  # the bundle's, as it was; the report also reads older ones
    schema: Literal[1] = 1


@lru_cache
def software_versions() -> dict[str, str]:
    """Versions of the packages that the bytes of a run depend on."""
    return {name: package_version(name) for name in SOFTWARE}


def load(root: Path) -> Run | None:
    """The run in `root`; None where there is none yet.

    Raises UsageError for a damaged run.json, for a folder with other files in it, and where
    `root` is no folder or cannot be read.
    """
    try:
        return _load(root)
    except OSError as error:
        raise explain(error, root) from error


def _load(root: Path) -> Run | None:
    path, files = root / CONFIG, durable.files(root)
    if files.exists(CONFIG):
        try:
            if files.size(CONFIG) > LARGEST:
                raise ValueError(f"it has more than {LARGEST} bytes")
            run = msgspec.convert(json.loads(files.read(CONFIG)), Run)
            _check(run.settings)
            return run
        except (ValueError, UsageError) as error:
            raise UsageError(
                f"{path}: is damaged ({error}); copy it from a backup, or choose another --output; "
                f"`mcdiff-batch verify {root}` checks the images"
            ) from error
    if set(files.list()) - OWN_NAMES:
        raise UsageError(
            f"{root}: contains files that no run has written, expected a new or empty folder or "
            "the output of an earlier run; choose another --output"
        )
    return None


def _check(settings: Settings) -> None:
    """Raises UsageError for settings that no run has: what reads them would not end."""
    size = settings.unit_size
    count = 0 if size < 1 else parse_selection(settings.cases, 1 << 62).count_units(size)
    if not 1 <= count <= MOST_UNITS or size > MOST_UNITS:
        raise UsageError(
            f"{clean(settings.cases)[:50]} in units of {size}: expected 1 to {MOST_UNITS} units of "
            f"at most {MOST_UNITS} cases (--unit-size)"
        )


def load_existing(root: Path) -> Run:
    """The run in `root`.  Raises UsageError where there is none."""
    run = load(root)
    if run is None:
        raise UsageError(f"{root}: contains no run; expected the --output of `mcdiff-batch run`")
    return run


def count_archive(root: Path) -> int | None:
    """Cases of the whole archive, selected or not; None where the metadata of images are damaged.

    It is in no setting, because the hash of the archive in run.json stands for it.
    """
    files, name = durable.files(root), f"{shards.FOLDER}/{shards.IMAGES[0]}/zarr.json"
    with suppress(OSError, McdiffError, ValueError, LookupError, TypeError, RecursionError):
        if files.size(name) <= LARGEST:
            return parse_count(json.loads(files.read(name))["shape"][0])
    return None


def save(root: Path, run: Run) -> None:
    """Writes run.json, unless another process has just begun this output: what it wrote counts.

    Raises as `Files` of durable.py do.
    """
    _check(run.settings)
    text = json.dumps(asdict(run), indent=1, sort_keys=True) + "\n"
    durable.files(root).create(CONFIG, text.encode())


def settle(
    root: Path, stored: Run | None, wanted: Mapping[str, Any], automatic: Settings
) -> Settings:
    """The settings of a run: `wanted` first, then what is stored, then `automatic`.

    wanted: fields that the user chose, and facts such as the plan and the archive.
    Raises FingerprintError where one of them differs from what is stored.
    """
    if stored is None:
        return replace(automatic, **wanted)
    for name, value in wanted.items():
        before = getattr(stored.settings, name)
        if before != value:
            if isinstance(value, dict):
                before, value = _differing(before, value), _differing(value, before)
            hint = f" ({HINTS[name]})" if name in HINTS else ""
            raise FingerprintError(
                f"{root}: {name} was {_say(before)} when this output was begun, now it is "
                f"{_say(value)}{hint}; {REMEDIES.get(name, REMEDY)}, or choose another --output"
            )
    return stored.settings


def _differing(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in one.items() if other.get(name) != value}


def _say(value: object) -> str:
    """A setting in words: a ladder by its length, a hash by its beginning."""
    if isinstance(value, tuple):
        steps = ", ".join(f"{x:g}" for x in value[:8])
        return f"{pluralise(len(value), 'step')} ({steps}{', ...' if len(value) > 8 else ''})"
    text = str(value)
    if re.fullmatch("[0-9a-f]{64}", text):
        return text[:12]
    return text if len(text) <= 200 else f"{text[:200]}..."


def read_finished(root: Path, unit: int) -> Head | None:
    """The head of a finished unit: it is committed, and no case is open.

    None where the unit has to be done, again or for the first time.
    """
    head = read_committed(root, unit)
    return None if head is None or head.counts[ledger.OPEN] else head


def read_committed(root: Path, unit: int) -> Head | None:
    """The head of a unit whose record is sound and whose shards have the size in it."""
    record = _read_committed(root, unit)
    return None if record is None else record.head


def _read_committed(root: Path, unit: int) -> Record | None:
    try:
        record = ledger.read(root, unit)  # all of it: a record may end in the middle
        files = durable.files(root)
        sizes = {name: files.size(shards.shard_name(name, unit)) for name in record.shards}
    except (FileNotFoundError, DamagedRecord):
        return None
    whole = all(sizes[name] == shard.bytes for name, shard in record.shards.items())
    return record if whole else None


def commit(root: Path, record: Record, images: Mapping[str, bytes | None]) -> Head:
    """Writes the shards of a unit, then its record, each durable before the next (P5).

    images: the shards that the record describes; None: no case has that image.
    Another process may have committed the unit meanwhile, if this one was thought dead.  Then
    `_stands` says whose work counts.  Returns the head that the output has now.
    Raises SpaceError, McdiffError.
    """
    with durable.explain_errors(root), locks.units_locked(root, record.unit):
        files, name = durable.files(root), ledger.file_name(record.unit)
        there = _read_committed(root, record.unit)
        if there is not None and _stands(there, record, files.exists(MANIFEST)):
            return there.head
        files.retire(name)  # of shards that are replaced now
        shards.write(root, record.unit, images)
        head = _write_record(root, record, images)
        _check_manifest(files, name)
        return head


def _write_record(root: Path, record: Record, images: Mapping[str, bytes | None]) -> Head:
    """Others, on a share or in a store, do not see our lock and may write it too, and shards.  No
    record stands over shards that are not its own."""
    files, name, data = durable.files(root), ledger.file_name(record.unit), ledger.encode(record)
    for _ in range(TRIES):
        if files.create(name, data):
            return record.head
        try:
            old = files.read(name)
        except FileNotFoundError:
            continue
        with suppress(DamagedRecord):
            there = ledger.decode(old)
            if _stands(there, record, complete=False) and _fits(files, there):
                return there.head
        if files.replace(name, old, data):
            if not _fits(files, record):
                shards.write(root, record.unit, images)
            return record.head
    raise McdiffError(f"{name}: others change it all the time; end the other runs on this output")


def _fits(files: durable.Files, record: Record) -> bool:
    """Whether the stored shards are those of a record."""
    for array, shard in record.shards.items():
        try:
            data = files.read(shards.shard_name(array, record.unit))
        except FileNotFoundError:
            return False
        if hashlib.sha256(data).hexdigest() != shard.sha256:
            return False
    return True


def _check_manifest(files: durable.Files, name: str) -> None:
    """Who finishes a run on another machine may not see our lock.  A manifest that was written
    meanwhile, and does not hold the record that is there now, is deleted."""
    with suppress(FileNotFoundError):
        manifest, data = files.read(MANIFEST), files.read(name)
        if hashlib.sha256(data).hexdigest().encode() not in manifest:
            files.remove(MANIFEST)


def _stands(there: Record, new: Record, complete: bool) -> bool:
    """Whether a committed unit stays as it is: nothing changes once there is a manifest, a record
    with open cases never replaces one without, and no case that is done is given up."""
    worse = new.head.counts[ledger.OPEN] > 0 and there.head.counts[ledger.OPEN] == 0
    return complete or worse or there == new or bool(_done(there) - _done(new))


def _done(record: Record) -> set[int]:
    return {entry.case for entry in record.cases if entry.status == ledger.DONE}
