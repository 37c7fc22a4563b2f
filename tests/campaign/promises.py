"""Whether an output keeps the promises, told from its files alone."""

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path

from mcdiff_batch.engine.output import durable, ledger, locks, runs, verify
from mcdiff_batch.engine.output.ledger import DONE, DamagedRecord, Record

from .night import ARCHIVE, OUTPUT
from .scene import Scene, Tree, committed_files, read_tree

ABSENT = 2**64 - 1  # offset of a chunk that a shard does not hold


def broken_promises(
    folder: Path, scene: Scene, *, finished: bool, writable: bool = True
) -> list[str]:
    """What is wrong after a night.

    finished: the run says that all cases are done.  writable: the disk let it remove its
    temporary files; the next night removes those that are left.
    """
    broken = list(_broken(folder, scene))
    if finished:
        broken += _broken_end(folder, scene)
        broken += _find_scratch(folder) if writable else ()
    return broken


def _broken(folder: Path, scene: Scene) -> Iterator[str]:
    output = folder / OUTPUT
    if read_tree(folder / ARCHIVE) != scene.source:
        yield "P6: the input was changed"
    if not output.exists():
        return
    if locks.is_running(output):
        yield "P7: the lock is held after the end"
    if foreign := {path.name for path in output.iterdir()} - runs.OWN_NAMES:
        yield f"P8: files of unknown names: {foreign}"
    begun = (output / runs.CONFIG).is_file()
    for damage in verify.find_damage(output) if begun else ():
        if damage.name != scene.damaged:
            yield f"P3: {damage}"
    cases: list[int] = []
    for unit in ledger.list_units(output):
        try:
            record = ledger.read(output, unit)
        except DamagedRecord as error:
            yield f"P2: record {unit}: {error}"
            continue
        cases += [entry.case for entry in record.cases]
        yield from _broken_unit(output, record, scene)
    if len(set(cases)) != len(cases) or not set(cases) <= set(range(scene.cases)):
        yield f"P2: the ledger counts the cases {cases}"


def _broken_unit(output: Path, record: Record, scene: Scene) -> Iterator[str]:
    """A case that is done has the entry and the pixels that an undisturbed run gives it."""
    name = ledger.file_name(record.unit)
    whole = scene.whole[name]
    assert whole is not None
    for slot, (entry, right) in enumerate(
        zip(record.cases, ledger.decode(whole).cases, strict=True)
    ):
        if entry.status != DONE:
            continue
        if entry != right:
            yield f"P4: case {entry.case} differs from that of an undisturbed run"
        for shard in _shards(scene.whole, record.unit) - {scene.damaged}:
            path = output / shard
            data = path.read_bytes() if path.is_file() else b""
            if _chunk(data, slot) != _chunk(scene.whole[shard] or b"", slot):
                yield f"P3, P5: case {entry.case} is done, but {shard} does not hold its pixels"


def _shards(tree: Tree, unit: int) -> set[str]:
    return {name for name in tree if name.endswith(f"/c/{unit}/0/0")}


def _chunk(shard: bytes, slot: int) -> bytes:
    """The compressed image at a place of a shard, by the index at its end; empty: none."""
    for size in (1, 2):  # cases of a shard
        index = shard[-4 - 16 * size : -4]
        pairs = list(struct.iter_unpack("<QQ", index)) if len(index) == 16 * size else []
        used = sum(length for offset, length in pairs if offset != ABSENT)
        if pairs and used + 16 * size + 4 == len(shard) and slot < size:
            offset, length = pairs[slot]
            return b"" if offset == ABSENT else shard[offset : offset + length]
    return b""


def _broken_end(folder: Path, scene: Scene) -> Iterator[str]:
    made = committed_files(read_tree(folder / OUTPUT))
    for name in sorted(made.keys() | scene.whole.keys()):
        if made.get(name) != scene.whole.get(name):
            state = _digest(made.get(name)), _digest(scene.whole.get(name))
            yield f"P1: {name} is {state[0]}, undisturbed {state[1]}"


def _find_scratch(folder: Path) -> Iterator[str]:
    tree = read_tree(folder / OUTPUT)
    if left := [x for x in tree if x != durable.SCRATCH and ".tmp" in x]:
        yield f"P8: temporary files are left: {left}"


def _digest(data: bytes | None) -> str:
    return "absent" if data is None else f"{len(data)} bytes {hashlib.sha256(data).hexdigest()[:8]}"
