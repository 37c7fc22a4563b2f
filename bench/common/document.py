"""The JSON document that a measurement ends with, and where it may be written."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click


class NewPath(click.Path):
    """An option's file or folder to write; UsageError if it lies in an archive or a run."""

    def __init__(self, *, folder: bool = False) -> None:
        super().__init__(file_okay=not folder, dir_okay=folder, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        from mcdiff_batch.engine.output.places import check_outside

        path = Path(str(super().convert(value, param, ctx)))
        check_outside(path, f"choose another {param.opts[0] if param else 'place'}")
        return path


def publish(document: Mapping[str, Any], output: Path | None) -> None:
    """Writes the document to `output`, and prints it on one line, the last of stdout.

    A terminal gets a hint in its place: nobody reads a screen full of JSON.
    """
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(document, indent=1) + "\n")
    if not sys.stdout.isatty():
        click.echo(json.dumps(document))
    elif output is None:
        click.echo("as JSON: the same command with --output FILE, or in a pipe")
