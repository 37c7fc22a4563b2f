"""Options from the environment and a file, and the versions that a machine reads."""

import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import click
import pytest

from mcdiff_batch.engine.cli import group, main
from mcdiff_batch.engine.cli.config import spell, variable
from mcdiff_batch.engine.cli.config_file import NOT_IN_A_FILE
from mcdiff_batch.engine.files import file_sha256
from mcdiff_batch.engine.model.contract import SHIPPED
from mcdiff_batch.engine.output.runs import Settings
from tests.support.crafting import CLI
from tests.support.running import archive, bundle

Answer = tuple[int, str, str]  # exit code, stdout, stderr


class Call:
    """Runs the program in this process, in a folder of its own."""

    def __init__(self, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self.patch, self.capture = patch, capture

    def __call__(self, *words: object, **variables: str) -> Answer:
        with self.patch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["mcdiff-batch", *map(str, words)])
            with pytest.raises(SystemExit) as end:
                main()
        out, err = self.capture.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, out, err


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Call:
    monkeypatch.chdir(tmp_path)
    return Call(monkeypatch, capsys)


def rows(text: str) -> dict[str, tuple[str, str]]:
    """What --show-config prints: value and source by option."""
    split = (re.split(r"\s{2,}", line) for line in text.splitlines())
    return {name: (value, source) for name, value, source in split}


def commands() -> dict[tuple[str, ...], click.Command]:
    """Every command of the program, by its words."""
    context = click.Context(group)
    found: dict[tuple[str, ...], click.Command] = {}
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found[name,] = command
        below = command.commands if isinstance(command, click.Group) else {}
        found |= {(name, x): y for x, y in below.items()}
    return found


def test_a_flag_comes_before_the_environment_that_before_the_file_that_before_the_default(
    call: Call, tmp_path: Path
) -> None:
    (tmp_path / "night.toml").write_text(
        '[run]\nunit-size = 5\nbatch_size = 5\nseed = 5\ncases = "0-3"\n[check]\njson = true\n'
    )
    words = ("--config", "night.toml", "--show-config", "run", "a.zarr", "--unit-size", 7)
    code, out, _ = call(*words, MCDIFF_RUN_UNIT_SIZE="6", MCDIFF_RUN_BATCH_SIZE="6")
    shown = rows(out)
    assert code == 0
    assert shown["ARCHIVE"] == ("a.zarr", "command line")
    assert shown["unit-size"] == ("7", "command line")
    assert shown["batch-size"] == ("6", "MCDIFF_RUN_BATCH_SIZE")
    assert shown["seed"] == ("5", "night.toml")
    assert shown["cases"] == ("0-3", "night.toml")
    assert shown["devices"] == ("auto", "default")


def test_every_option_of_every_command_has_a_variable_and_a_key(call: Call) -> None:
    for path, command in commands().items():
        options = [x for x in command.params if isinstance(x, click.Option)]
        assert len({spell(x) for x in options}) == len(options)
        for option in options:
            assert option.envvar == variable(path, option)
            assert f"--{spell(option)}" in option.opts
    assert variable(("export-dicom",), click.Option(["--case-by"])) == "MCDIFF_EXPORT_DICOM_CASE_BY"


def test_options_of_a_file_reach_the_work_and_the_settings_of_the_run(
    call: Call, tmp_path: Path
) -> None:
    archive(tmp_path / "night.zarr", 5)
    bundle(tmp_path / "model")
    (tmp_path / "night.toml").write_text(
        '[run]\ninput = "night.zarr"\nbundle = "model"\ndevices = "cpu"\nunit-size = 3\nseed = 4\n'
        "retry-failed = true\n[import]\npixel-spacing = 0.18\nintensity-range = [0, 4095]\n"
    )
    code, _, err = call("run", "--limit", 4, MCDIFF_CONFIG="night.toml", MCDIFF_RUN_STEPS="2")
    assert code == 0, err
    stored = json.loads((tmp_path / "night.enhanced/run.json").read_bytes())["settings"]
    assert (stored["unit_size"], stored["seed"], stored["cases"]) == (3, 4, "0-3")
    assert len(stored["ladder"]) == 2
    code, out, _ = call("--config", "night.toml", "--show-config", "import", "x", "--output", "y")
    assert rows(out)["pixel-spacing"] == ("0.18, 0.18", "night.toml")
    assert rows(out)["intensity-range"] == ("0.0, 4095.0", "night.toml")
    assert not (tmp_path / "y").exists()


