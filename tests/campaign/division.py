"""Two parts of one run, of which one starts at any moment of the other, and the finish."""

import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mcdiff_batch.engine.errors import Exit
from mcdiff_batch.engine.output import locks
from mcdiff_batch.engine.output.units import Part
from tests.support.disk import CHANGES, Call, ignore

from .night import OUTPUT, End, run_night, run_paused
from .promises import broken_promises
from .scene import Scene
from .schedule import Result, Schedule, number_all

ONE, TWO = (Part(number=number, count=2) for number in (1, 2))


def divisions(scenes: Sequence[Scene], seed: int) -> list[Schedule]:
    """Part 2 is done while part 1 waits at a change that it makes; part 1 goes on or is killed."""
    return number_all("parts", _divisions(scenes[0]))


def _divisions(scene: Scene) -> Iterator[tuple[str, Callable[[], Result]]]:
    with scene.stage() as folder:
        end = run_night(folder, scene.options | {"part": ONE}, ignore)
        assert end.code == Exit.DONE, end.text
    for call in _find_moments(end.calls):
        for kills in (False, True):
            then = "is killed" if kills else "goes on"
            text = f"{scene.name}: part 2 starts at {call} of part 1, which then {then}"
            yield text, lambda call=str(call), kills=kills: _play(scene, call, kills=kills)


def _find_moments(calls: Sequence[Call]) -> Iterator[Call]:
    """Changes of a part, but not those while it begins the output: others have to wait for it."""
    begins = False
    for call in calls:
        if str(call) == f"create {OUTPUT}/{locks.UNITS} #1":
            begins = True
            yield call
        elif begins and call.kind == "create" and call.name.endswith(locks.UNITS):
            begins = False
        elif call.kind in CHANGES and not begins and "/report/" not in call.name:
            yield call


def _play(scene: Scene, at: str, *, kills: bool) -> Result:
    with scene.stage() as folder:
        first, second = meet(folder, scene.options, at, kills=kills)
        broken = broken_promises(folder, scene, finished=False)
        if second.code != Exit.DONE:
            broken.append(f"P1: part 2 ended with exit code {second.code}: {second.text}")
        if first.code != (-signal.SIGKILL if kills else Exit.DONE):
            broken.append(f"P1: part 1 ended with exit code {first.code}: {first.text}")
        nights = [{"part": ONE}] if kills else []
        for options in (*nights, {"finish": True}):
            end = run_night(folder, scene.options | options)
            if end.code != Exit.DONE:
                broken.append(f"P1: {options} ended with exit code {end.code}: {end.text}")
        broken += broken_promises(folder, scene, finished=True)
    return Result(how=f"part 1: {first.how}", broken=tuple(broken))


def meet(folder: Path, options: dict[str, Any], at: str, *, kills: bool) -> tuple[End, End]:
    """Ends of part 1, which waits at a call, and of part 2, which is done meanwhile."""
    second = End(code=1, text="it was never started")

    def do_second() -> None:
        nonlocal second
        second = run_night(folder, options | {"part": TWO})

    first = run_paused(folder, options | {"part": ONE}, at, do_second, kills=kills)
    return first, second
