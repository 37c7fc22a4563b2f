"""What a disk may hold after the power failed.

What was not synced may be lost, all or in part, in any order (Pillai et al. 2014): a name without
an fsync of its folder, data without an fsync of the file.  A rename is whole or absent.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from tests.support.disk import Change

from .scene import Tree

NONE, ALL, HALF, ZEROS = "none", "all", "half", "zeros"  # what is left of an unsynced change


@dataclass(slots=True, eq=False)
class Event:
    """A change of one entry of a folder, or of the data of one file."""

    file: int | None  # None: the entry is deleted
    folder: int = -1  # of an entry; -1: data
    name: str = ""
    path: str = ""  # as programs see it
    data: bytes | None = None  # None: the file is cut
    offset: int = 0
    needs: "Event | None" = None  # lost, if that is lost
    safe: bool = False
    lost: bool = False


Choose = Callable[[Event], str]


@dataclass(slots=True)
class Volume:
    """Files and folders by number; 0 is the root."""

    entries: dict[int, dict[str, int]] = field(default_factory=lambda: {0: {}})
    contents: dict[int, bytearray] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=lambda: {".": 0})  # by name, as programs see it
    events: list[Event] = field(default_factory=list)
    unsafe: dict[int, list[Event]] = field(default_factory=lambda: defaultdict(list))

    def add(self, name: str, data: bytes | None) -> int:
        """A new file, or a folder without data."""
        number = len(self.entries) + len(self.contents)
        self.numbers[name] = number
        if data is None:
            self.entries[number] = {}
        else:
            self.contents[number] = bytearray(data)
        return number

    def log(self, event: Event) -> Event:
        self.events.append(event)
        where = event.folder if event.folder >= 0 else event.file
        assert where is not None
        self.unsafe[where].append(event)
        return event

    def sync(self, number: int) -> None:
        for event in self.unsafe.pop(number, ()):
            event.safe = True
            if event.needs is not None:
                event.needs.safe = True

    def enter(self, name: str, file: int | None, needs: Event | None = None) -> Event:
        folder = self.numbers[str(PurePath(name).parent)]
        return self.log(Event(file, folder, PurePath(name).name, name, needs=needs))


def crash(before: Tree, changes: Sequence[Change], choose: Choose) -> Tree:
    """The tree that is found after the power failed behind the last of `changes`.

    `before` is safe.  `choose` says what is left of each change that was not synced.
    """
    volume = _load(before)
    for change in changes:
        _apply(volume, change)
    for event in volume.events:
        left = ALL if event.safe else choose(event)
        event.lost = left == NONE or (event.needs is not None and event.needs.lost)
        if not event.lost:
            _persist(volume, event, left)
    return _read(volume, 0, "")


def find_states(
    before: Tree, changes: Sequence[Change], ways: Callable[[int], dict[str, Choose]]
) -> Iterator[tuple[int, str]]:
    """Numbers of changes and names of ways that leave different disks.

    ways: by the number of changes.  What differs only in the report, which nobody syncs, is alike.
    """
    volume, seen = _load(before), set()
    for number, change in enumerate(changes, 1):
        _apply(volume, change)
        for name, choose in ways(number).items():
            kept = [(x, choose(x)) for x in volume.events if not x.safe]
            key = tuple(
                (id(x), left) for x, left in kept if left != NONE and "/report" not in x.path
            )
            if (found := (len(volume.events) - len(kept), key)) not in seen:
                seen.add(found)
                yield number, name


def _load(tree: Tree) -> Volume:
    volume = Volume()
    for name, data in sorted(tree.items()):
        parent = volume.numbers[str(PurePath(name).parent)]
        volume.entries[parent][PurePath(name).name] = volume.add(name, data)
    return volume


def _apply(volume: Volume, change: Change) -> None:
    name, numbers = change.name, volume.numbers
    match change.kind:
        case "create":
            volume.enter(name, volume.add(name, b""))
        case "mkdir":
            volume.enter(name, volume.add(name, None))
        case "write":
            volume.log(Event(numbers[name], path=name, data=change.data, offset=change.offset))
        case "truncate":
            volume.log(Event(numbers[name], path=name, offset=change.offset))
        case "sync":
            for number in list(volume.unsafe):
                volume.sync(number)
        case "fsync":
            volume.sync(numbers[name])
        case "rename":
            entered = volume.enter(change.other, numbers[name])
            volume.enter(name, None, needs=entered)
            numbers[change.other] = numbers.pop(name)
        case "link":
            numbers[change.other] = numbers[name]
            volume.enter(change.other, numbers[name])
        case "unlink" | "rmdir":
            volume.enter(name, None)
            del numbers[name]


def _persist(volume: Volume, event: Event, left: str) -> None:
    if event.folder >= 0:
        if event.file is None:
            volume.entries[event.folder].pop(event.name, None)
        else:
            volume.entries[event.folder][event.name] = event.file
        return
    assert event.file is not None
    content = volume.contents[event.file]
    if event.data is None:
        del content[event.offset :]
        return
    data = event.data[: len(event.data) // 2] if left == HALF else event.data
    data = bytes(len(data)) if left == ZEROS else data
    content.extend(bytes(max(0, event.offset - len(content))))
    content[event.offset : event.offset + len(data)] = data


def _read(volume: Volume, folder: int, prefix: str) -> Tree:
    tree: Tree = {}
    for name, number in volume.entries[folder].items():
        if number in volume.contents:
            tree[prefix + name] = bytes(volume.contents[number])
        else:
            tree |= {prefix + name: None, **_read(volume, number, f"{prefix}{name}/")}
    return tree


def only_names(event: Event) -> str:
    """Files have their names, but no data: such as ext4 leaves them without fsync."""
    return ALL if event.folder >= 0 else NONE


def only_sizes(event: Event) -> str:
    """Files have their names and sizes, but zeros in the place of data: such as XFS leaves them."""
    return ALL if event.folder >= 0 else ZEROS


def torn(event: Event) -> str:
    """Half of each write is there."""
    return ALL if event.folder >= 0 else HALF


def nothing(event: Event) -> str:
    """Nothing is there that was not synced."""
    return NONE


def by_chance(seed: str) -> Choose:
    """Any part of it may be there."""
    dice = random.Random(seed)
    return lambda event: dice.choice((NONE, ALL, HALF, ZEROS) if event.folder < 0 else (NONE, ALL))
