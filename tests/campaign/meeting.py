"""Two runs on one output: the second one changes nothing (P7)."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mcdiff_batch.engine.errors import Exit
from mcdiff_batch.engine.output import locks

from .night import OUTPUT, End, enhance_archive, in_child, run_paused
from .promises import broken_promises
from .scene import Scene, read_tree
from .schedule import Result, Schedule, finish_night, number_all


def meetings(scenes: Sequence[Scene], seed: int) -> list[Schedule]:
    """A second run is started at any change that the first one makes, from its lock on."""
    return number_all("second start", _meetings(scenes))


def _meetings(scenes: Sequence[Scene]) -> Iterator[tuple[str, Callable[[], Result]]]:
    for scene in scenes:
        calls = [x for x in scene.calls if x.kind in ("create", "rename") and x.number == 1]
        for call in [x for x in calls if "/report/" not in x.name]:  # which a thread writes too
            if call.name.endswith(locks.LOCK):
                continue
            text = f"{scene.name}: a second run starts at {call}"
            yield text, lambda scene=scene, call=call: _play(scene, str(call))


def _play(scene: Scene, at: str) -> Result:
    with scene.stage() as folder:
        first, second, broken = meet(folder, scene, at)
        broken += broken_promises(folder, scene, finished=first.code == Exit.DONE)
        if first.code != Exit.DONE:
            broken.append(f"P7: the first run ended with exit code {first.code}: {first.text}")
        broken += finish_night(folder, scene)
    return Result(how=f"second: {second.how}", broken=tuple(broken))


def meet(folder: Path, scene: Scene, at: str) -> tuple[End, End, list[str]]:
    """Ends of a run that waits at a call and of one that is started meanwhile; what broke."""
    second, broken = End(code=0), []

    def start() -> None:
        nonlocal second
        before = read_tree(folder / OUTPUT)
        second = in_child(lambda answer: _start_second(answer, folder, scene))
        if second.code != Exit.OUTPUT_LOCKED:
            broken.append(f"P7: the second run: {second.how} {second.text}")
        if read_tree(folder / OUTPUT) != before:
            broken.append("P7: the second run changed the output")

    first = run_paused(folder, scene.options, at, start)
    return first, second, broken


def _start_second(answer: Callable[[End], None], folder: Path, scene: Scene) -> None:
    locks.LOCK_WAIT = 0.0  # of this process
    enhance_archive(answer, folder, scene.options, None)
