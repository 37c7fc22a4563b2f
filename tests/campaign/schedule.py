"""Schedules: fault histories, each played from its start to its checked end."""

import random
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcdiff_batch.engine.errors import Exit
from tests.support.disk import Change, Heed, ignore
from tests.support.fake import Fault

from . import power
from .night import ARCHIVE, OUTPUT, UNEXPLAINED, End, run_night
from .promises import broken_promises
from .scene import Scene, Tree, read_tree, write_tree
from .strikes import POWER, Strike, error_strikes, kill_strikes

CHANCES = 3  # random states of the disk after each change
FULL = ("ENOSPC", "EDQUOT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a schedule was played."""

    how: str  # the disturbed night ended
    broken: tuple[str, ...]  # promises
    histories: int = 1  # that were played: several by hypothesis


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """One fault history.  Kind, seed and number tell which one."""

    kind: str
    number: int
    text: str
    play: Callable[[], Result]


def number_all(kind: str, plays: Iterator[tuple[str, Callable[[], Result]]]) -> list[Schedule]:
    return [
        Schedule(kind=kind, number=number, text=text, play=play)
        for number, (text, play) in enumerate(plays)
    ]


# --- errors and kills


def errors(scenes: Sequence[Scene], seed: int) -> list[Schedule]:
    """Every call that touches a file, made to fail in every way that it can."""
    return number_all("errors", _struck(scenes, error_strikes))


def kills(scenes: Sequence[Scene], seed: int) -> list[Schedule]:
    """A kill before every change of the disk and in every write."""
    return number_all("kills", _struck(scenes, kill_strikes))


def _struck(
    scenes: Sequence[Scene], strikes: Callable[..., Iterator[Strike]]
) -> Iterator[tuple[str, Callable[[], Result]]]:
    for scene in scenes:
        calls = [x for x in scene.calls if scene is scenes[0] or not _is_usual(x.name)]
        for strike in strikes(calls):
            text = f"{scene.name}: {strike}"
            yield text, lambda scene=scene, strike=strike: play_nights(scene, [strike])


def _is_usual(name: str) -> bool:
    """Whether a file is a column, or is the input: all scenes treat these alike."""
    shards = ("enhanced", "label", "spread", "zarr.json")
    column = "images.zarr" in name and not any(x in name for x in shards)
    return column or name.startswith(ARCHIVE)


class Story:
    """Nights on one stage, and what the disk has safely of them."""

    def __init__(self, folder: Path, scene: Scene) -> None:
        self.folder, self.scene = folder, scene
        self.broken: list[str] = []
        self.nights = 0
        self.begin()

    def begin(self) -> None:
        """All that is here now is safe."""
        self.safe, self.changes = read_tree(self.folder), ()

    def night(self, heed: Heed | None, *faults: Fault, seed: str = "", **options: Any) -> End:
        """A night, and after it the checks.  `seed` tells what a power cut leaves.

        Without `heed` nothing is recorded, and all that it leaves counts as safe.
        """
        self.nights += 1
        end = run_night(self.folder, self.scene.options | options, heed, *faults)
        self.changes += end.changes
        if heed is None:
            self.begin()
        if not end.power:
            promised = find_promised(self.changes)
            self.safe = power.crash(self.safe, self.changes, power.by_chance(seed))
            self.changes = ()
            put_output(self.folder, self.safe)
            lost = promised - self.safe.keys()
            self.broken += [f"P3: {name} was durable and is lost" for name in sorted(lost)]
        done = end.code == Exit.DONE
        writable = not (isinstance(heed, Strike) and heed.lasts and heed.what == "EROFS")
        self.broken += broken_promises(self.folder, self.scene, finished=done, writable=writable)
        if end.code not in {*Exit, -signal.SIGKILL} or end.text.startswith(UNEXPLAINED):
            self.broken.append(f"P9: exit code {end.code}: {end.text}")
        return end

    def finish(self, heed: Heed | None = ignore, **options: Any) -> None:
        """A night that is left alone."""
        end = self.night(heed, **options)
        if end.code != Exit.DONE:
            self.broken.append(f"P1: the last night ended with exit code {end.code}: {end.text}")


def play_nights(scene: Scene, strikes: Sequence[Strike], seed: str = "") -> Result:
    """Nights that are struck, one after the other, and a night that is left alone."""
    hows = []
    with scene.stage() as folder:
        story = Story(folder, scene)
        for strike in strikes:
            end = story.night(strike, seed=seed)
            hows.append(end.how)
            if end.code == Exit.UNEXPECTED and strike.what in FULL:
                story.broken.append(f"P9: no space ended with exit code 1: {end.text}")
        story.finish(None)
    return Result(how=", ".join(hows), broken=tuple(story.broken))


def put_output(folder: Path, tree: Tree) -> None:
    """Writes the output of `tree`, a tree of the folder, in the place of what is there."""
    write_tree(folder / OUTPUT, {})
    (folder / OUTPUT).rmdir()
    prefix = f"{OUTPUT}/"
    if OUTPUT in tree:
        found = {k.removeprefix(prefix): v for k, v in tree.items() if k.startswith(prefix)}
        write_tree(folder / OUTPUT, found)


def find_promised(changes: Sequence[Change]) -> set[str]:
    """Records and manifests that are safe, since the run has gone on to something else."""
    promised: set[str] = set()
    for change in changes[:-2]:  # rename and fsync
        if any(x in change.other for x in ("/ledger/", "/manifest")):
            promised.add(change.other)
        promised.discard(change.name)
    return promised


def finish_night(folder: Path, scene: Scene) -> Iterator[str]:
    end = run_night(folder, scene.options)
    if end.code != Exit.DONE:
        yield f"P1: the last night ended with exit code {end.code}: {end.text}"
    yield from broken_promises(folder, scene, finished=True)


# --- power


def cuts(scenes: Sequence[Scene], seed: int) -> list[Schedule]:
    """Every different disk that the end of the power, behind any change, may leave."""
    return number_all("power", _cuts(scenes, seed))


def _cuts(scenes: Sequence[Scene], seed: int) -> Iterator[tuple[str, Callable[[], Result]]]:
    for scene in scenes:
        ways = lambda number, scene=scene: _ways(f"{seed} {scene.name} {number}")
        for number, name in power.find_states(_below(scene.output), scene.changes, ways):
            last = scene.changes[number - 1]
            text = f"{scene.name}: power fails behind {last.kind} {last.other or last.name}: {name}"
            yield text, lambda x=(scene, number, name, ways): _play_cut(*x)


def _ways(seed: str) -> dict[str, power.Choose]:
    chances = {f"chance {x}": power.by_chance(f"{seed} {x}") for x in range(CHANCES)}
    return {
        "nothing unsynced is left": power.nothing,
        "names are left": power.only_names,
        "sizes are left": power.only_sizes,
        "halves are left": power.torn,
        **chances,
    }


def _below(output: Tree) -> Tree:
    """The tree of the folder in which the output is."""
    below = {f"{OUTPUT}/{name}": data for name, data in output.items()}
    return {"night.zarr": None, **({OUTPUT: None} if output else {}), **below}


def _play_cut(scene: Scene, number: int, name: str, ways: Callable[..., Any]) -> Result:
    changes = scene.changes[:number]
    tree = power.crash(_below(scene.output), changes, ways(number)[name])
    with scene.stage() as folder:
        put_output(folder, tree)
        lost = [
            name
            for name in find_promised(changes)
            if tree.get(name) != scene.whole[name.removeprefix(f"{OUTPUT}/")]
        ]
        broken = [f"P3: {name} was durable and is lost" for name in sorted(lost)]
        broken += broken_promises(folder, scene, finished=False)
        broken += finish_night(folder, scene)
    return Result(how="power cut", broken=tuple(broken))


# --- any order of things


def mixtures(scenes: Sequence[Scene], seed: int, count: int) -> list[Schedule]:
    """Two or three nights that are struck, and a last one."""
    return number_all("mixtures", (_mixture(scenes, f"{seed} {x}") for x in range(count)))


def _mixture(scenes: Sequence[Scene], seed: str) -> tuple[str, Callable[[], Result]]:
    dice = random.Random(seed)
    scene = dice.choice(scenes)
    strikes = [random_strike(dice, scene) for _ in range(dice.choice((2, 2, 3)))]
    text = f"{scene.name}: {', then '.join(map(str, strikes))}"
    return text, lambda: play_nights(scene, strikes, seed)


def random_strike(dice: random.Random, scene: Scene) -> Strike:
    call = dice.choice(scene.calls)
    way = dice.choice((error_strikes, kill_strikes, None))
    found = list(way((call,))) if way else []
    return dice.choice(found) if found else Strike(at=str(call), what=POWER)