def test_an_archive_on_the_command_line_takes_the_place_of_one_in_the_file(
    call: Call, tmp_path: Path
) -> None:
    archive(tmp_path / "b.zarr", 2)
    bundle(tmp_path / "model")
    (tmp_path / "c.toml").write_text('[run]\ninput = "a.zarr"\nbundle = "model"\ndevices = "cpu"\n')
    code, out, err = call("--config", "c.toml", "run", "b.zarr", "--dry-run")
    assert (code, "b.enhanced (new)" in out) == (0, True), err
    code, _, err = call("--config", "c.toml", "run", "b.zarr", "--input", "a.zarr")
    assert (code, "expected one archive" in err) == (2, True)


# decide no byte of a run, or are in the settings by another name (input: archive; steps: ladder)
NOT_SETTINGS = {
    **dict.fromkeys(("input", "output"), "paths of the machine"),
    **dict.fromkeys(("devices", "patience", "on-error", "max-failures"), "how, not what"),
    **dict.fromkeys(("retry-failed", "repair", "dry-run"), "a decision about one call"),
    **dict.fromkeys(("show-ids", "progress", "metrics"), "what people and programs see"),
    "limit": "cases",
    "steps": "ladder",
    "sampler": "solver",
    **dict.fromkeys(("part", "finish", "on"), "who does the work"),
}


def test_every_option_of_run_that_decides_bytes_is_in_run_json() -> None:
    stored = {x.name.replace("_", "-") for x in fields(Settings)}
    options = {spell(x) for x in commands()["run",].params if isinstance(x, click.Option)}
    assert options - stored <= set(NOT_SETTINGS)
    assert not stored & set(NOT_SETTINGS)


BAD = {  # a file, and what the message has to say beside its name
    "seed = 1": "seed: is in no table",
    "[rnu]": "rnu: no command has this name; did you mean run?",
    "[run]\nunit-sise = 4": "[run] unit-sise: no option has this name; did you mean unit-size?",
    "[run]\nnamed = 'a.zarr'": "[run] named: no option has this name",
    "[bench.memry]": "[bench] memry: no command has this name; did you mean memory?",
    "[bench.memory]\ncases = [1, 'b']": "[bench.memory] cases: is a string, expected an integer",
    "[run]\nunit-size = '4'": "[run] unit-size: is a string, expected an integer",
    "[run]\nunit-size = true": "[run] unit-size: is true or false, expected an integer",
    "[run]\nunit-size = 4.0": "[run] unit-size: is a number, expected an integer",
    "[run]\ntemperature = '1'": "[run] temperature: is a string, expected a number",
    "[run]\nretry-failed = 1": "[run] retry-failed: is an integer, expected true or false",
    "[run]\noutput = 3": "[run] output: is an integer, expected a string",
    "[run]\nseed = 2026-11-30": "[run] seed: is a date or a time, expected an integer",
    "[run]\ncases = ['1']": "[run] cases: is an array, expected a string",
    "[run.seed]\nx = 1": "[run] seed: is a table, expected an integer",
    "[import]\nmatch = 'a=b'": "[import] match: is a string, expected an array of strings",
    "[import]\nintensity-range = ['0', '1']": "intensity-range: is a string, expected a number",
    "[run]\nseed = 1\nbatch-size = 1\nbatch_size = 1": "[run] batch_size: is there twice",
    '[run]\noutput = "a\\u0000b"': "[run] output: contains a NUL character",
    '["\\u001b[31m"]': "\\x1b[31m: no command has this name",
    "run = 3": "run: is an integer, expected a table such as [run]",
    "[[run]]": "run: is an array, expected a table such as [run]",
    "[run]\nseed == 1": "is not TOML: Invalid value (at line 2, column 7)",
    "[run]\nseed = 1\nseed = 2": "is not TOML",
    "a = " + "[" * 20000: "nested too deeply",
    "x" * (1 << 20) + "x": "is larger than 1 MiB",
}


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_a_file_that_is_wrong_is_refused_with_its_place_and_what_is_expected(
    call: Call, tmp_path: Path, text: str
) -> None:
    (tmp_path / "bad.toml").write_text(text)
    code, out, err = call("--config", "bad.toml", "status", "x")  # wrong for any command
    assert (code, out) == (2, "")
    assert err.startswith("error: bad.toml: ")
    assert BAD[text] in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", NOT_IN_A_FILE)
