"""The JSON document that a measurement ends with."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click


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
