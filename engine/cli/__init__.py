"""The program `mcdiff-batch`.  Its commands are entry points, group `mcdiff_batch.commands`."""

import sys
from importlib.metadata import EntryPoint, entry_points

import click

from mcdiff_batch.engine.errors import Exit, McdiffError
from mcdiff_batch.engine.text import make_printable

ORDER = (
    *("run", "check", "status", "verify", "report", "import", "phantom"),
    *("doctor", "compile", "train", "evaluate"),
)


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
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mcdiff-batch")
def group() -> None:
    """Enhance archives of multi-depth coronal spine ultrasound.

    Exit codes: 0 all cases done, 1 unexpected error, 2 wrong usage, 3 finished but some cases
    failed, 4 input cannot be used, 5 output is locked by another run, 6 settings differ from the
    output's, 7 no usable device, 8 verification failed, 9 no disk space left, 75 stopped by a
    signal (run the same command again).
    """


def main() -> None:
    """Runs the command line.  An error for the user becomes one line on stderr and an exit code."""
    try:
        code = group.main(standalone_mode=False)
    except McdiffError as error:
        click.echo(f"error: {make_printable(str(error))}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        extras = "pip install 'mcdiff-batch[train,evaluate]'"
        click.echo(
            f"error: this command needs {error.name}, which is not installed: {extras}", err=True
        )
        sys.exit(Exit.USAGE)
    except click.Abort:
        sys.exit(Exit.DRAINED)
    sys.exit(code if isinstance(code, int) else 0)