def test_a_decision_about_one_run_cannot_come_from_a_file(
    call: Call, tmp_path: Path, name: str
) -> None:
    command = "report" if name == "show-host" else "run"
    (tmp_path / "bad.toml").write_text(f"[{command}]\n{name} = true\n")
    code, _, err = call("--config", "bad.toml", "status", "x")
    assert (code, f"write --{name} on the command line" in err) == (2, True)


@pytest.mark.parametrize("case", ["absent", "folder", "bytes"])
def test_a_file_that_cannot_be_read_is_refused(call: Call, tmp_path: Path, case: str) -> None:
    if case == "folder":
        (tmp_path / "bad.toml").mkdir()
    if case == "bytes":
        (tmp_path / "bad.toml").write_bytes(b"[run]\n# \xff\n")
    code, _, err = call("status", "x", MCDIFF_CONFIG="bad.toml")
    assert (code, err.startswith("error: bad.toml: ")) == (2, True)
    if case == "bytes":
        assert "line 2 is not UTF-8" in err


def test_a_value_is_checked_as_a_flag_is_and_the_message_says_where_it_comes_from(
    call: Call, tmp_path: Path
) -> None:
    (tmp_path / "c.toml").write_text("[run]\nunit-size = 0\n[report]\ncompare = 'absent'\n")
    code, _, err = call("--config", "c.toml", "run", "a.zarr")
    assert (code, "'--unit-size' (from c.toml): 0 is not in the range" in err) == (2, True)
    code, _, err = call("run", "a.zarr", MCDIFF_RUN_GRID="hexagonal")
    assert (code, "'--grid' (from MCDIFF_RUN_GRID)" in err) == (2, True)
    code, _, err = call("run", "a.zarr", MCDIFF_RUN_RETRY_FAILED="maybe")
    assert (code, "(from MCDIFF_RUN_RETRY_FAILED)" in err) == (2, True)
    _, _, err = call("run", "a.zarr", "--grid", "hexagonal")
    assert "from" not in err


def test_a_named_pipe_is_no_file_of_options(call: Call, tmp_path: Path) -> None:
    """Nobody may ever write to it."""
    os.mkfifo(tmp_path / "c.toml")
    code, _, err = call("--config", "c.toml", "status", "x")
    assert (code, "c.toml: is a named pipe" in err) == (2, True)


def test_help_is_there_also_where_the_file_is_wrong(call: Call) -> None:
    code, out, _ = call("run", "--help", MCDIFF_CONFIG="absent.toml")
    assert (code, "--unit-size" in out) == (0, True)


