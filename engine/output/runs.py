"""One output directory: who may write to it, and which settings it was begun with."""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import lru_cache
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

from mcdiff_batch.engine.errors import FingerprintError, OutputLockedError, UsageError
from mcdiff_batch.engine.telemetry.machine import package_version

from . import durable, ledger, shards
from .ledger import DamagedRecord, Head

LOCK = ".lock"
CONFIG = "run.json"
MANIFEST = "manifest.json"
REPORT = "report"
PLAN = "plan"  # compiled for a GPU, a copy
OURS = {LOCK, CONFIG, MANIFEST, REPORT, PLAN, durable.SCRATCH}
OURS |= {ledger.FOLDER, ledger.INCIDENTS, shards.FOLDER}
LOCK_WAIT = 3.0  # s: workers outlive a killed parent by a moment, and hold the lock with it
SOFTWARE = ("mcdiff-batch", "numcodecs", "numpy", "onnxruntime", "scipy", "zarr")
SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that bytes depend on: the fingerprint.  Chosen once, kept in run.json."""

    plan: str
    device_kind: str
    batch_size: int
    unit_size: int
    solver: str
    ladder: tuple[float, ...]
    seed: int
    temperature: float  # of x_T
    bundle: str  # SHA-256 of contract.json
    archive: str  # SHA-256 of all but the pixels
    cases: str
    grid: str  # "frame" or "input"
    software: dict[str, str]
    draws: int = 1  # starting noises per case
    plan_files: dict[str, str] = field(default_factory=dict)  # SHA-256 of compiled plans

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "Settings":
        always = {x.name for x in fields(cls) if x.default is x.default_factory is MISSING}
        known = {x.name: raw[x.name] for x in fields(cls) if x.name in raw or x.name in always}
        return cls(**{**known, "ladder": tuple(raw["ladder"])})


class HeldLock:
    """The open lock file.  Goes to worker processes, so that the lock lives as long as any."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __reduce__(self) -> tuple[Any, ...]:
        return _inherited, (DupFd(self.descriptor),)


def _inherited(handle: Any) -> HeldLock:
    return HeldLock(handle.detach())


@contextmanager
def locked(root: Path) -> Iterator[HeldLock]:
    """Makes `root`, and is its only writer.  Raises OutputLockedError.  A lock dies with its
    processes, so a stale one is none (P7)."""
    root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _acquire(root, descriptor)
        yield HeldLock(descriptor)
    finally:
        os.close(descriptor)


def _acquire(root: Path, descriptor: int) -> None:
    end = time.monotonic() + LOCK_WAIT
    while not _try(descriptor, fcntl.LOCK_EX):
        if time.monotonic() > end:
            raise OutputLockedError(
                f"{root}: another run is writing there; wait for it (`mcdiff-batch status {root}`) "
                "or use another --output"
            )
        time.sleep(0.05)


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_running(root: Path) -> bool:
    """Whether a run holds the output now.  Writes nothing."""
    try:
        descriptor = os.open(root / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _try(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


@lru_cache
def software() -> dict[str, str]:
    return {name: package_version(name) for name in SOFTWARE}


def load(root: Path) -> dict[str, Any] | None:
    """What run.json says; None where no run was begun.  Raises UsageError for a foreign folder."""
    path = root / CONFIG
    if path.is_file():
        try:
            raw = json.loads(path.read_bytes())
            Settings.from_json(raw["settings"])
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path}: is damaged ({error}); use another --output") from error
        return dict(raw)
    foreign = {x.name for x in root.iterdir()} - OURS if root.is_dir() else set()
    if foreign:
        raise UsageError(f"{root}: holds files that are no run's; use another --output")
    return None


def save(root: Path, settings: Settings, more: Mapping[str, Any]) -> None:
    raw = {"schema": SCHEMA, "settings": asdict(settings), **more}
    durable.write(root, CONFIG, (json.dumps(raw, indent=1, sort_keys=True) + "\n").encode())


def settle(
    root: Path, stored: Mapping[str, Any] | None, wanted: Mapping[str, Any], automatic: Settings
) -> Settings:
    """`wanted` (asked for, or a fact) over `stored` over `automatic`.

    Raises FingerprintError where a run was begun with anything else than wanted.
    """
    begun = automatic if stored is None else Settings.from_json(stored["settings"])
    chosen = asdict(begun)
    for name, value in wanted.items():
        found = tuple(chosen[name]) if name == "ladder" else chosen[name]
        if stored is not None and found != value:
            raise FingerprintError(
                f"{root}: {name} was {_short(found)} when this output was begun, now it is "
                f"{_short(value)}; go back to the former, or use another --output"
            )
        chosen[name] = value
    return Settings.from_json(chosen)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def finished(root: Path, unit: int) -> Head | None:
    """The head of a unit that needs nothing: its shards are there, in full, and no case is open."""
    try:
        head = ledger.read_head(root, unit)
        sizes = {
            name: (root / shards.shard_name(name, unit)).stat().st_size for name in head.shards
        }
    except (FileNotFoundError, DamagedRecord):
        return None
    whole = all(sizes[name] == shard.bytes for name, shard in head.shards.items())
    return head if whole and not head.counts[ledger.OPEN] else None
