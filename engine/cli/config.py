"""Options from the environment and from a file: flag over environment over file over default."""

import copy
import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from mcdiff_batch.engine.errors import DEBUG, UsageError, explain
from mcdiff_batch.engine.files import read_named
from mcdiff_batch.engine.text import make_printable

PREFIX = "MCDIFF"
CONFIG, COMMIT = (f"{PREFIX}_{name}" for name in ("CONFIG", "COMMIT"))
OTHERS = (  # variables that are no option
    *(CONFIG, DEBUG, COMMIT),
    *(f"{PREFIX}_DICOMWEB_TOKEN", f"{PREFIX}_ALLOW_HTTP"),
)
NOT_IN_A_FILE = {  # decisions about one run; a file lasts for years and serves all runs
    "dry-run": "every run would end at once, with exit code 0 and nothing done",
    "repair": "it deletes records, which someone has to decide after looking at the damage",
    "finish": "every run would only complete its output, and do no case",
    "show-ids": "names of patients appear only where someone asks for them",
    "show-host": "the machine is named only where someone asks for it",
}
LARGEST = 1 << 20  # bytes of a file
SOURCES = {
    ParameterSource.COMMANDLINE: "command line",
    ParameterSource.DEFAULT: "default",
}
Path_ = tuple[str, ...]  # of a command, such as ("bench", "memory")


# --- the environment


def configure(command: click.Command, path: Path_) -> click.Command:
    """A copy of a command that takes its options from the environment too."""
    made = copy.copy(command)
    made.params = [_with_variable(x, path) for x in command.params]
    if isinstance(made, click.Group):
        below = made.commands.items()
        made.commands = {name: configure(x, (*path, name)) for name, x in below}
    if made.callback is not None:
        made.callback = _prepared(made.callback)
    return made


def _with_variable(parameter: click.Parameter, path: Path_) -> click.Parameter:
    made = copy.copy(parameter)
    if isinstance(made, click.Option):
        made.envvar = variable(path, made)
    return made


def _prepared(callback: Callable[..., Any]) -> Callable[..., Any]:
    """What happens between the options of a command and its work."""

    @wraps(callback)
    def call(*args: Any, **options: Any) -> Any:
        context = click.get_current_context()
        last = context.invoked_subcommand is None  # "bench" before "memory" is not
        if last:
            warn(context)
        _check_numbers(context)
        if not context.find_root().params["show_config"]:
            return callback(*args, **options)
        if last:
            click.echo(make_printable(describe(context)))
        return None

    return call


def _check_numbers(context: click.Context) -> None:
    """A range does not keep NaN out.  Raises BadParameter."""
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise click.BadParameter(f"{number} is not a finite number.", context, parameter)


def spell(option: click.Parameter) -> str:
    """The name of an option as people write it, without dashes in front: "batch-size"."""
    return max(option.opts, key=len).lstrip("-")


def variable(path: Path_, option: click.Parameter) -> str:
    """For example MCDIFF_RUN_BATCH_SIZE."""
    return _shout(*path, spell(option))


def _shout(*words: str) -> str:
    return "_".join((PREFIX, *words)).upper().replace("-", "_")


def warn(context: click.Context) -> None:
    """Says on stderr which variables no option reads.  Once in a call of the program."""
    root = context.find_root()
    if context is root or root.meta.setdefault(__name__, context) is not context:
        return
    values = context.params
    as_json = values.get("progress") == "json" or values.get("as_json")
    for text in _strangers(context):
        click.echo(_as_json(text) if as_json else f"warning: {make_printable(text)}", err=True)


def _as_json(text: str) -> str:
    import json  # most calls have no warning

    return json.dumps({"warning": text})


def _strangers(context: click.Context) -> Iterator[str]:
    """Variables that look like ours.  Those of other commands may be sound: they are not loaded."""
    found = sorted(x for x in os.environ if x.startswith(f"{PREFIX}_") and x not in OTHERS)
    if not found:
        return
    from difflib import get_close_matches

    levels = _levels(context)
    own = {_shout(*path) for path, _ in levels}
    known = {*OTHERS, *(x for path, level in levels for x in _variables(path, level))}
    owners = {_shout(*path, name) for path, level in levels for name in _names(level)}
    for name in found:
        owner = max((x for x in owners if name.startswith(f"{x}_")), key=len, default=PREFIX)
        if owner in own and name not in known:
            meant = get_close_matches(name, known, 1, 0.8)
            advice = f"did you mean {meant[0]}?" if meant else "see `mcdiff-batch --show-config`"
            yield f"{name} in the environment is the name of no option, so it is ignored; {advice}"


def _levels(context: click.Context) -> list[tuple[Path_, click.Context]]:
    """The contexts from the program down to a command, each with the path of its command."""
    above = [] if context.parent is None else _levels(context.parent)
    if context.parent is None:
        return [((), context)]
    return [*above, ((*above[-1][0], str(context.info_name)), context)]


def _variables(path: Path_, context: click.Context) -> Iterator[str]:
    options = (x for x in context.command.params if isinstance(x, click.Option))
    return (variable(path, x) for x in options) if path else iter(())


def _names(context: click.Context) -> list[str]:
    command = context.command
    return command.list_commands(context) if isinstance(command, click.Group) else []


# --- where values come from


def is_typed(name: str) -> bool:
    """Whether a parameter of the command that runs was given on the command line."""
    source = click.get_current_context().get_parameter_source(name)
    return source is ParameterSource.COMMANDLINE


def source_of(context: click.Context, parameter: click.Parameter) -> str:
    """Such as "command line", "MCDIFF_RUN_SEED", "night.toml" or "default"."""
    source = context.get_parameter_source(parameter.name or "")
    if source is ParameterSource.ENVIRONMENT:
        return str(parameter.envvar)
    if source is ParameterSource.DEFAULT_MAP:
        return str(context.find_root().params["config"])
    return SOURCES.get(source or ParameterSource.DEFAULT, "default")


def describe(context: click.Context) -> str:
    """A line for each option of a command: its value, and where that comes from."""
    rows = []
    for parameter in context.command.params:
        name = (
            spell(parameter)
            if isinstance(parameter, click.Option)
            else parameter.make_metavar(context)
        )
        value = _show(context.params.get(parameter.name or ""))
        rows.append((name, value, source_of(context, parameter)))
    widths = [max((len(row[k]) for row in rows), default=0) for k in (0, 1)]
    return "\n".join(f"{x:<{widths[0]}}  {y:<{widths[1]}}  {z}" for x, y, z in rows)


def _show(value: object) -> str:
    """A value in words, without the password that an address may have; "-" for none."""
    if value is None or value == ():
        return "-"
    if isinstance(value, tuple):
        return ", ".join(map(_show, value))
    text = {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
    return re.sub(r"//[^/@]*@", "//***@", " ".join(text.split()))


def blame(error: click.UsageError) -> None:
    """Adds to a message where a wrong value comes from, if that is not the command line."""
    parameter = getattr(error, "param", None)
    if not isinstance(error, click.BadParameter) or error.ctx is None or parameter is None:
        return
    source = source_of(error.ctx, parameter)
    if source not in SOURCES.values():
        error.param_hint = f"{parameter.get_error_hint(error.ctx)} (from {source})"


# --- the file


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
