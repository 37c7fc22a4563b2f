"""The one command line; its commands are found in the entry-point group `mcdiff_batch.commands`."""

import sys
from importlib.metadata import EntryPoint, entry_points

import click

from mcdiff_batch.engine.errors import Exit, McdiffError
from mcdiff_batch.engine.text import printable

ORDER = (
    *("run", "check", "status", "verify", "report", "import", "phantom"),
    *("doctor", "compile", "train", "evaluate"),
)


class Commands(click.Group):
    """Loads a command's module when it is asked for; every folder registers its own."""

    def _found(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group="mcdiff_batch.commands")}

    def list_commands(self, ctx: click.Context) -> list[str]:
        found = self._found()
        return sorted(found, key=lambda x: (ORDER.index(x) if x in ORDER else len(ORDER), x))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        point = self._found().get(cmd_name)
        if point is None:
            return None
        command = point.load()
        assert isinstance(command, click.Command)
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mcdiff-batch")
def group() -> None:
    """Enhance archives of multi-depth coronal spine ultrasound, deterministically, losing nothing.

    Exit codes: 0 all done, 1 unexpected, 2 usage, 3 finished with failed cases, 4 input invalid,
    5 output locked, 6 fingerprint differs, 7 no usable device, 8 verification failed, 9 out of
    space, 75 drained on a signal (run again).
    """


def main() -> None:
    """Entry point: errors meant for the user become one line on stderr and their exit code."""
    try:
        code = group.main(standalone_mode=False)
    except McdiffError as error:
        click.echo(f"error: {printable(str(error))}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        extras = "pip install 'mcdiff-batch[train,evaluate]'"
        click.echo(
            f"error: this command needs {error.name}, not installed here: {extras}", err=True
        )
        sys.exit(Exit.USAGE)
    except click.Abort:
        sys.exit(Exit.DRAINED)
    sys.exit(code if isinstance(code, int) else 0)
