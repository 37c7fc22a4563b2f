"""A run.json whose numbers no run has is refused at once, by every command that reads it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mcdiff_batch.engine.errors import Exit, UsageError
from mcdiff_batch.engine.output import runs
from tests.support.crafting import command
from tests.support.network import time_limit
from tests.support.running import archive, inline, job

TAMPERED: dict[str, dict[str, Any]] = {
    "as many cases as fit": {"cases": f"0-{(1 << 62) - 1}"},
    "a thousand million": {"cases": "0-999999999", "unit_size": 1},
    "more than fit": {"cases": f"0-{'9' * 30}"},
    "more digits than Python reads": {"cases": f"0-{'9' * 9000}"},
    "two million single ones": {"cases": ",".join(map(str, range(0, 4_000_000, 2)))},
    "words": {"cases": "\x1b[31mall"},
    "units of nothing": {"unit_size": 0},
    "units of less": {"unit_size": -4},
    "units of too much": {"unit_size": 1 << 60},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output with a part, whose units `status` counts."""
    folder = tmp_path_factory.mktemp("tampered")
    inline(job(archive(folder / "night.zarr", 4), folder / "night.enhanced"))
    (folder / "night.enhanced/parts/1-of-2").mkdir(parents=True)
    return folder / "night.enhanced"


WAYS = [*((name, ["status"]) for name in TAMPERED), ("a thousand million", ["report"])]


@pytest.mark.parametrize(("name", "words"), [*WAYS, ("a thousand million", ["status", "--json"])])
def test_it_is_refused_in_a_line(
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
    name: str,
    words: list[str],
) -> None:
    output = tmp_path / "night.enhanced"
    shutil.copytree(made, output)
    document = json.loads((output / runs.CONFIG).read_text())
    document["settings"] |= TAMPERED[name]
    (output / runs.CONFIG).write_text(json.dumps(document))
    with time_limit(30):
        assert command(monkeypatch, *words, output) == Exit.USAGE
    said = capsys.readouterr().err
    assert "run.json: is damaged" in said
    assert len(said) < 1000
    assert "\x1b" not in said


def test_a_run_json_without_an_end_is_not_read(made: Path, tmp_path: Path) -> None:
    output = tmp_path / "night.enhanced"
    shutil.copytree(made, output)
    with (output / runs.CONFIG).open("r+b") as file:
        file.truncate(1 << 40)  # a hole
    with pytest.raises(UsageError, match=r"run\.json: is damaged"):
        runs.load(output)


def test_the_one_that_a_run_wrote_is_accepted(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert command(monkeypatch, "status", made) == Exit.DONE
    assert "4 of 4 cases done" in capsys.readouterr().out
