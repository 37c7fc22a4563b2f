"""A small part of `python -m tests.campaign`, and proofs that the campaign notices what breaks.

Fixed seed, every kind; the whole of it takes about half an hour (bench/results/campaign.json).
"""

import json
import os
import random
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from mcdiff_batch.engine.output import durable, ledger
from tests.campaign import clock, division, kernel, machine, meeting, schedule, trees
from tests.campaign.__main__ import main, warm_up
from tests.campaign.night import run_night
from tests.campaign.power import ALL, crash
from tests.campaign.scene import Scene, make_scenes, read_tree
from tests.campaign.schedule import Schedule
from tests.support.disk import ignore

SEED = 0
PART = {
    "errors": 8,
    "kills": 6,
    "power": 12,
    "second start": 2,
    "parts": 4,
    "clock": 3,
    "any order": 1,
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[Scene]:
    folder = tmp_path_factory.mktemp("campaign")
    warm_up(folder)
    return make_scenes(folder)


def some(found: list[Schedule], count: int) -> list[Schedule]:
    return random.Random(SEED).sample(found, min(count, len(found)))


def broken(schedules: list[Schedule]) -> list[str]:
    """The promises that they broke, each with its schedule."""
    return [f"{x.number}, {x.text}: {y}" for x in schedules for y in x.play().broken]


KINDS: dict[str, Callable[[list[Scene]], list[Schedule]]] = {
    "errors": lambda x: schedule.errors(x, SEED),
    "kills": lambda x: schedule.kills(x, SEED),
    "power": lambda x: schedule.cuts(x, SEED),
    "second start": lambda x: meeting.meetings(x, SEED),
    "parts": lambda x: division.divisions(x, SEED),
    "clock": lambda x: clock.clock_jumps(x, SEED),
    "any order": lambda x: machine.any_order(x, SEED, 1, examples=4),
}


@pytest.mark.parametrize("kind", KINDS)
def test_promises_hold_after_some_schedules_of_each_kind(scenes: list[Scene], kind: str) -> None:
    assert broken(some(KINDS[kind](scenes), PART[kind])) == []


def test_promises_hold_after_several_nights_that_are_struck(scenes: list[Scene]) -> None:
    assert broken(schedule.mixtures(scenes, SEED, 5)) == []


def test_a_report_that_cannot_be_written_leaves_no_temporary_file(scenes: list[Scene]) -> None:
    found = [x for x in schedule.errors(scenes[:1], SEED) if "run_stats." in x.text]
    assert broken([x for x in found if "ENOSPC at" in x.text]) == []


@pytest.mark.skipif(not kernel.available(), reason="strace is not installed")
def test_promises_hold_when_the_kernel_refuses_a_call_or_kills_at_it(scenes: list[Scene]) -> None:
    found = kernel.system_calls(scenes, SEED)
    renames = [x for x in found if "rename #4:" in x.text or "fsync #9: EIO" in x.text]
    results = [x.play() for x in renames]
    assert [y for x in results for y in x.broken] == []
    assert {"killed", "exit 1", "exit 9"} <= {x.how for x in results}


def test_promises_hold_after_a_real_process_is_killed(tmp_path: Path) -> None:
    stage = trees.make_stage(tmp_path)
    assert broken(trees.tree_kills(stage, SEED, 2)[1:]) == []


# --- the campaign can fail


def test_the_disk_hears_of_every_change_of_a_night(scenes: list[Scene]) -> None:
    """With everything kept, the recorded changes give the output as it is."""
    for scene in scenes:
        with scene.stage() as folder:
            before = read_tree(folder)
            end = run_night(folder, scene.options, ignore)
            after = read_tree(folder)
        rebuilt = crash(before, end.changes, lambda event: ALL)
        assert rebuilt == after


def write_without_sync(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def write_and_sync_twice(path: Path, data: bytes) -> None:
    """Takes the second fsync for the truth; the kernel has dropped the data after the first."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        try:
            os.fsync(file.fileno())
        except OSError:
            os.fsync(file.fileno())


def forget_to_remove_records(root: Path, name: str) -> None:
    if not name.startswith(ledger.FOLDER):
        (root / name).unlink(missing_ok=True)


MISTAKES = {  # name in `durable`, what stands there, kind and words of schedules that find it
    "files are not synced": ("_write_synced", write_without_sync, schedule.cuts, "sizes are left"),
    "fsync is tried again": (
        "_write_synced",
        write_and_sync_twice,
        schedule.errors,
        "EIO at fsync",
    ),
    "folders are not synced": (
        "sync_folder",
        lambda folder: True,
        schedule.cuts,
        "nothing unsynced",
    ),
    "a record outlives its shards": (
        "remove",
        forget_to_remove_records,
        schedule.kills,
        "label-c",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_campaign_finds_a_mistake(
    scenes: list[Scene], monkeypatch: pytest.MonkeyPatch, mistake: str
) -> None:
    """The only tests that put something else into the product: what they prove is the campaign."""
    name, wrong, kind, words = MISTAKES[mistake]
    monkeypatch.setattr(durable, name, wrong)
    scene = next(x for x in scenes if x.name == "open")
    with scene.stage() as folder:  # what a night of this product does
        end = run_night(folder, scene.options, ignore)
    made = [replace(scene, calls=end.calls, changes=end.changes)]
    found = [x for x in kind(made, SEED) if words in x.text and "images.zarr" in x.text]
    assert any(x.play().broken for x in some(found, 12))


def test_a_broken_promise_is_printed_with_its_replay_and_ends_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "clear_scratch", lambda root: None)
    words = ["--seed", "3", "--only", "kills", "--schedules", "4"]
    result = CliRunner().invoke(main, [*words, "--output", str(tmp_path / "result.json")])
    assert result.exit_code == 1
    line = next(x for x in result.output.splitlines() if "replay" in x)
    again = shlex.split(line.partition("tests.campaign")[2])
    assert CliRunner().invoke(main, again).exit_code == 1
    document = json.loads((tmp_path / "result.json").read_text())
    assert document["schedules"] == 4
    assert document["broken"] == len(document["failures"]) > 0
