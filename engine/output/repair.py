"""Sets aside what is damaged in an output, so that the run does it again."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from mcdiff_batch.engine.errors import UsageError

from . import durable, ledger
from .ledger import DONE, DamagedRecord
from .runs import MANIFEST
from .verify import Damage


def set_aside(
    root: Path, found: Sequence[Damage], readable: Callable[[int], bool]
) -> tuple[list[Damage], list[Damage]]:
    """Deletes the manifest and the records of damaged units.  Only the holder of the lock may.

    readable: whether the archive still has a case.  A unit stays as it is if it has an image that
    is whole, of a case that the archive has lost.  Returns the damage that the run now repairs, and
    the damage that stays.  Raises UsageError, SpaceError, McdiffError.
    """
    _check_files(root, found)
    units: defaultdict[int, list[Damage]] = defaultdict(list)
    for damage in found:
        if damage.unit is not None:
            units[damage.unit].append(damage)
    keep = {unit for unit, own in units.items() if not all(map(readable, _whole(root, unit, own)))}
    repaired = [x for x in found if x.unit not in keep]
    if repaired:
        durable.files(root).remove(MANIFEST)
    for unit in sorted(units.keys() - keep):
        durable.files(root).remove(ledger.file_name(unit))
    return repaired, [x for x in found if x.unit in keep]


def _check_files(root: Path, found: Sequence[Damage]) -> None:
    for damage in found:
        if (root / damage.name).is_dir():
            raise UsageError(
                f"{root / damage.name}: is a folder, expected a file; move it away, and run again "
                "with --repair"
            )


def _whole(root: Path, unit: int, found: Sequence[Damage]) -> set[int]:
    """The done cases of a damaged unit whose images are as they were committed."""
    try:
        record = ledger.read(root, unit)
    except (FileNotFoundError, DamagedRecord):
        return set()
    lost = {case for damage in found for case in damage.cases}
    return {entry.case for entry in record.cases if entry.status == DONE} - lost
