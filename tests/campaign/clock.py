"""Clocks that jump: the wall clock is for display only (P12)."""

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mcdiff_batch.engine.errors import Exit
from tests.support.disk import Call, Disk

from .night import run_night
from .promises import broken_promises
from .scene import Scene
from .schedule import Result, Schedule, finish_night, number_all
from .strikes import KILL, Strike

DAY = 86_400.0
JUMPS = {  # seconds that the wall clock jumps
    "a day ahead": DAY,
    "a day back": -DAY,
    "an hour back, as summer time ends": -3600.0,
    "to 1970": -time.time(),
    "to 2100": 130 * 365.25 * DAY - time.time(),
}
ZONES = ("Europe/Berlin", "Asia/Kathmandu", "Pacific/Kiritimati")
REAL_TIME = time.time


@dataclass(slots=True, kw_only=True)
class Jump:
    """A Heed: at one call the wall clock and the time zone of this process change.

    Then the strike may come.
    """

    at: str
    seconds: float
    zone: str
    then: Strike

    def __call__(self, disk: Disk, call: Call) -> int | None:
        if str(call) == self.at:
            set_clock(self.seconds, self.zone)
        return self.then(disk, call)


def set_clock(seconds: float, zone: str) -> None:
    """For the rest of this process; a night has one of its own."""
    os.environ["TZ"] = zone
    time.tzset()
    convert = {name: getattr(time, name) for name in ("localtime", "gmtime")}
    write = time.strftime
    time.time = lambda: REAL_TIME() + seconds
    time.time_ns = lambda: int(time.time() * 1e9)
    for name, real in convert.items():
        at = lambda moment=None, real=real: real(time.time() if moment is None else moment)
        setattr(time, name, at)
    time.strftime = lambda form, moment=None: write(form, moment or time.localtime())


def clock_jumps(scenes: Sequence[Scene], seed: int) -> list[Schedule]:
    """The clock jumps in the middle of a night, which then goes on or is killed."""
    return number_all("clock", _jumps(scenes, seed))


def _jumps(scenes: Sequence[Scene], seed: int) -> Iterator[tuple[str, Callable[[], Result]]]:
    dice = random.Random(f"clock {seed}")
    for scene in scenes:
        for name, seconds in JUMPS.items():
            for zone in ZONES:
                for killed in (False, True):
                    calls = sorted(dice.sample(range(len(scene.calls)), 2))
                    at, then = (str(scene.calls[x]) for x in calls)
                    strike = Strike(at=then if killed else "", what=KILL)
                    jump = Jump(at=at, seconds=seconds, zone=zone, then=strike)
                    end = f", {strike}" if killed else ""
                    text = f"{scene.name}: the clock jumps {name}, {zone}, at {at}{end}"
                    yield text, lambda x=(scene, jump): _play(*x)


def _play(scene: Scene, jump: Jump) -> Result:
    with scene.stage() as folder:
        end = run_night(folder, scene.options, jump)
        broken = broken_promises(folder, scene, finished=end.code == Exit.DONE)
        if end.code not in (Exit.DONE, -9):
            broken.append(f"P12: the night ended with exit code {end.code}: {end.text}")
        broken += finish_night(folder, scene)
    return Result(how=end.how, broken=tuple(broken))
