"""The settings of a run in parts, and the part that Slurm or Kubernetes names."""

import shutil
from dataclasses import replace
from pathlib import Path

import click
import pytest

from mcdiff_batch.engine.cli import run as cli
from mcdiff_batch.engine.cli.job import make_job
from mcdiff_batch.engine.cli.run import run
from mcdiff_batch.engine.errors import Exit, FingerprintError, UsageError
from mcdiff_batch.engine.model.contract import load_bundle
from mcdiff_batch.engine.output.units import parse_part
from tests.support.crafting import command
from tests.support.parts import part
from tests.support.running import inline, job


def test_automatic_choices_of_the_part_that_began_hold_for_the_others(
    source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = replace(job(source, out, part=part(1, 2)), unit_size=3, batch_size=1)
    inline(first)
    second = replace(first, part=part(2, 2), unit_size=None, batch_size=None)
    assert inline(second).units == 1  # of units 0 to 2, unit 1
    with pytest.raises(FingerprintError, match="unit_size was 3"):
        inline(replace(second, unit_size=4))
    assert inline(replace(second, part=None, finish=True)).exit_code == Exit.DONE


def test_a_part_that_begins_at_the_same_moment_takes_over_the_choices_of_the_other(
    begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Part 1 has prepared its plan for a new output when part 2 begins it with other settings."""
    shutil.copytree(begun / "night.zarr", tmp_path / "night.zarr")
    words = [tmp_path / "night.zarr", "--bundle", begun / "bundle", "--devices", "cpu"]
    chosen = ["--part=2/2", "--batch-size=1", "--unit-size=3"]
    model = load_bundle(begun / "bundle")
    with click.Context(run, info_name="run") as context:
        run.parse_args(context, [*map(str, words), "--part", "1/2"])
        asked = make_job(words[0], tmp_path / "night.enhanced", model, context.params)
    rival = lambda: command(monkeypatch, "run", *words, *chosen)
    found, _ = cli._process(asked, model, "processes", rival, lambda at: None, print)
    assert (found.exit_code, found.units) == (Exit.DONE, 2)  # of units 0 to 2 of three cases
    assert command(monkeypatch, "run", *words[:3], "--finish") == Exit.DONE
    asked = replace(asked, unit_size=4, output=tmp_path / "other.enhanced")
    rival = lambda: command(monkeypatch, "run", *words, *chosen, "--output", asked.output)
    with pytest.raises(FingerprintError, match="unit_size was 3"):
        cli._process(asked, model, "processes", rival, lambda at: None, print)


AUTO = {
    "2/3": {"ID": "2", "MIN": "1", "MAX": "3", "STEP": "1", "COUNT": "3"},
    "1/8": {"ID": "0", "MIN": "0", "MAX": "7", "STEP": "1", "COUNT": "8"},
    "4/4": {"ID": "17", "MIN": "5", "MAX": "17", "STEP": "4", "COUNT": "4"},
    "1/1": {"ID": "6", "MIN": "6", "MAX": "6", "STEP": "1", "COUNT": "1"},
}


@pytest.mark.parametrize("expected", AUTO)
def test_a_task_of_a_slurm_array_knows_its_part(expected: str) -> None:
    environment = {f"SLURM_ARRAY_TASK_{x}": y for x, y in AUTO[expected].items()}
    assert str(parse_part("auto", environment)) == expected


def test_a_pod_of_an_indexed_job_knows_its_part() -> None:
    environment = {"JOB_COMPLETION_INDEX": "0", "JOB_COMPLETIONS": "5"}
    assert str(parse_part("auto", environment)) == "1/5"
    assert str(parse_part("auto", environment | {"JOB_COMPLETION_INDEX": "4"})) == "5/5"


@pytest.mark.parametrize(
    ("words", "environment", "said"),
    [
        *(
            (x, {}, "expected k/n with k from 1 to n")
            for x in ("0/3", "4/3", "a/b", "1", "1/", "-1/2", "٣/٤")
        ),
        *(
            (x, {}, "expected k/n with k from 1 to n")
            for x in ("1/2/3", "", "1/0", "1/9999999999", "AUTO")
        ),
        ("auto", {}, "neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX"),
        ("auto", {"JOB_COMPLETION_INDEX": "0"}, "JOB_COMPLETIONS is not set"),
        ("auto", {"JOB_COMPLETION_INDEX": "5", "JOB_COMPLETIONS": "5"}, "expected 0 to 4"),
        ("auto", {"JOB_COMPLETION_INDEX": "x", "JOB_COMPLETIONS": "5"}, "is not a number"),
        ("auto", {"SLURM_ARRAY_TASK_ID": "1"}, "SLURM_ARRAY_TASK_MIN is not set"),
    ],
)
def test_a_part_that_nobody_can_know_is_refused(
    words: str, environment: dict[str, str], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        parse_part(words, environment)


def test_a_slurm_array_with_gaps_is_refused_by_all_its_tasks() -> None:
    values = {"MIN": "1", "MAX": "7", "STEP": "1", "COUNT": "3"}  # --array=1,2,7
    for task in "127":
        environment = {f"SLURM_ARRAY_TASK_{x}": y for x, y in (values | {"ID": task}).items()}
        with pytest.raises(UsageError, match=r"not evenly spaced.*--array=1-8"):
            parse_part("auto", environment)
