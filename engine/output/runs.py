"""The output directory of a run: the lock on it, and the settings that `run.json` keeps."""

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any, Literal

import msgspec

from mcdiff_batch.engine.errors import FingerprintError, OutputLockedError, UsageError, explain
from mcdiff_batch.engine.telemetry.machine import package_version
from mcdiff_batch.engine.text import pluralise

from . import durable, ledger, shards, verdicts
from .ledger import DamagedRecord, Head

LOCK = ".lock"
CONFIG = "run.json"
MANIFEST = "manifest.json"
REPORT = "report"
PLAN = "plan"  # a copy of the plan that was compiled for a GPU
OWN_NAMES = {  # what a run may find in its directory
    *(LOCK, CONFIG, MANIFEST, REPORT, PLAN, durable.SCRATCH),
    *(ledger.FOLDER, ledger.INCIDENTS, shards.FOLDER, verdicts.FOLDER),
}
LOCK_WAIT = 3.0  # s: the workers of a killed run hold its lock for a moment longer
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

SOFTWARE = ("mcdiff-batch", "numcodecs", "numpy", "onnxruntime", "scipy", "zarr")


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


class HeldLock:
    """An open lock file.  Workers inherit it, so the lock lasts until the last of them ends."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (DupFd(self.descriptor),)


def _rebuild(handle: Any) -> HeldLock:
    return HeldLock(handle.detach())


@contextmanager
def lock(root: Path) -> Iterator[HeldLock]:
    """Creates `root` and locks it, so that no other run writes there.

    A lock whose processes have ended is ignored (P7).  Raises OutputLockedError, UsageError where
    `root` cannot be written to or locked, SpaceError, McdiffError.
    """
    try:
        durable.make_folder(root, root)
        descriptor = _open_lock(root / LOCK)
    except OSError as error:
        raise explain(error, error.filename or root) from error
    try:
        _acquire(root, descriptor)
        yield HeldLock(descriptor)
    finally:
        with suppress(OSError):  # nothing was written to it
            os.close(descriptor)


def _open_lock(path: Path) -> int:
    """Another user of the group may have made the file: to lock it, reading is enough."""
    flags = os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags | os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        if not path.is_file():
            raise
        return os.open(path, flags | os.O_RDONLY)


def _acquire(root: Path, descriptor: int) -> None:
    end = time.monotonic() + LOCK_WAIT
    while not _lock_or_explain(root, descriptor):
        if time.monotonic() > end:
            raise OutputLockedError(
                f"{root}: another run is writing here; wait until it ends (see `mcdiff-batch "
                f"status {root}`), or choose another --output"
            )
        time.sleep(0.05)


def _lock_or_explain(root: Path, descriptor: int) -> bool:
    try:
        return _try_lock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        raise UsageError(
            f"{root}: its file system gives no lock ({error.strerror}), and without one two runs "
            "could write here at once; choose an --output on a local disk and copy it afterwards, "
            "or mount the share with locks (NFS: lockd, Lustre: -o flock)"
        ) from error


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_running(root: Path) -> bool:
    """Whether a run holds the lock now.  Writes nothing."""
    try:
        descriptor = os.open(root / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(descriptor, fcntl.LOCK_SH)
    except OSError:  # its file system gives no locks, so no run can have one
        return False
    finally:
        os.close(descriptor)


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
    path = root / CONFIG
    if path.is_file():
        try:
            return msgspec.convert(json.loads(path.read_bytes()), Run)
        except ValueError as error:
            raise UsageError(
                f"{path}: is damaged ({error}); copy it from a backup, or choose another --output; "
                f"`mcdiff-batch verify {root}` checks the images"
            ) from error
    foreign = {x.name for x in root.iterdir()} - OWN_NAMES if root.exists() else set()
    if foreign:
        raise UsageError(
            f"{root}: contains files that no run has written, expected a new or empty folder or "
            "the output of an earlier run; choose another --output"
        )
    return None


def load_existing(root: Path) -> Run:
    """The run in `root`.  Raises UsageError where there is none."""
    run = load(root)
    if run is None:
        raise UsageError(f"{root}: contains no run; expected the --output of `mcdiff-batch run`")
    return run


def save(root: Path, run: Run) -> None:
    """Writes run.json.  Raises as `durable.write` does."""
    text = json.dumps(asdict(run), indent=1, sort_keys=True) + "\n"
    durable.write(root, CONFIG, text.encode())


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
    """The head of a finished unit: no case is open and its shards have the size in its record.

    None where the unit has to be done, again or for the first time.
    """
    try:
        head = ledger.read(root, unit).head  # all of it: a record may end in the middle
        sizes = {
            name: (root / shards.shard_name(name, unit)).stat().st_size for name in head.shards
        }
    except (FileNotFoundError, DamagedRecord):
        return None
    whole = all(sizes[name] == shard.bytes for name, shard in head.shards.items())
    return head if whole and not head.counts[ledger.OPEN] else None