def test_a_file_of_another_editor_is_read(call: Call, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_bytes(b"\xef\xbb\xbf[run]\r\nseed = 0x1F\r\n")
    _, out, err = call("--config", "c.toml", "--show-config", "run", "a.zarr")
    assert rows(out)["seed"] == ("31", "c.toml"), err


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_number_is_finite_wherever_it_comes_from(call: Call, tmp_path: Path, value: str) -> None:
    (tmp_path / "c.toml").write_text(f"[run]\npatience = {value}\n")
    code, _, err = call("--config", "c.toml", "run", "a.zarr")
    assert (code, "'--patience' (from c.toml)" in err) == (2, True)
    code, _, err = call("run", "a.zarr", f"--temperature={value}")
    assert (code, "'--temperature': " in err) == (2, True)
    code, _, err = call("import", "x", "--output", "y", MCDIFF_IMPORT_INTENSITY_RANGE=f"0 {value}")
    assert (code, f"{value} is not a finite number" in err) == (2, True)


def test_flags_and_options_that_may_be_repeated_come_from_the_environment(call: Call) -> None:
    words = ("--show-config", "bench", "memory")
    _, out, _ = call(*words, MCDIFF_BENCH_MEMORY_CASES="3 40")
    assert rows(out)["cases"] == ("3, 40", "MCDIFF_BENCH_MEMORY_CASES")
    words = ("--show-config", "bench", "fidelity", "--data", ".", "--work", "w")
    _, out, _ = call(*words, MCDIFF_BENCH_FIDELITY_TIMES="no")  # --times/--no-times
    assert rows(out)["times"] == ("no", "MCDIFF_BENCH_FIDELITY_TIMES")
    for value, shown in {"1": "yes", "true": "yes", "no": "no", "": "no"}.items():
        _, out, _ = call("--show-config", "status", "x", MCDIFF_STATUS_JSON=value)
        assert rows(out)["json"] == (shown, "MCDIFF_STATUS_JSON" if value else "default")


STRANGERS = {
    "MCDIFF_RUN_BATCHSIZE": "did you mean MCDIFF_RUN_BATCH_SIZE?",
    "MCDIFF_RNU_SEED": "did you mean MCDIFF_RUN_SEED?",
    "MCDIFF_DEBUGG": "did you mean MCDIFF_DEBUG?",
    "MCDIFF_RUN_STEP": "did you mean MCDIFF_RUN_STEPS?",
    "MCDIFF_Q": "see `mcdiff-batch --show-config`",
    "MCDIFF_\x1b[31m": "MCDIFF_\\x1b[31m in the environment",
}


def test_a_misspelt_variable_is_named_on_stderr_with_the_nearest_one(call: Call) -> None:
    sound = {"MCDIFF_EXPORT_DICOM_TO": "x", "MCDIFF_BENCH_MEMORY_CASES": "1", "MCDIFF_DEBUG": ""}
    _, out, err = call("--show-config", "run", "a", **dict.fromkeys(STRANGERS, "1"), **sound)
    assert "warning" not in out
    lines = err.splitlines()
    assert len(lines) == len(STRANGERS)
    for name, advice in STRANGERS.items():
        assert any(advice in x for x in lines), name


def test_a_misspelt_variable_of_a_command_of_a_command_is_named(call: Call) -> None:
    _, _, err = call("--show-config", "bench", "memory", MCDIFF_BENCH_MEMORY_CASE="1")
    assert err.count("did you mean MCDIFF_BENCH_MEMORY_CASES?") == 1


def test_a_misspelt_variable_is_named_also_where_an_option_is_missing(call: Call) -> None:
    code, _, err = call("import", "scans", MCDIFF_IMPORT_OUTPT="a.zarr")
    assert (code, "Missing option '--output'" in err) == (2, True)
    assert err.count("did you mean MCDIFF_IMPORT_OUTPUT?") == 1


def test_for_a_supervisor_the_warning_is_a_line_of_json(call: Call) -> None:
    words = ("run", "absent.zarr", "--progress", "json")
    code, _, err = call(*words, MCDIFF_RUN_BATCHSIZE="1")
    lines = [json.loads(x) for x in err.splitlines() if x.startswith("{")]
    assert "MCDIFF_RUN_BATCHSIZE" in lines[0]["warning"]
    assert (lines[-1]["exit_code"], lines[-1]["state"]) == (code, "stopped")


def test_the_shown_options_hold_no_password(call: Call) -> None:
    words = ("--show-config", "import", "--output", "a.zarr")
    _, out, _ = call(*words, MCDIFF_IMPORT_DICOMWEB="https://me:secret@pacs/dicom-web")
    assert "secret" not in out
    assert "https://***@pacs/dicom-web" in out


def test_the_versions_are_one_object_of_json_without_a_path(call: Call) -> None:
    code, out, _ = call("--version", "--json", MCDIFF_CONFIG="absent.toml")
    found = json.loads(out)
    assert code == 0
    assert found["bundle"] == file_sha256(SHIPPED / "contract.json")
    assert {"numpy", "onnxruntime", "zarr"} <= set(found["libraries"])
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert "/" not in out
    assert (
        call("--version", "--json", MCDIFF_COMMIT="abc")[1]
        == json.dumps(found | {"commit": "abc"}) + "\n"
    )
    assert call("--json", "status", "x")[0] == 2
    assert call("--version")[1].endswith(f"{found['mcdiff-batch']}\n")


def test_a_call_without_a_command_is_wrong_usage(call: Call, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("")
    code, _, err = call("--config", "c.toml")
    assert (code, "Missing command" in err) == (2, True)


def test_a_command_that_only_answers_is_known_behind_options_of_the_program(
    tmp_path: Path,
) -> None:
    """Its answer is lost on a full disk, so it has failed."""
    (tmp_path / "c.toml").write_text("[status]\njson = true\n")
    (tmp_path / "out").mkdir()
    words = ["--config", str(tmp_path / "c.toml"), "--show-config", "status", "x"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*CLI, *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            timeout=120,
        )
    assert (done.returncode, "stdout could not be written" in done.stderr) == (1, True)
