"""`check` audits an archive without a model; `import` makes one of images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mcdiff_batch.engine.errors import Exit
from mcdiff_batch.engine.text import printable

if TYPE_CHECKING:
    from mcdiff_batch.engine.archive.archive import Archive
    from mcdiff_batch.engine.archive.audit import Audit, Problem

SHOWN = 20  # problems listed on a terminal
ID_LENGTH = 80  # characters of a case id on a terminal


@click.command()
@click.argument("archive", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="print one JSON document instead")
@click.option("--show-ids", is_flag=True, help="name cases by their id too, not by index alone")
def check(archive: Path, as_json: bool, show_ids: bool) -> int:
    """Audit an input archive: every case is read, nothing is written, no model is needed.

    Exit codes: 0 all cases usable, 3 some are not, 4 the archive cannot be used at all.
    """
    from mcdiff_batch.engine.archive.archive import open_archive
    from mcdiff_batch.engine.archive.audit import audit

    opened = open_archive(archive)
    found = audit(opened)
    ids = opened if show_ids else None
    click.echo(_document(found, ids) if as_json else _summary(found, ids))
    return Exit.FAILED_CASES if found.problems else Exit.DONE


def _document(found: Audit, ids: Archive | None) -> str:
    document = found.as_dict()
    for problem in document["problems"]:
        if ids is not None:
            problem["id"] = ids.key(problem["index"])
    return json.dumps(document)


def _summary(found: Audit, ids: Archive | None) -> str:
    lines = [
        f"{found.cases} cases of {found.depths} depths, {found.dtype}, {_sizes(found)}",
        f"intensities {found.intensity_range[0]:g} to {found.intensity_range[1]:g}, "
        f"codec {found.codec}",
        *(f"warning: {x}" for x in found.warnings),
        *(_line(x, ids) for x in found.problems[:SHOWN]),
    ]
    if len(found.problems) > SHOWN:
        lines.append(f"... and {len(found.problems) - SHOWN} more; --json lists them all")
    lines.append(f"{found.cases - len(found.problems)} usable, {len(found.problems)} not")
    return printable("\n".join(lines))


def _sizes(found: Audit) -> str:
    low, high = ("{} x {}".format(*x) for x in (found.smallest, found.largest))
    return f"{low} px (y, x)" if low == high else f"{low} to {high} px (y, x)"


def _line(problem: Problem, ids: Archive | None) -> str:
    name = "" if ids is None else f" ({_shown(ids.key(problem.index))})"
    return f"case {problem.index}{name}: {problem.reason}: {problem.detail}"


def _shown(key: str) -> str:
    """A case id on one line of a terminal."""
    cut = key if len(key) <= ID_LENGTH else key[:ID_LENGTH] + "..."
    return printable(cut).replace("\n", "\\n")


@click.command("import")
@click.argument("sources", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path), help="new zarr archive")
@click.option(
    "--pixel-spacing",
    type=click.FloatRange(min=0, min_open=True, max=100),
    help="mm per px of the images; without it angles are unknown",
)
@click.option(
    "--depths",
    type=click.IntRange(1, 64),
    help="depths of each case, those it lacks marked absent  [default: the most found]",
)
def import_(
    sources: tuple[Path, ...], output: Path, pixel_spacing: float | None, depths: int | None
) -> int:
    """Make an archive of PNG or TIFF depth images, 8 or 16 bit grey.

    A source is an image (a case of one depth), a folder with the images of one case, shallow to
    deep in natural order, or a folder of such folders.  File and folder names become case ids.
    """
    from mcdiff_batch.engine.archive.importer import import_images

    made = import_images(sources, output, spacing_mm=pixel_spacing, depths=depths)
    height, width = made.grid
    click.echo(
        f"{len(made.scans)} cases of {made.depths} depths, {made.dtype}, "
        f"up to {height} x {width} px (y, x)"
    )
    return Exit.DONE
