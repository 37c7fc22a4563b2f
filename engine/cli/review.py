"""The command `review`."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mcdiff_batch.engine.errors import ArchiveError, Exit, UsageError, explain
from mcdiff_batch.engine.text import make_printable, pluralise

from . import options
from .output import open_input

if TYPE_CHECKING:
    from mcdiff_batch.engine.archive.archive import Archive

NAME = 64  # characters of a reviewer's name
REDIRECT = (
    '<!doctype html><meta charset="utf-8"><meta name="referrer" content="no-referrer">'
    '<meta http-equiv="refresh" content="0;url={}"><title>mcdiff-batch review</title>'
)


@click.command()
@click.argument("output", type=options.PATH)
@click.option(
    "--input",
    "archive",
    type=options.PATH,
    help="Archive of the run (default: archive.zarr beside archive.enhanced).",
)
@click.option(
    "--reviewer",
    metavar="NAME",
    default="",
    help="Name or code that is stored with each verdict (default: none is stored).",
)
@click.option(
    "--blind",
    is_flag=True,
    help="Compare left and right without knowing which one is enhanced; needs --reviewer.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of the random sides and order in blind comparisons.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Port of the page (default: any free one).",
)
@click.option("--open", "open_browser", is_flag=True, help="Open the page in a browser.")
@options.show_ids
@click.option(
    "--export",
    "kind",
    type=click.Choice(["csv"]),
    help="Print the verdicts as a table instead of showing the page.",
)
@click.option(
    "--to", "file", type=options.PATH, help="File for --export (default: standard output)."
)
def review(
    output: Path,
    archive: Path | None,
    reviewer: str,
    blind: bool,
    seed: int,
    port: int,
    open_browser: bool,
    show_ids: bool,
    kind: str | None,
    file: Path | None,
) -> int:
    """Accept or reject results in a browser, by keyboard.

    Serves a page to this machine only, at an address with a secret; Ctrl-C ends it.  Verdicts are
    stored in OUTPUT/review/verdicts.jsonl.  The run may continue meanwhile.  To look from another
    computer, call there `ssh -L PORT:127.0.0.1:PORT HOST`, with the port of the address.
    """
    from mcdiff_batch.engine.output.places import find_run

    find_run(output)
    opened = _open_archive(output, archive)
    if show_ids and opened is None:
        raise UsageError("--show-ids: the archive of the run is not found; name it with --input")
    if kind is not None:
        return _export(output, opened if show_ids else None, file)
    if file is not None:
        raise UsageError("--to needs --export csv")
    if blind and not reviewer.strip():
        raise UsageError("--blind needs --reviewer NAME, so that each reader's answers stay apart")
    if len(reviewer) > NAME:
        raise UsageError(f"--reviewer: has {len(reviewer)} characters, expected {NAME} at most")
    from mcdiff_batch.engine.output import verdicts
    from mcdiff_batch.engine.review.server import Server
    from mcdiff_batch.engine.review.session import Session

    verdicts.check_writable(output)
    session = Session(
        out=output,
        archive=opened,
        reviewer=make_printable(reviewer.strip()),
        blind=blind,
        seed=seed,
        show_ids=show_ids,
    )
    with Server(session, port) as server, _redirect(server.url) if open_browser else nullcontext():
        click.echo(f"{server.url}\nCtrl-C ends the review.")
        with suppress(KeyboardInterrupt):
            server.serve_forever()
    if session.stored:
        click.echo(f"{pluralise(session.stored, 'line')} added to {output / verdicts.FILE}")
    return Exit.DONE


def _open_archive(output: Path, named: Path | None) -> "Archive | None":
    """The archive of a run if it is found.  Raises UsageError if `named` is another one."""
    from mcdiff_batch.engine.archive.archive import open_archive
    from mcdiff_batch.engine.output import runs
    from mcdiff_batch.engine.output.places import default_archive

    if named is not None:
        return open_input(output, named)
    try:
        opened = open_archive(default_archive(output))
    except ArchiveError:
        return None  # the page says that it is gone
    same = opened.identity == runs.load_existing(output).settings.archive
    return opened if same else None  # the page says that it has changed


def _export(output: Path, ids: "Archive | None", file: Path | None) -> int:
    from mcdiff_batch.engine.output.places import check_outside
    from mcdiff_batch.engine.review.table import write_table

    text = write_table(output, ids, lambda x: click.echo(f"warning: {make_printable(x)}", err=True))
    if file is None:
        click.echo(text, nl=False)
        return Exit.DONE
    check_outside(file, "choose another --to")
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise explain(error, file) from error
    click.echo(file)
    return Exit.DONE


@contextmanager
def _redirect(url: str) -> Iterator[None]:
    """Opens `url` in a browser without naming it in the browser's arguments, which all users of a
    machine can see: it gets a file that only its owner can read."""
    import tempfile
    import threading
    import webbrowser

    with tempfile.TemporaryDirectory(prefix="mcdiff-review-") as folder:
        page = Path(folder) / "open.html"
        page.write_text(REDIRECT.format(url))
        # a browser of the terminal would keep this thread from serving the page
        threading.Thread(target=webbrowser.open, args=[page.as_uri()], daemon=True).start()
        yield
