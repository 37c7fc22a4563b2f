"""Any order of things: hypothesis starts, kills, fails, resumes, verifies, damages and repairs."""

import random
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from click.testing import CliRunner
from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as play_machine

from mcdiff_batch.engine.cli.output import verify
from mcdiff_batch.engine.errors import Exit, McdiffError
from mcdiff_batch.engine.output import ledger, runs
from tests.support.disk import ignore
from tests.support.running import fault

from .clock import JUMPS, Jump
from .meeting import meet
from .night import ARCHIVE, OUTPUT
from .scene import CASES, Scene, Tree, read_tree
from .schedule import Result, Schedule, Story, number_all, random_strike
from .strikes import KILL, Strike

EXAMPLES, STEPS = 10, 6


class Nights(RuleBasedStateMachine):
    """The model: whether the run has begun, and the cases that are done, of which none is lost."""

    scene: Scene
    histories: int  # counts examples in which something happened

    def __init__(self) -> None:
        super().__init__()
        self.stage = ExitStack()
        self.story = Story(self.stage.enter_context(self.scene.stage()), self.scene)
        self.output = self.story.folder / OUTPUT
        self.done: set[int] = set()

    def teardown(self) -> None:
        type(self).histories += bool(self.story.nights)
        self.stage.close()

    @property
    def begun(self) -> bool:
        return (self.output / runs.CONFIG).is_file()

    @rule(dice=st.randoms(use_true_random=False))
    def strike(self, dice: random.Random) -> None:
        strike = random_strike(dice, self.scene)
        end = self.story.night(strike, seed=str(dice.random()))
        if not end.power:
            self.done = set()  # the story knows which of them were safe

    @rule(kind=st.sampled_from(["nan", "flat"]), case=st.integers(0, 2))
    def misbehave(self, kind: str, case: int) -> None:
        self.story.night(ignore, fault(kind, self.story.folder / ARCHIVE, case))

    @rule(
        jump=st.sampled_from(sorted(JUMPS)),
        calls=st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)),
    )
    def turn_the_clock(self, jump: str, calls: tuple[float, float]) -> None:
        at, then = (str(self.scene.calls[int(x * len(self.scene.calls))]) for x in calls)
        kill = Strike(at=then, what=KILL)
        self.story.night(Jump(at=at, seconds=JUMPS[jump], zone="Europe/Berlin", then=kill))

    @rule()
    def finish(self) -> None:
        self.story.finish()

    @precondition(lambda self: self.begun)
    @rule()
    def change_an_option(self) -> None:
        before = self._files()
        end = self.story.night(None, unit_size=CASES)
        assert end.code == Exit.FINGERPRINT_DIFFERS, end
        assert self._files() == before

    @rule(call=st.floats(0, 0.99))
    def start_twice(self, call: float) -> None:
        calls = [x for x in self.scene.calls if "/.tmp/" in x.name]
        _, _, broken = meet(self.story.folder, self.scene, str(calls[int(call * len(calls))]))
        self.story.broken += broken
        self.story.begin()  # the meeting is not recorded

    @precondition(lambda self: self.begun)
    @rule()
    def verify(self) -> None:
        assert self._verify() == Exit.DONE

    @precondition(lambda self: self.begun)
    @rule(dice=st.randoms(use_true_random=False), way=st.sampled_from(["flip", "cut", "delete"]))
    def damage_and_repair(self, dice: random.Random, way: str) -> None:
        """verify finds the damage, and a repair mends it, even one that is struck."""
        units = ledger.list_units(self.output)
        files = [x for unit in units for x in self.output.glob(f"images.zarr/*/c/{unit}/0/0")]
        if not files:
            return
        file = dice.choice(sorted(files))
        harm(file, way, dice)
        assert self._verify() == Exit.VERIFICATION_FAILED
        self.done.discard(int(file.parts[-3]))
        self.story.begin()
        self.story.scene = replace(self.scene, damaged=str(file.relative_to(self.output)))
        strike = random_strike(dice, self.scene)
        if not self.story.night(strike, seed=str(dice.random()), repair=True).power:
            self.done = set()
        self.story.scene = self.scene
        self.story.finish(repair=True)
        assert self._verify() == Exit.DONE

    @invariant()
    def promises_hold(self) -> None:
        assert self.story.broken == []
        heads = ledger.read_heads(self.output) if self.begun else ()
        found = {x.unit for x in heads if x.counts[ledger.DONE] == x.count}
        assert self.done <= found, f"units {self.done - found} were done and are lost"
        self.done = found

    def _files(self) -> Tree:
        return {x: y for x, y in read_tree(self.output).items() if not x.startswith(runs.REPORT)}

    def _verify(self) -> int:
        """Exit code of the command."""
        result = CliRunner().invoke(verify, [str(self.output)], standalone_mode=False)
        if isinstance(result.exception, McdiffError):
            return result.exception.exit_code
        assert result.exception is None, result.exception
        return Exit.DONE


def harm(file: Path, way: str, dice: random.Random) -> None:
    """Flips a bit of a file, cuts it short, or deletes it."""
    data = bytearray(file.read_bytes())
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    file.write_bytes(bytes(data) if way == "flip" else data[: dice.randrange(len(data))])
    if way == "delete":
        file.unlink()


def any_order(
    scenes: Sequence[Scene], seed: int, count: int, examples: int = EXAMPLES
) -> list[Schedule]:
    """Rules in any order; each number is several histories, by hypothesis."""
    return number_all("any order", _orders(scenes, seed, count, examples))


def _orders(
    scenes: Sequence[Scene], seed: int, count: int, examples: int
) -> Iterator[tuple[str, Callable[[], Result]]]:
    usual = [x for x in scenes if not x.damaged]
    for number in range(count):
        scene = usual[number % len(usual)]
        text = f"{scene.name}: {examples} examples of hypothesis"
        yield text, lambda x=(scene, seed * 100_000 + number, examples): _play(*x)


def _play(scene: Scene, seed: int, examples: int) -> Result:
    bound = type("Bound", (Nights,), {"scene": scene, "histories": 0})
    chosen = settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    try:
        play_machine(seeded(seed)(bound), settings=chosen)
    except Exception as error:
        text = "".join((f"{type(error).__name__}\n", *traceback.format_exception(error)))
        return Result(how="broken", broken=(text,), histories=bound.histories)
    return Result(how="as the model says", broken=(), histories=bound.histories)
