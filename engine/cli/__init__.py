"""The program `mcdiff-batch`.  Its commands are entry points, group `mcdiff_batch.commands`."""

import atexit
import errno
import os
import signal
import sys
import traceback
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import click

from mcdiff_batch.engine.cli.terminal.streams import Streams, lossy_streams
from mcdiff_batch.engine.errors import DEBUG, Exit, explain_any
from mcdiff_batch.engine.signals import SIGNALS, interrupting
from mcdiff_batch.engine.start import interrupt
from mcdiff_batch.engine.text import make_printable

from .config import CONFIG, blame, configure, warn
from .config_file import read_file

ORDER = (
    *("run", "check", "status", "verify", "report", "review", "import", "phantom"),
    *("doctor", "compile", "train", "evaluate"),
)
ANSWERS = ("check", "status", "verify", "doctor")  # commands that do nothing but print


class Commands(click.Group):
    """Imports a command when it is used, so that `--help` is fast.  Each folder adds its own."""

    def _entry_points(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group="mcdiff_batch.commands")}

    def list_commands(self, ctx: click.Context) -> list[str]:
        names = self._entry_points()
        return sorted(names, key=lambda x: (ORDER.index(x) if x in ORDER else len(ORDER), x))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        point = self._entry_points().get(cmd_name)
        if point is None:
            return None
        command = point.load()
        assert isinstance(command, click.Command)
        return configure(command, (cmd_name,))


@click.group(
    cls=Commands,
    invoke_without_command=True,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    envvar=CONFIG,
    help="TOML file with options: a table for each command, such as [run], with keys such as "
    "batch-size.",
)
@click.option(
    "--show-config",
    is_flag=True,
    help="Print the options of the command that follows, and where each comes from; do nothing.",
)
@click.option("--version", is_flag=True, help="Print the version.")
@click.option("--json", "as_json", is_flag=True, help="With --version: all versions, as JSON.")
@click.pass_context
def group(
    context: click.Context, config: Path | None, show_config: bool, version: bool, as_json: bool
) -> int:
    """Enhance archives of multi-depth coronal spine ultrasound.

    Every option can also come from the environment, such as MCDIFF_RUN_BATCH_SIZE=8, or from a
    file (--config).  The command line overrides the environment, and the environment the file.

    Exit codes: 0 all cases done, 1 unexpected error, 2 wrong usage, 3 finished but some cases
    failed, 4 input cannot be used, 5 output is locked by another run, 6 settings differ from the
    output's, 7 no usable device, 8 verification failed, 9 no disk space left, 75 stopped by a
    signal (run the same command again).
    """
    if version:
        click.echo(_version(as_json))
        context.exit(Exit.DONE)
    if as_json:
        raise click.UsageError("--json works with --version; a command has a --json of its own")
    if context.invoked_subcommand is None:
        raise click.UsageError("Missing command.")
    if config is not None and not {"-h", "--help"} & set(sys.argv):  # which a slip may not hide
        context.default_map = read_file(config, context)
    if context.invoked_subcommand in ANSWERS and isinstance(context.obj, Streams):
        context.obj.wait_for_reader()
    return Exit.DONE


def _version(as_json: bool) -> str:
    if as_json:
        import json

        from .version import versions

        return json.dumps(versions())
    from importlib.metadata import version

    return f"mcdiff-batch, version {version('mcdiff-batch')}"


def main() -> None:
    """Runs the command line.  An error for the user becomes one line on stderr and an exit code."""
    atexit.register(_ignore_signals)  # the exit code stands by then
    try:
        # any signal ends a command as Ctrl-C does, so that it can clean up; a run has its own way
        with lossy_streams() as streams, interrupting():
            code = interrupt.code = _tell_losses(streams, _call(streams))
    except KeyboardInterrupt:  # after the last word of the command
        code = Exit.DRAINED
    sys.exit(code)


def _ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _call(streams: Streams) -> int:
    """Runs the command and returns its exit code, whatever it raises."""
    try:
        code = group.main(standalone_mode=False, obj=streams)
    except (click.Abort, KeyboardInterrupt):
        return Exit.DRAINED
    except click.ClickException as error:
        if isinstance(error, click.UsageError) and error.ctx is not None:
            warn(error.ctx)
            blame(error)
        error.show()
        return error.exit_code
    except Exception as error:
        if os.environ.get(DEBUG):
            traceback.print_exc()
        found = explain_any(error)
        click.echo(f"error: {make_printable(str(found))}", err=True)
        return found.exit_code
    return code if isinstance(code, int) else Exit.DONE


def _tell_losses(streams: Streams, code: int) -> int:
    """Says what could not be told, where that is possible.  Returns the exit code.

    It stays that of the work; but a command that only answers has failed if its answer is lost,
    unless the reader had enough of it.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    lost = streams.losses()
    if len(lost) == 1:
        ((name, error),) = lost.items()
        if error.errno != errno.EPIPE:
            text = f"warning: {name} could not be written ({error.strerror}); messages are missing"
            click.echo(text, err=name == "stdout")
    answer = lost.get("stdout") if streams.answers else None
    failed = answer is not None and answer.errno != errno.EPIPE
    return code or (Exit.UNEXPECTED if failed else Exit.DONE)
