"""Options from the environment and from a file: flag over environment over file over default."""

import copy
import math
import os
import re
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import click
from click.core import ParameterSource

from mcdiff_batch.engine.errors import DEBUG
from mcdiff_batch.engine.text import make_printable

PREFIX = "MCDIFF"
CONFIG, COMMIT = (f"{PREFIX}_{name}" for name in ("CONFIG", "COMMIT"))
OTHERS = (  # variables that are no option
    *(CONFIG, DEBUG, COMMIT),
    *(f"{PREFIX}_DICOMWEB_TOKEN", f"{PREFIX}_ALLOW_HTTP"),
)
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
