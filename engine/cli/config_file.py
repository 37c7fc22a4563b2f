"""Options from a TOML file, checked by name and type."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from mcdiff_batch.engine.errors import UsageError, explain
from mcdiff_batch.engine.files import read_named
from mcdiff_batch.engine.text import make_printable

from .config import Path_, spell

NOT_IN_A_FILE = {  # decisions about one run; a file lasts for years and serves all runs
    "dry-run": "every run would end at once, with exit code 0 and nothing done",
    "repair": "it deletes records, which someone has to decide after looking at the damage",
    "finish": "every run would only complete its output, and do no case",
    "show-ids": "names of patients appear only where someone asks for them",
    "show-host": "the machine is named only where someone asks for it",
}
LARGEST = 1 << 20  # bytes of a file


def read_file(path: Path, context: click.Context) -> dict[str, Any]:
    """The values of a TOML file by command and parameter, as click's `default_map` takes them.

    Its names and types are checked; the command that runs checks its values.  Raises UsageError.
    """
    return _Table(path, ()).read(_parse(path), context.command, context)


def _parse(path: Path) -> dict[str, Any]:
    import tomllib  # most calls have no file

    try:
        data = read_named(path, LARGEST + 1)
    except OSError as error:
        raise explain(error, path) from error
    if len(data) > LARGEST:
        raise UsageError(f"{path}: is larger than 1 MiB, expected a TOML file of a few lines")
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UsageError(f"{path}: line {line} is not UTF-8, expected a TOML file") from error
    except RecursionError as error:
        raise UsageError(f"{path}: its arrays or tables are nested too deeply") from error
    except ValueError as error:
        raise UsageError(f"{path}: is not TOML: {error}; see https://toml.io") from error


@dataclass(frozen=True)
class _Table:
    """A table of the file and the command that it belongs to."""

    file: Path
    path: Path_

    def read(
        self, raw: dict[str, Any], command: click.Command, context: click.Context
    ) -> dict[str, Any]:
        options = {spell(x): x for x in command.params if isinstance(x, click.Option)}
        if not self.path:
            options = {}  # those of the program have no table
        tables = command.list_commands(context) if isinstance(command, click.Group) else []
        found: dict[str, Any] = {}
        for key, value in raw.items():
            name = key.replace("_", "-")
            if isinstance(value, dict) and name in tables:
                assert isinstance(command, click.Group)
                below = command.get_command(context, name)
                assert below is not None
                inner = _Table(self.file, (*self.path, name)).read(value, below, context)
                _put(found, name, inner, self._at(key))
            elif name in options:
                self._check(key, name, options[name], value)
                _put(found, str(options[name].name), _as_flag(options[name], value), self._at(key))
            else:
                raise UsageError(self._unknown(key, value, tables, list(options)))
        return found

    def _at(self, key: str) -> str:
        table = f"[{'.'.join(self.path)}] " if self.path else ""
        return make_printable(f"{self.file}: {table}{key}").replace("\n", "\\n")

    def _unknown(self, key: str, value: object, tables: list[str], options: list[str]) -> str:
        from difflib import get_close_matches

        is_table = isinstance(value, dict) and bool(tables)
        if key.replace("_", "-") in tables:
            return f"{self._at(key)}: is {_name(value)}, expected a table such as [run]"
        if not self.path and not is_table:
            return f"{self._at(key)}: is in no table; write it below one such as [run]"
        what = "command" if is_table else "option"
        meant = get_close_matches(key.replace("_", "-"), tables if is_table else options, 1)
        words = " ".join(("mcdiff-batch", *self.path, "--help"))
        advice = f"did you mean {meant[0]}?" if meant else f"`{words}` lists them"
        return f"{self._at(key)}: no {what} has this name; {advice}"

    def _check(self, key: str, name: str, option: click.Option, value: object) -> None:
        if name in NOT_IN_A_FILE:
            raise UsageError(
                f"{self._at(key)}: cannot come from a file, because {NOT_IN_A_FILE[name]}; write "
                f"--{name} on the command line"
            )
        expected, kinds = _kinds(option)
        several = option.multiple or option.nargs != 1
        values = value if several and isinstance(value, list) else [value]
        if several and not isinstance(value, list):
            expected = f"an array of {expected.split()[-1]}s"
        elif all(type(x) in kinds for x in values):
            if any(isinstance(x, str) and "\0" in x for x in values):
                raise UsageError(f"{self._at(key)}: contains a NUL character; delete it")
            return
        wrong = next((x for x in values if type(x) not in kinds), value)
        raise UsageError(f"{self._at(key)}: is {_name(wrong)}, expected {expected}")


def _put(found: dict[str, Any], name: str, value: object, where: str) -> None:
    if name in found:
        raise UsageError(f"{where}: is there twice, with - and with _; delete one of them")
    found[name] = value


def _kinds(option: click.Option) -> tuple[str, tuple[type, ...]]:
    """The TOML types of one value of an option, in words and as Python types."""
    kind = option.type.types[0] if isinstance(option.type, click.Tuple) else option.type
    if option.is_flag:
        return "true or false", (bool,)
    if isinstance(kind, click.types.IntParamType):
        return "an integer", (int,)
    if isinstance(kind, click.types.FloatParamType):
        return "a number", (int, float)
    if isinstance(kind, click.types.StringParamType):
        return "a string", (str, int, float)
    return "a string", (str,)


def _as_flag(option: click.Option, value: Any) -> Any:
    """A number for an option that takes text, such as `pixel-spacing = 0.18`, as text."""
    if isinstance(option.type, click.types.StringParamType) and not option.is_flag:
        return list(map(str, value)) if isinstance(value, list) else str(value)
    return value


def _name(value: object) -> str:
    names = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}
    names |= {list: "an array", dict: "a table"}
    return names.get(type(value), "a date or a time")
